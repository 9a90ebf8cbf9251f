//! One run of a program, measured by GNU time: wall, processor time of it and all its children, bytes it had the file system write,
//! the most memory one process held.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::shell;

/// What GNU time is asked for: elapsed, user and system seconds, 512-byte blocks of output, peak in KiB.
const FORMAT: &str = "%e %U %S %O %M";

/// What a run cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    pub(super) wall_seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) written_bytes: f64,
    pub(super) peak_bytes: f64,
}

/// Runs `command` to its end; its output goes to `log`.
///
/// # Errors
/// When it does not end with status 0: the error ends with the log.
pub(super) fn run(command: &Command, log: &Path) -> Result<Cost> {
    let report = log.with_extension("time");
    let mut timed = shell::tool("time");
    timed
        .args(["--format", FORMAT, "--output"])
        .arg(&report)
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => timed.env(name, value),
            None => timed.env_remove(name),
        };
    }
    let output = fs_err::File::create(log)?;
    let status = timed
        .stdin(Stdio::null())
        .stdout(output.file().try_clone()?)
        .stderr(output.into_file())
        .status()
        .context("cannot start GNU time")?;
    ensure!(
        status.success(),
        "{:?} ended with {status}:\n{}",
        command.get_program(),
        String::from_utf8_lossy(&fs_err::read(log)?).trim_end()
    );
    parse(&fs_err::read_to_string(report)?)
}

fn parse(report: &str) -> Result<Cost> {
    let figures: Vec<f64> = report
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("GNU time says {report:?}"))?;
    let [wall_seconds, user, system, blocks, kibibytes] = figures[..] else {
        anyhow::bail!("GNU time says {report:?}");
    };
    Ok(Cost {
        wall_seconds,
        cpu_seconds: user + system,
        written_bytes: blocks * 512.0,
        peak_bytes: kibibytes * 1024.0,
    })
}

/// Bytes a directory takes on disk, each file counted once whatever its names.
///
/// # Errors
/// When it cannot be read.
pub(super) fn allocated(path: &Path) -> Result<f64> {
    let printed = shell::output(
        Command::new("du")
            .args(["--summarize", "--block-size=1"])
            .arg(path),
    )?;
    let figure = printed
        .split_whitespace()
        .next()
        .context("du printed nothing")?;
    Ok(figure.parse()?)
}

/// The median; the mean of the middle two of an even number.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_of_gnu_time_is_read() {
        let cost = parse("1.50 0.75 0.25 2048 1024\n").unwrap();
        assert_eq!(
            cost,
            Cost {
                wall_seconds: 1.5,
                cpu_seconds: 1.0,
                written_bytes: 1048576.0,
                peak_bytes: 1048576.0
            }
        );
        assert!(parse("Command exited with non-zero status 1\n1 2 3 4 5").is_err());
    }

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }
}
