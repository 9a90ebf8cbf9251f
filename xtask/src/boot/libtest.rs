//! What libtest prints of cases that run one at a time.

/// What libtest says of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Failed,
    Ignored,
}

/// A case that began.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) name: &'a str,
    /// What it printed, without the verdict.
    pub(super) printed: &'a str,
    /// None while it runs.
    pub(super) verdict: Option<Verdict>,
}

/// What stands in libtest's output, with one thread, after each `test NAME ... `: it ends with the verdict, whatever
/// the case printed in between.
pub(super) fn cases(text: &str) -> impl Iterator<Item = Case<'_>> {
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
        let ended = VERDICTS
            .iter()
            .find_map(|(word, verdict)| Some((said.strip_suffix(word)?, *verdict)));
        let (printed, verdict) = ended.map_or((said, None), |(said, ended)| (said, Some(ended)));
        Case {
            name,
            printed,
            verdict,
        }
    })
}

/// How libtest says them.
const VERDICTS: &[(&str, Verdict)] = &[
    ("ok", Verdict::Passed),
    ("FAILED", Verdict::Failed),
    ("ignored", Verdict::Ignored),
];

/// Cases that ended.
pub(super) fn verdicts(text: &str) -> Vec<(&str, Verdict)> {
    let ended = cases(text).filter_map(|case| Some((case.name, case.verdict?)));
    ended.collect()
}

/// The case of those `left` that began and has no verdict.
pub(super) fn running(text: &str, left: &[String]) -> Option<String> {
    let last = cases(text)
        .filter(|case| left.iter().any(|left| left == case.name))
        .last()?;
    last.verdict.is_none().then(|| last.name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
