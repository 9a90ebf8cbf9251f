//! What became of a case, as a line for people.

use std::time::Duration;

use anyhow::Result;

use super::case::Case;

/// How a run went.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// How long the client ran.
    pub(crate) took: Duration,
    /// Requests the fakes saw.
    pub(crate) requests: usize,
    /// How many of them carried a real token.
    pub(crate) with_token: usize,
    /// Processes of the guest that were looked at.
    pub(crate) processes: usize,
    /// What is wrong; nothing when it passed.
    pub(crate) problems: Vec<String>,
}

/// One line, and one for each thing that is wrong.
pub(crate) fn line(case: &Case, outcome: &Result<Outcome>) -> String {
    match outcome {
        Ok(outcome) => {
            let verdict = if outcome.problems.is_empty() {
                "ok"
            } else {
                "FAILED"
            };
            let mut text = format!(
                "{:<20} {verdict:<7} {:>5.1} s  {:>3} requests, {:>3} with the token, {} processes  {}",
                case.name,
                outcome.took.as_secs_f64(),
                outcome.requests,
                outcome.with_token,
                outcome.processes,
                case.shows,
            );
            for problem in &outcome.problems {
                text.push_str("\n    ");
                text.push_str(&problem.replace('\n', "\n    "));
            }
            text
        }
        Err(error) => format!("{:<20} FAILED  {error:#}", case.name),
    }
}
