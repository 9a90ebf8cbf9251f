//! The cases in the emulated host. QEMU's emulation of SVM breaks a host or a guest now and then (it can deliver an
//! injected interrupt twice), and this is told apart from a defect of ours by repetition, which is always said: when the
//! host is lost ([`Attempt::Lost`]), the cases that were not finished run in a new one, and a case that failed has one
//! more try in a new one. A case fails for good at its second failure, or with the third host lost while it ran.

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

/// At which failure a case has failed for good.
const MAX_FAILURES: u32 = 2;

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
        let attempt = lab::attempt(&lab, programs, &mut said)?;
        let text = said.text();
        println!();
        match attempt {
            Attempt::Ended(Ending::Exited { .. }) => {}
            Attempt::Ended(Ending::TimedOut) => {
                bail!("boot: the cases did not end within {TIMEOUT_SECONDS} s")
            }
            Attempt::Lost(loss) => println!("boot: the emulated host is lost: {loss}"),
        }
        for line in cases.take_over(&text) {
            println!("boot: {line}");
        }
    }
    bail!("boot: {MAX_HOSTS} emulated hosts were not enough")
}

/// What became of the cases so far.
#[derive(Debug, Default)]
struct Cases {
    left: Vec<String>,
    totals: Totals,
    /// How often a case failed.
    failures: BTreeMap<String, u32>,
    /// How many hosts ended while a case ran.
    losses: BTreeMap<String, u32>,
}

impl Cases {
    /// Takes over the verdicts from what a host printed; says what happens to cases that did not pass.
    fn take_over(&mut self, text: &str) -> Vec<String> {
        let mut said = Vec::new();
        for (name, verdict) in verdicts(text) {
            let last = match verdict {
                Verdict::Passed => {
                    self.totals.passed += 1;
                    if self.failures.contains_key(name) {
                        said.push(format!("{name} passed at its second try"));
                    }
                    true
                }
                Verdict::Ignored => {
                    self.totals.skipped += 1;
                    true
                }
                Verdict::Failed => {
                    let failures = count(&mut self.failures, name);
                    self.totals.failed += u32::from(failures == MAX_FAILURES);
                    if failures < MAX_FAILURES {
                        said.push(format!("{name} FAILED and has one more try in a new host"));
                    }
                    failures == MAX_FAILURES
                }
            };
            if last {
                self.left.retain(|left| left != name);
            }
        }
        if let Some(running) = running(text, &self.left)
            && count(&mut self.losses, &running) == MAX_LOSSES
        {
            said.push(format!(
                "{running} FAILED: {MAX_LOSSES} emulated hosts were lost while it ran"
            ));
            self.left.retain(|left| *left != running);
            self.totals.failed += 1;
        }
        if !self.left.is_empty() {
            said.push(format!("{} cases run in a new host", self.left.len()));
        }
        said
    }
}

/// Counts one more for a name.
fn count(numbers: &mut BTreeMap<String, u32>, name: &str) -> u32 {
    let number = numbers.entry(name.to_owned()).or_default();
    *number += 1;
    *number
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

/// What libtest says of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Ignored,
}

/// What stands in libtest's output, with one thread, after each `test NAME ... `: it ends with the verdict, whatever
/// the case printed in between.
fn begun(text: &str) -> impl Iterator<Item = (&str, Option<Verdict>)> {
    let parts = text
        .split("test ")
        .filter_map(|part| part.split_once(" ... "));
    parts.map(|(name, said)| {
        // After the last case libtest goes on to list the failures.
        let said = said.split("\nfailures:").next().unwrap_or(said);
        let said = said
            .split("\ntest result:")
            .next()
            .unwrap_or(said)
            .trim_end();
        let verdict = match said {
            said if said.ends_with("ok") => Some(Verdict::Passed),
            said if said.ends_with("FAILED") => Some(Verdict::Failed),
            said if said.ends_with("ignored") => Some(Verdict::Ignored),
            _ => None,
        };
        (name, verdict)
    })
}

/// Cases that ended.
fn verdicts(text: &str) -> Vec<(&str, Verdict)> {
    let ended = |(name, verdict): (_, Option<Verdict>)| verdict.map(|verdict| (name, verdict));
    begun(text).filter_map(ended).collect()
}

/// The case of those `left` that began and has no verdict.
fn running(text: &str, left: &[String]) -> Option<String> {
    let (name, verdict) = begun(text)
        .filter(|(name, _)| left.iter().any(|left| left == name))
        .last()?;
    verdict.is_none().then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases() -> Cases {
        Cases {
            left: ["a::one", "a::two", "b::three"].map(str::to_owned).to_vec(),
            ..Cases::default()
        }
    }

    #[test]
    fn a_case_that_did_not_end_has_no_verdict() {
        let text = "\nrunning 5 tests\ntest a::one ... ok\ntest a::two ... it said this\nok\ntest a::off ... ignored\n\
            test b::bad ... thread panicked\nFAILED\ntest b::stuck ... 12 tests done";
        let expected = [
            ("a::one", Verdict::Passed),
            ("a::two", Verdict::Passed),
            ("a::off", Verdict::Ignored),
            ("b::bad", Verdict::Failed),
        ];
        assert_eq!(verdicts(text), expected);
        assert_eq!(
            running(text, &["b::stuck".to_owned()]).as_deref(),
            Some("b::stuck")
        );
        let ended = "test a::one ... ok\ntest b::three ... FAILED\n\nfailures:\n\nfailures:\n    b::three\n\n\
            test result: FAILED. 1 passed; 1 failed";
        assert_eq!(
            verdicts(ended),
            [("a::one", Verdict::Passed), ("b::three", Verdict::Failed)]
        );
        assert_eq!(
            verdicts("test a::one ... ok\n\ntest result: ok. 1 passed"),
            [("a::one", Verdict::Passed)]
        );
    }

    #[test]
    fn cases_that_run_one_by_one_are_told_apart() {
        let one = |name: &str, verdict: &str| {
            format!(
                "\nrunning 1 test\ntest {name} ... {verdict}\n\ntest result: {verdict}. 1 passed; 0 failed; \
                 0 ignored; 0 measured; 53 filtered out; finished in 7.77s\n\n"
            )
        };
        let text = one("a::one", "ok") + &one("a::two", "ok") + &one("b::three", "FAILED");
        let expected = [
            ("a::one", Verdict::Passed),
            ("a::two", Verdict::Passed),
            ("b::three", Verdict::Failed),
        ];
        assert_eq!(verdicts(&text), expected);
    }

    #[test]
    fn a_case_fails_with_the_third_host_lost_while_it_ran_and_no_other_does() {
        let mut cases = cases();
        cases.take_over("the kernel died before the cases");
        assert_eq!(cases.left.len(), 3);
        cases.take_over("test a::one ... ok\ntest a::two ... starting");
        assert_eq!(cases.left, ["a::two", "b::three"]);
        cases.take_over("test a::two ... ");
        assert_eq!((cases.totals.failed, cases.left.len()), (0, 2));
        let said = cases.take_over("test a::two ... ");
        assert!(said[0].contains("a::two FAILED"), "{said:?}");
        assert_eq!(cases.left, ["b::three"]);
        assert_eq!((cases.totals.passed, cases.totals.failed), (1, 1));
    }

    #[test]
    fn a_case_that_failed_has_one_more_try_and_it_is_said() {
        let mut cases = cases();
        let all =
            "test a::one ... FAILED\ntest a::two ... FAILED\ntest b::three ... ok\n\nfailures:\n";
        let said = cases.take_over(all);
        assert_eq!(said.len(), 3, "{said:?}");
        assert_eq!(cases.left, ["a::one", "a::two"]);
        assert_eq!((cases.totals.passed, cases.totals.failed), (1, 0));
        let said = cases.take_over("test a::one ... ok\ntest a::two ... FAILED\n");
        assert_eq!(said, ["a::one passed at its second try"]);
        assert!(cases.left.is_empty());
        assert_eq!((cases.totals.passed, cases.totals.failed), (2, 1));
    }
}
