//! The cases in the emulated host. When the emulator loses a processor ([`Attempt::Stalled`]), the cases that were not
//! finished run in a new one; a case that ended keeps its verdict, and no case is run again because it failed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{BootArguments, Stage};
use crate::lab::{self, Attempt, Ending, LabArguments, MAX_HOSTS, Programs};
use crate::shell;
use crate::tee::Tee;
use crate::totals::Totals;

/// How long all cases may take in one emulated host, in seconds.
const TIMEOUT_SECONDS: u64 = 1800;

/// The cases' runner in the emulated host. The store goes to a place the user may write to. $1…: names of cases.
const SCRIPT: &str = r#"set -u
cp -r /files/boot/store /home/user/boot-store
chown -R user:user /home/user/boot-store
export AGENT_VM_BOOT_TESTS=1 AGENT_VM_BOOT_STORE=/home/user/boot-store
export AGENT_VM_BOOT_HELPERS=/files/boot/helpers AGENT_VM_BOOT_IMAGE="$(cat /files/boot/image)"
status=0
for case in /files/boot/cases/*; do
    "$case" --test-threads=1 --nocapture --color=never --exact "$@" || status=1
done
exit $status
"#;

/// Runs the cases the arguments choose; gives their totals and whether all went well.
///
/// # Errors
/// When the cases cannot be listed, the lab cannot be made, or too many emulated hosts were lost.
pub(super) fn run(
    stage: &Stage,
    programs: &Programs,
    arguments: &BootArguments,
) -> Result<(Totals, bool)> {
    let mut left = listed(&stage.directory.join("cases"), &arguments.filters)?;
    let mut totals = Totals::default();
    if left.is_empty() {
        return Ok((totals, true));
    }
    for _ in 0..MAX_HOSTS {
        let quoted: Vec<_> = left.iter().map(|name| shell::quote(name)).collect();
        let lab = LabArguments {
            smp: 2,
            files: vec![stage.directory.clone()],
            timeout: TIMEOUT_SECONDS,
            root: true,
            script: vec![format!("set -- {}\n{SCRIPT}", quoted.join(" "))],
            ..LabArguments::default()
        };
        let mut said = Tee::new(std::io::stdout());
        match lab::attempt(&lab, programs, &mut said)? {
            Attempt::Ended(Ending::Exited { status, .. }) => {
                totals += Totals::from_libtest(&said.text());
                return Ok((totals, status == 0));
            }
            Attempt::Ended(Ending::TimedOut) => {
                bail!("boot: the cases did not end within {TIMEOUT_SECONDS} s")
            }
            Attempt::Stalled { processor } => {
                let text = said.text();
                let verdicts = verdicts(&text);
                left.retain(|name| !verdicts.iter().any(|(ended, _)| ended == name));
                for (_, passed) in &verdicts {
                    totals.passed += u32::from(*passed);
                    totals.failed += u32::from(!*passed);
                }
                println!(
                    "\nboot: the emulator lost processor {processor} of the emulated host; {} cases that were not \
                     finished run in a new one",
                    left.len()
                );
            }
        }
    }
    bail!("boot: {MAX_HOSTS} emulated hosts were lost")
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

/// Cases that ended, in what libtest printed with one thread: what stands between a case's line and the next ends
/// with its verdict, whatever the case printed in between.
fn verdicts(text: &str) -> Vec<(&str, bool)> {
    let mut parts = text
        .split("test ")
        .filter_map(|part| part.split_once(" ... "));
    let mut ended = Vec::new();
    for (name, said) in &mut parts {
        match said.trim_end() {
            said if said.ends_with("ok") => ended.push((name, true)),
            said if said.ends_with("FAILED") => ended.push((name, false)),
            _ => {}
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_did_not_end_has_no_verdict() {
        let text = "\nrunning 4 tests\ntest a::one ... ok\ntest a::two ... it said this\nok\n\
            test b::bad ... thread panicked\nFAILED\ntest b::stuck ... 12 tests done";
        assert_eq!(
            verdicts(text),
            [("a::one", true), ("a::two", true), ("b::bad", false)]
        );
    }
}
