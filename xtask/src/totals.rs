//! What test runners say at their end.

use std::fmt;
use std::ops::AddAssign;

/// Numbers of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    /// Tests that were there and did not run.
    pub(crate) skipped: u32,
}

impl Totals {
    /// Reads every `test result:` line of libtest.
    pub(crate) fn from_libtest(text: &str) -> Self {
        let mut totals = Self::default();
        for line in text.lines() {
            if let Some((_, counts)) = line.split_once("test result: ") {
                totals += Self {
                    passed: count(counts, "passed"),
                    failed: count(counts, "failed"),
                    skipped: count(counts, "ignored"),
                };
            }
        }
        totals
    }

    /// Reads the `Summary` line of nextest; tests that timed out failed.
    pub(crate) fn from_nextest(text: &str) -> Self {
        let mut totals = Self::default();
        for line in text
            .lines()
            .filter(|line| line.trim_start().starts_with("Summary ["))
        {
            totals += Self {
                passed: count(line, "passed"),
                failed: count(line, "failed")
                    + count(line, "timed out")
                    + count(line, "exec failed"),
                skipped: 0,
            };
        }
        totals
    }
}

/// The tests that nextest's list after its summary says went wrong, as `BINARY NAME`: it repeats them there, each with how
/// it ended (FAIL, TIMEOUT, a signal's name) and how long it took.
pub(crate) fn failed_by_nextest(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim_start);
    let after = lines.skip_while(|line| !line.starts_with("Summary ["));
    let failed = after.skip(1).filter_map(|line| {
        let (how, rest) = line.split_once(" [")?;
        let ended = how
            .chars()
            .all(|c| c.is_ascii_uppercase() || c == '-' || c == ' ');
        let name = rest.split_once(']')?.1.trim();
        // Of many, nextest puts the position first: `( 3/40)`.
        let name = match name.strip_prefix('(') {
            Some(position) => position.split_once(')')?.1.trim(),
            None => name,
        };
        (ended && !how.starts_with("SLOW")).then(|| name.to_owned())
    });
    failed.collect()
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// The number before `word`, 0 when there is none.
fn count(text: &str, word: &str) -> u32 {
    let pieces = text.split([',', ';', ':', '.', '(', ')']).map(str::trim);
    let mut counts = pieces.filter_map(|piece| piece.strip_suffix(word)?.trim().parse().ok());
    counts.next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_libtest_results() {
        let text = "test a ... ok\ntest result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; \
            finished in 1.20s\ntest result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out\n";
        let expected = Totals {
            passed: 15,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(Totals::from_libtest(text), expected);
        assert_eq!(expected.to_string(), "15 passed, 2 failed");
    }

    #[test]
    fn names_what_nextest_says_went_wrong() {
        let text = "        FAIL [   0.1s] (1/9) early::bin named_once_it_is_over\n\
            \u{20}    Summary [   8.1s] 9 tests run: 6 passed, 2 failed, 1 timed out, 0 skipped\n\
            \u{20}       FAIL [   0.004s] (3/9) agent-vm-egress::flows echo::one\n\
            \u{20}    TIMEOUT [ 120.004s] agent-vm-image pull::two\n\
            \u{20}     SIGABRT [   1.004s] (9/9) agent-vm-image three\nerror: test run failed\n";
        let expected = [
            "agent-vm-egress::flows echo::one",
            "agent-vm-image pull::two",
            "agent-vm-image three",
        ];
        assert_eq!(failed_by_nextest(text), expected);
        assert!(failed_by_nextest("9 tests [ok]").is_empty());
    }

    #[test]
    fn reads_the_summary_of_nextest() {
        let text = "     Summary [   8.145s] 240 tests run: 237 passed (1 slow), 2 failed, 1 timed out, 4 skipped";
        let expected = Totals {
            passed: 237,
            failed: 3,
            skipped: 0,
        };
        assert_eq!(Totals::from_nextest(text), expected);
        let good = "     Summary [   0.5s] 9 tests run: 9 passed, 0 skipped";
        assert_eq!(
            Totals::from_nextest(good),
            Totals {
                passed: 9,
                ..Totals::default()
            }
        );
    }
}
