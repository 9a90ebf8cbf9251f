//! The cases in emulated hosts: one for each processor of this machine, side by side, each with one processor of its own
//! and a few cases; then the next. QEMU's emulation of SVM breaks a host or a guest now and then (it can deliver an injected
//! interrupt twice), and this is told apart from a defect of ours by repetition in a new host, which is always said
//! ([`super::lab_cases`]).

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use super::lab_cases::Cases;
use super::progress::Progress;
use super::{BootArguments, Ran, Stage};
use crate::lab::{self, Attempt, Ending, LabArguments, Programs};
use crate::shell;
use crate::tee::Tee;

/// How long the cases of one emulated host may take, in seconds.
const TIMEOUT_SECONDS: u64 = 1800;

/// How many emulated hosts run side by side, at most; each takes some GiB of memory.
const MAX_SIDE_BY_SIDE: usize = 4;

/// The cases' runner in the emulated host. The store goes to a place the user may write to. $1…: names of cases. Ends
/// with the first that fails: what broke a guest can have left a processor of the host busy for ever, and then all that
/// comes after it fails too.
const SCRIPT: &str = r#"set -u
cp -r /files/boot/store /home/user/boot-store
chown -R user:user /home/user/boot-store
export AGENT_VM_BOOT_TESTS=1 AGENT_VM_BOOT_STORE=/home/user/boot-store
export AGENT_VM_BOOT_HELPERS=/files/boot/helpers AGENT_VM_BOOT_IMAGE="$(cat /files/boot/image)"
for name in "$@"; do
    for case in /files/boot/cases/*; do
        "$case" --test-threads=1 --nocapture --color=never --exact "$name" || exit 1
    done
done
"#;

/// Runs the cases the arguments choose and gives what became of them.
///
/// # Errors
/// When the cases cannot be listed, the lab cannot be made, or too many emulated hosts were lost.
pub(super) fn run(stage: &Stage, programs: &Programs, arguments: &BootArguments) -> Result<Ran> {
    let listed = listed(&stage.directory.join("cases"), &arguments.filters)?;
    let cases = Mutex::new(Cases::new(listed));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let hosts = (0..processors.min(MAX_SIDE_BY_SIDE))
            .map(|_| scope.spawn(|| hosts_in_turn(&cases, stage, programs)));
        let hosts: Vec<_> = hosts.collect();
        hosts
            .into_iter()
            .try_for_each(|host| host.join().expect("a host's thread does not panic"))
    })?;
    let cases = cases.into_inner();
    Ok(cases.unwrap_or_else(PoisonError::into_inner).ran)
}

/// Boots one emulated host after the other until no case is left.
fn hosts_in_turn(cases: &Mutex<Cases>, stage: &Stage, programs: &Programs) -> Result<()> {
    let cases = || cases.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let next = cases().next_host()?;
        if next.is_empty() {
            return Ok(());
        }
        // What ends this ends all.
        let text = host(&next, stage, programs).inspect_err(|_| cases().abandon())?;
        for line in cases().take_over(next, &text) {
            println!("boot: {line}");
        }
    }
}

/// Runs these cases in an emulated host; gives what they printed.
fn host(names: &[String], stage: &Stage, programs: &Programs) -> Result<String> {
    let quoted: Vec<_> = names.iter().map(|name| shell::quote(name)).collect();
    let lab = LabArguments {
        files: vec![stage.directory.clone()],
        timeout: TIMEOUT_SECONDS,
        root: true,
        script: vec![format!("set -- {}\n{SCRIPT}", quoted.join(" "))],
        ..LabArguments::default()
    };
    let mut said = Tee::new(Progress::new(std::io::stdout()));
    let attempt = lab::attempt(&lab, programs, &mut said)?;
    said.passes_to().finish()?;
    match attempt {
        Attempt::Ended(Ending::Exited { .. }) => {}
        Attempt::Ended(Ending::TimedOut) => {
            bail!("boot: the cases of a host did not end within {TIMEOUT_SECONDS} s")
        }
        Attempt::Lost(loss) => println!("boot: the emulated host is lost: {loss}"),
    }
    Ok(said.text())
}

/// The names of the chosen cases; the binaries run here as well as there.
fn listed(cases: &Path, filters: &[String]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for case in fs_err::read_dir(cases)? {
        let mut list = Command::new(case?.path());
        list.args(["--list", "--format=terse"]).args(filters);
        let text = shell::output(&mut list).context("cannot list the cases")?;
        let tests = text.lines().filter_map(|line| line.strip_suffix(": test"));
        names.extend(tests.map(str::to_owned));
    }
    Ok(names)
}
