//! What the kernel says of a process that is being measured.

use anyhow::{Context as _, Result};

/// Processor time it has used so far, in seconds.
pub(super) fn cpu_seconds(id: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in fs_err::read_dir(format!("/proc/{id}/task"))? {
        let times = fs_err::read_to_string(task?.path().join("schedstat"))?;
        let first = times.split(' ').next().context("schedstat is empty")?;
        nanoseconds += first.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

/// Memory it has in use, in bytes.
pub(super) fn resident_bytes(id: u32) -> Result<f64> {
    memory(id, "VmRSS:")
}

/// The most memory it had in use since it began, or since [`forget_peak`], in bytes.
pub(super) fn peak_bytes(id: u32) -> Result<f64> {
    memory(id, "VmHWM:")
}

/// Begins the peak again (proc(5), `clear_refs`).
pub(super) fn forget_peak(id: u32) -> Result<()> {
    Ok(fs_err::write(format!("/proc/{id}/clear_refs"), "5")?)
}

fn memory(id: u32, field: &str) -> Result<f64> {
    let status = fs_err::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line
        .and_then(|line| line.split_whitespace().next())
        .with_context(|| format!("no {field}"))?;
    Ok(kibibytes.parse::<f64>()? * 1024.0)
}
