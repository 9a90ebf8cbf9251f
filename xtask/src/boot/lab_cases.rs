//! Which case runs in which emulated host, and what became of it. A case that did not pass, and one whose host was lost
//! while it ran, runs again in a new host; it fails for good at its second failure, or with the third host lost. All of
//! that is said.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::Ran;
use super::libtest::{Verdict, running, verdicts};

/// How many cases an emulated host gets: enough that its own start is small beside them, few enough that the hosts side by
/// side end at about the same time.
const CASES_PER_HOST: usize = 8;

/// How many hosts may end before all their cases have.
const MAX_BROKEN_HOSTS: usize = 16;

/// With how many lost hosts a case has failed.
const MAX_LOSSES: u32 = 3;

/// At which failure a case has failed for good.
const MAX_FAILURES: u32 = 2;

/// The cases so far.
#[derive(Debug, Default)]
pub(super) struct Cases {
    /// In no host.
    left: Vec<String>,
    pub(super) ran: Ran,
    broken_hosts: usize,
    /// How often a case failed.
    failures: BTreeMap<String, u32>,
    /// How many hosts ended while a case ran.
    losses: BTreeMap<String, u32>,
}

impl Cases {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self {
            left: names,
            ..Self::default()
        }
    }

    /// The cases for one more host; none when there is nothing left to do.
    ///
    /// # Errors
    /// When too many hosts were lost.
    pub(super) fn next_host(&mut self) -> Result<Vec<String>> {
        if self.broken_hosts > MAX_BROKEN_HOSTS && !self.left.is_empty() {
            self.abandon();
            bail!("boot: more than {MAX_BROKEN_HOSTS} emulated hosts did not come to their end");
        }
        let count = self.left.len().min(CASES_PER_HOST);
        Ok(self.left.drain(..count).collect())
    }

    /// No case runs any more.
    pub(super) fn abandon(&mut self) {
        self.left.clear();
    }

    /// Takes over the verdicts from what the host of these cases printed; says what happens to those that did not pass.
    pub(super) fn take_over(&mut self, mut given: Vec<String>, text: &str) -> Vec<String> {
        let mut said = Vec::new();
        for (name, verdict) in verdicts(text) {
            if self.is_over(name, verdict, &mut said) {
                given.retain(|given| given != name);
            }
        }
        if let Some(running) = running(text, &given)
            && count(&mut self.losses, &running) == MAX_LOSSES
        {
            said.push(format!(
                "{running} FAILED: {MAX_LOSSES} emulated hosts were lost while it ran"
            ));
            given.retain(|given| *given != running);
            self.ran.fail(&running);
        }
        if !given.is_empty() {
            said.push(format!("{} cases run in a new host", given.len()));
            self.broken_hosts += 1;
            // First: what has needed so long already must not be the last to end.
            self.left.splice(..0, given);
        }
        said
    }

    /// Counts a verdict; whether the case needs no other.
    fn is_over(&mut self, name: &str, verdict: Verdict, said: &mut Vec<String>) -> bool {
        match verdict {
            Verdict::Passed => {
                self.ran.totals.passed += 1;
                if self.failures.contains_key(name) {
                    said.push(format!("{name} passed at its second try"));
                }
                true
            }
            Verdict::Ignored => {
                self.ran.totals.skipped += 1;
                true
            }
            Verdict::Failed if count(&mut self.failures, name) == MAX_FAILURES => {
                said.push(format!("{name} FAILED at its second try"));
                self.ran.fail(name);
                true
            }
            Verdict::Failed => {
                said.push(format!(
                    "{name} did not pass and has one more try in a new host"
                ));
                false
            }
        }
    }
}

/// Counts one more for a name.
fn count(numbers: &mut BTreeMap<String, u32>, name: &str) -> u32 {
    let number = numbers.entry(name.to_owned()).or_default();
    *number += 1;
    *number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases() -> Cases {
        Cases::new(["a::one", "a::two", "b::three"].map(str::to_owned).to_vec())
    }

    /// One host with all that is left.
    fn host(cases: &mut Cases, text: &str) -> Vec<String> {
        let given = cases.next_host().unwrap();
        cases.take_over(given, text)
    }

    #[test]
    fn a_host_gets_some_cases_and_what_it_did_not_end_comes_first_in_the_next() {
        let names: Vec<_> = (0..20).map(|number| format!("a::{number:02}")).collect();
        let mut cases = Cases::new(names.clone());
        let given = cases.next_host().unwrap();
        assert_eq!(given, names[..CASES_PER_HOST]);
        cases.take_over(given, "test a::00 ... ok\ntest a::01 ... half");
        let given = cases.next_host().unwrap();
        assert_eq!(given, names[1..=CASES_PER_HOST]);
    }

    #[test]
    fn too_many_broken_hosts_end_it() {
        let mut cases = cases();
        for _ in 0..=MAX_BROKEN_HOSTS {
            let given = cases.next_host().unwrap();
            assert_eq!(given.len(), 3);
            cases.take_over(given, "the kernel died before the cases");
        }
        assert!(cases.next_host().is_err());
        assert!(cases.next_host().unwrap().is_empty());
    }

    #[test]
    fn a_case_fails_with_the_third_host_lost_while_it_ran_and_no_other_does() {
        let mut cases = cases();
        host(&mut cases, "the kernel died before the cases");
        assert_eq!(cases.left.len(), 3);
        host(&mut cases, "test a::one ... ok\ntest a::two ... starting");
        assert_eq!(cases.left, ["a::two", "b::three"]);
        host(&mut cases, "test a::two ... ");
        assert_eq!((cases.ran.totals.failed, cases.left.len()), (0, 2));
        let said = host(&mut cases, "test a::two ... ");
        assert!(said[0].contains("a::two FAILED"), "{said:?}");
        assert_eq!(cases.left, ["b::three"]);
        assert_eq!((cases.ran.totals.passed, cases.ran.totals.failed), (1, 1));
    }

    #[test]
    fn a_case_that_failed_has_one_more_try_and_it_is_said() {
        let mut cases = cases();
        let all =
            "test a::one ... FAILED\ntest a::two ... FAILED\ntest b::three ... ok\n\nfailures:\n";
        let said = host(&mut cases, all);
        assert_eq!(said.len(), 3, "{said:?}");
        assert_eq!(cases.left, ["a::one", "a::two"]);
        assert_eq!((cases.ran.totals.passed, cases.ran.totals.failed), (1, 0));
        let said = host(&mut cases, "test a::one ... ok\ntest a::two ... FAILED\n");
        let expected = [
            "a::one passed at its second try",
            "a::two FAILED at its second try",
        ];
        assert_eq!(said, expected);
        assert_eq!(cases.ran.failed, ["a::two"]);
        assert!(cases.left.is_empty());
        assert_eq!((cases.ran.totals.passed, cases.ran.totals.failed), (2, 1));
    }
}
