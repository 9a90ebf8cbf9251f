//! Whether guests run here. Only starting one tells: a device node that opens, even one that makes virtual machines,
//! may still not run an ordinary guest kernel.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How long a tiny guest may take; one that works needs milliseconds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts a tiny guest by `agent-vm __kvm-probe`: `Ok` with its word, or why none runs.
///
/// # Errors
/// When the probe cannot be started.
pub(crate) fn probe(agent_vm: &Path) -> Result<Result<String, String>> {
    let mut child = Command::new(agent_vm)
        .arg("__kvm-probe")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", agent_vm.display()))?;
    let deadline = Instant::now() + PROBE_TIMEOUT;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(Err(format!("no tiny guest within {PROBE_TIMEOUT:?}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output()?;
    let mut said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if said.is_empty() {
        said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    Ok(if output.status.success() {
        Ok(said)
    } else {
        Err(said)
    })
}
