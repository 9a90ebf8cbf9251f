//! Guest program: as root, takes the virtio-fs device away from the guest's kernel and speaks to the host's file
//! server directly, with names and node ids no kernel would send.
//!
//! Usage: `escape_probe --read-write N… --read-only N… [--canary /HOST/PATH]…` where N are the indices of shares
//! (`/shares/N` of the synthetic tree) and each canary is a file that exists on the host outside all shares.
//! It destroys the guest's root file system device, so nothing else can be read from shares afterwards; it
//! therefore locks itself and fills the page cache of PID 1 first. Must be linked statically and run as root.
//!
//! Prints one line `escape: operations=N names=M requests=K unanswered=U answered_ok=0 host_bytes=0`, before it one
//! line for each success, on stdout and in the kernel log. Exits 0 if everything was refused, 1 if something
//! succeeded, 2 if the probe itself did not work (then nothing is proven).

mod attacks;
mod device;
mod fuse;
mod requests;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

/// What the probe is told about the guest's shares and the host.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    read_write: Vec<u32>,
    read_only: Vec<u32>,
    canaries: Vec<Vec<u8>>,
}

fn main() -> ExitCode {
    let outcome = Targets::parse(std::env::args_os().skip(1)).and_then(|targets| probe(&targets));
    match outcome {
        Ok(tally) => {
            for success in &tally.successes {
                report(&format!("escape: SUCCESS {success}"));
            }
            report(&tally.to_string());
            ExitCode::from(u8::from(!tally.successes.is_empty()))
        }
        Err(error) => {
            report(&format!("escape: probe did not work: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn probe(targets: &Targets) -> Result<attacks::Tally> {
    let device = device::Device::take_over()?;
    attacks::Attack::begin(fuse::Connection::new(device), targets)?.run()
}

/// Writes a line where it can still be seen: stdout leads to PID 1, the kernel log to the console.
fn report(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
    if let Ok(mut log) = fs_err::OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = log.write_all(line.as_bytes());
    }
}

impl Targets {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut targets = Self::default();
        while let Some(argument) = arguments.next() {
            let value = arguments.next().context("an option lacks its value")?;
            let index = || -> Result<u32> {
                let text = value.to_str().context("no number")?;
                Ok(text.parse()?)
            };
            match argument.to_str() {
                Some("--read-write") => targets.read_write.push(index()?),
                Some("--read-only") => targets.read_only.push(index()?),
                Some("--canary") => targets.canaries.push(value.into_vec()),
                _ => bail!("unknown option {argument:?}"),
            }
        }
        if targets.read_write.is_empty() && targets.read_only.is_empty() {
            bail!("no share to attack");
        }
        Ok(targets)
    }
}
