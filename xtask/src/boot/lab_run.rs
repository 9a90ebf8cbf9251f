//! The cases in the emulated host. When that host is lost ([`Attempt::Lost`]), the cases that were not finished run in
//! a new one; a case that ended keeps its verdict, and no case is run again because it failed. A case that was running
//! each time several hosts were lost has failed: then it is not the emulator's chance.

use std::collections::BTreeMap;
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

/// With how many lost hosts a case has failed.
const MAX_LOSSES: u32 = 3;

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
    let mut cases = Cases {
        left: listed(&stage.directory.join("cases"), &arguments.filters)?,
        ..Cases::default()
    };
    for _ in 0..MAX_HOSTS {
        if cases.left.is_empty() {
            return Ok((cases.totals, cases.totals.failed == 0));
        }
        let quoted: Vec<_> = cases.left.iter().map(|name| shell::quote(name)).collect();
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
                cases.totals += Totals::from_libtest(&said.text());
                return Ok((cases.totals, status == 0));
            }
            Attempt::Ended(Ending::TimedOut) => {
                bail!("boot: the cases did not end within {TIMEOUT_SECONDS} s")
            }
            Attempt::Lost(loss) => {
                let given_up = cases.host_lost(&said.text());
                println!("\nboot: the emulated host is lost: {loss}");
                if let Some(case) = given_up {
                    println!(
                        "boot: {case} FAILED: {MAX_LOSSES} emulated hosts were lost while it ran"
                    );
                }
                println!(
                    "boot: {} cases that were not finished run in a new one",
                    cases.left.len()
                );
            }
        }
    }
    bail!("boot: {MAX_HOSTS} emulated hosts were lost")
}

/// What became of the cases so far.
#[derive(Debug, Default)]
struct Cases {
    left: Vec<String>,
    totals: Totals,
    /// How many hosts were lost while a case ran.
    losses: BTreeMap<String, u32>,
}

impl Cases {
    /// Takes over the verdicts from what a lost host printed; names a case that has failed because of its losses.
    fn host_lost(&mut self, text: &str) -> Option<String> {
        for (name, passed) in verdicts(text) {
            self.left.retain(|left| left != name);
            self.totals.passed += u32::from(passed);
            self.totals.failed += u32::from(!passed);
        }
        let running = running(text, &self.left)?;
        let losses = self.losses.entry(running.clone()).or_default();
        *losses += 1;
        if *losses < MAX_LOSSES {
            return None;
        }
        self.left.retain(|left| *left != running);
        self.totals.failed += 1;
        Some(running)
    }
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

/// The last of the cases `left` that began.
fn running(text: &str, left: &[String]) -> Option<String> {
    let begun = text
        .split("test ")
        .filter_map(|part| part.split_once(" ... "));
    let names = begun.filter_map(|(name, _)| left.iter().find(|left| *left == name));
    names.last().cloned()
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

    #[test]
    fn a_case_fails_when_several_hosts_were_lost_while_it_ran_and_no_other_does() {
        let names = ["a::one", "a::two", "b::three"];
        let mut cases = Cases {
            left: names.map(str::to_owned).to_vec(),
            ..Cases::default()
        };
        assert_eq!(cases.host_lost("the kernel died before the cases"), None);
        let lost = "test a::one ... ok\ntest a::two ... starting";
        assert_eq!(cases.host_lost(lost), None);
        assert_eq!(cases.left, ["a::two", "b::three"]);
        for _ in 2..MAX_LOSSES {
            assert_eq!(cases.host_lost("test a::two ... "), None);
        }
        let failed = cases.host_lost("test a::two ... ");
        assert_eq!(failed.as_deref(), Some("a::two"));
        assert_eq!(cases.left, ["b::three"]);
        assert_eq!((cases.totals.passed, cases.totals.failed), (1, 1));
    }
}
