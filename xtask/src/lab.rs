//! `lab`: an emulated host that can run real guests, on any machine.
//!
//! QEMU without acceleration emulates AMD's SVM; in it a Debian kernel with KVM boots a small Debian userland and runs
//! one script as an unprivileged user with access to `/dev/kvm`, the release build of `agent-vm` on its `PATH` and
//! the guest kernel beside it. Two disks: the userland, made once and never written to (changes go to a scratch
//! overlay), and the run's own, mounted on `/usr/local`. Standard output, standard error, `/out` and the exit status
//! come back over ports of a virtual serial device, each into a file of the run.

mod base;
mod machine;
mod modules;
mod pulse;
mod run_disk;

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{build, setup, shell, vendor, workspace};

/// How much slower than a real machine the script must expect this one to be.
pub(crate) const TIMEOUT_SCALE: u32 = 20;

/// Memory of the emulated host unless asked otherwise; QEMU takes only what is used.
const DEFAULT_MEMORY: &str = "4G";

const DEFAULT_TIMEOUT_SECONDS: u64 = 900;

/// The exit status for a script that did not end in time, as of `timeout(1)`.
const TIMED_OUT: u8 = 124;

/// How many emulated hosts one run may lose to the emulator.
pub(crate) const MAX_HOSTS: usize = 16;

#[derive(Debug, Clone, Args)]
pub(crate) struct LabArguments {
    /// Processors of the emulated host.
    #[arg(long, default_value_t = 1)]
    pub(crate) smp: u8,
    /// Memory of the emulated host, as QEMU takes it.
    #[arg(long, default_value = DEFAULT_MEMORY)]
    pub(crate) mem: String,
    /// A directory that is readable at /files/NAME.
    #[arg(long, value_name = "DIR")]
    pub(crate) files: Vec<PathBuf>,
    /// Where the script's /out is copied to.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Deterministic time: one nanosecond per instruction, one processor.
    #[arg(long)]
    pub(crate) icount: bool,
    /// A feature the emulated processors lack, by QEMU's name (repeatable).
    #[arg(long, value_name = "FEATURE")]
    pub(crate) without: Vec<String>,
    /// Seconds after which the emulated host is ended, with status 124.
    #[arg(long, default_value_t = DEFAULT_TIMEOUT_SECONDS)]
    pub(crate) timeout: u64,
    /// Run the script as root.
    #[arg(long)]
    pub(crate) root: bool,
    /// Run without building agent-vm: the emulated host has none.
    #[arg(long)]
    pub(crate) bare: bool,
    /// Say on standard error how long the parts took.
    #[arg(long)]
    pub(crate) times: bool,
    /// The script, for sh.
    #[arg(last = true, required = true)]
    pub(crate) script: Vec<String>,
}

impl Default for LabArguments {
    fn default() -> Self {
        Self {
            smp: 1,
            mem: DEFAULT_MEMORY.to_owned(),
            files: Vec::new(),
            out: None,
            icount: false,
            without: Vec::new(),
            timeout: DEFAULT_TIMEOUT_SECONDS,
            root: false,
            bare: false,
            times: false,
            script: Vec::new(),
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The script ended with this status; `boot` is the time from power-on to its start, by the emulated clock.
    Exited { status: u8, boot: Duration },
    /// The script did not end in time.
    TimedOut,
}

/// What became of one emulated host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It did its work.
    Ended(Ending),
    /// It was lost before the script ended.
    Lost(Loss),
}

/// How an emulated host was lost: QEMU's emulation of SVM now and then breaks the state of a processor that runs a
/// guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing ran any more on this processor.
    Stalled { processor: u8 },
    /// Its kernel died; the end of what its console said.
    Died { console: String },
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stalled { processor } => {
                write!(f, "nothing runs any more on its processor {processor}")
            }
            Self::Died { console } => write!(f, "its kernel died; its console said\n{console}"),
        }
    }
}

/// The task: runs the script and takes over its status.
///
/// # Errors
/// When the lab cannot be made or the emulated host dies.
pub(crate) fn run(arguments: &LabArguments) -> Result<ExitCode> {
    setup::run()?;
    let programs = if arguments.bare {
        Programs::default()
    } else {
        Programs::build()
    };
    let timeout = arguments.timeout;
    match start(arguments, &programs, &mut std::io::stdout())? {
        Ending::Exited { status, .. } => Ok(ExitCode::from(status)),
        Ending::TimedOut => {
            eprintln!("lab: the script did not end within {timeout} s");
            Ok(ExitCode::from(TIMED_OUT))
        }
    }
}

/// Our own programs for the emulated host.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    /// `agent-vm`.
    pub(crate) agent_vm: Option<PathBuf>,
    /// The guest kernel library.
    pub(crate) kernel: Option<PathBuf>,
}

impl Programs {
    /// Builds and fetches; what cannot be had is missing there, and said here.
    fn build() -> Self {
        let note =
            |what: &str, error: &anyhow::Error| eprintln!("lab: no {what} inside: {error:#}");
        Self {
            agent_vm: build::agent_vm()
                .inspect_err(|error| note("agent-vm", error))
                .ok(),
            kernel: vendor::kernel()
                .inspect_err(|error| note("guest kernel", error))
                .ok(),
        }
    }
}

/// Boots the emulated host and waits for the script's end; what it prints goes to `stdout`. Needs [`setup::run`] first.
/// A host with a processor that the emulator lost is replaced: the script begins anew, and what it printed stays
/// printed. One whose kernel died is not, because the script may have been the cause.
///
/// # Errors
/// When the lab cannot be made, the emulated host dies before the script ends, or too many were lost.
pub(crate) fn start(
    arguments: &LabArguments,
    programs: &Programs,
    stdout: &mut dyn Write,
) -> Result<Ending> {
    for _ in 0..MAX_HOSTS {
        match attempt(arguments, programs, stdout)? {
            Attempt::Ended(ending) => return Ok(ending),
            Attempt::Lost(loss @ Loss::Stalled { .. }) => {
                eprintln!("lab: the emulated host is lost, {loss}; the script begins anew");
            }
            Attempt::Lost(loss) => bail!("the emulated host is lost: {loss}"),
        }
    }
    bail!("{MAX_HOSTS} emulated hosts were lost by the emulator")
}

/// [`start`] with one emulated host.
///
/// # Errors
/// When the lab cannot be made.
pub(crate) fn attempt(
    arguments: &LabArguments,
    programs: &Programs,
    stdout: &mut dyn Write,
) -> Result<Attempt> {
    if arguments.icount && arguments.smp != 1 {
        bail!("--icount needs one processor");
    }
    let clock = std::time::Instant::now();
    let cache = workspace::cache("lab");
    fs_err::create_dir_all(&cache)?;
    let base = base::prepare(&cache)?;
    remove_abandoned_runs(&cache)?;
    let directory = tempfile::Builder::new().prefix("run-").tempdir_in(&cache)?;
    fs_err::write(
        directory.path().join(OWNER_FILE),
        std::process::id().to_string(),
    )?;
    run_disk::make(directory.path(), arguments, programs)?;
    let prepared = clock.elapsed();
    let ending = match machine::run(&base, directory.path(), arguments, stdout)? {
        Attempt::Ended(ending) => ending,
        lost @ Attempt::Lost(_) => return Ok(lost),
    };
    if let (Some(out), Ending::Exited { .. }) = (&arguments.out, ending) {
        fs_err::create_dir_all(out)?;
        let mut tar = shell::tool("tar");
        tar.args(["--no-same-owner", "-xf"])
            .arg(directory.path().join("out"));
        shell::run(tar.arg("-C").arg(out)).context("cannot unpack /out")?;
    }
    if arguments.times
        && let Ending::Exited { boot, .. } = ending
    {
        let total = clock.elapsed();
        eprintln!("lab: prepared {prepared:.1?}, booted {boot:.1?}, all {total:.1?}");
    }
    Ok(Attempt::Ended(ending))
}

/// Removes what runs left that were killed: their process is gone.
fn remove_abandoned_runs(cache: &Path) -> Result<()> {
    for entry in fs_err::read_dir(cache)? {
        let path = entry?.path();
        let Ok(owner) = fs_err::read_to_string(path.join(OWNER_FILE)) else {
            continue;
        };
        if !Path::new("/proc").join(owner).exists() {
            fs_err::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// In the directory of a run: the process id of its owner.
const OWNER_FILE: &str = "owner";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_runs_whose_process_is_gone_and_no_others() {
        let cache = tempfile::tempdir().unwrap();
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        for (name, owner) in [("gone", ended.id()), ("live", std::process::id())] {
            fs_err::create_dir(cache.path().join(name)).unwrap();
            fs_err::write(cache.path().join(name).join(OWNER_FILE), owner.to_string()).unwrap();
        }
        fs_err::create_dir(cache.path().join("kernel")).unwrap();
        remove_abandoned_runs(cache.path()).unwrap();
        let left = |name: &str| cache.path().join(name).exists();
        assert_eq!(
            (left("gone"), left("live"), left("kernel")),
            (false, true, true)
        );
    }
}
