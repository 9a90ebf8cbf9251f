//! What the person said about hosts while a VM runs.

use serde::Serialize;

use crate::host::{HostName, HostPattern};

/// Most answers that are kept; a further one takes the place of the oldest.
pub const MAX_ANSWERS: usize = 1024;

/// Whether hosts may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// They may.
    Allow,
    /// They may not.
    Deny,
}

/// All answers, the oldest first. The latest about a host counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Answers(Vec<(HostPattern, Answer)>);

impl Answers {
    pub(crate) fn add(&mut self, hosts: HostPattern, answer: Answer) {
        self.0.retain(|(known, _)| *known != hosts);
        if self.0.len() == MAX_ANSWERS {
            // A denial is kept before a permission: forgetting must not let anything more pass.
            let oldest = self.0.iter().position(|(_, old)| *old == Answer::Allow);
            self.0.remove(oldest.unwrap_or(0));
        }
        self.0.push((hosts, answer));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The answer about `host`, with the hosts it was given for.
    pub(crate) fn about(&self, host: &HostName) -> Option<(&HostPattern, Answer)> {
        let mut latest = self.0.iter().rev();
        let found = latest.find(|(hosts, _)| hosts.matches(host));
        found.map(|(hosts, answer)| (hosts, *answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_answer_about_a_host_counts_and_there_is_an_end_to_them() {
        let pattern = |text: &str| HostPattern::parse(text).unwrap();
        let host = HostName::parse("a.b.test").unwrap();
        let mut answers = Answers::default();
        assert_eq!(answers.about(&host), None);
        answers.add(pattern("*.b.test"), Answer::Deny);
        answers.add(pattern("a.b.test"), Answer::Allow);
        let allowed = (&pattern("a.b.test"), Answer::Allow);
        assert_eq!(answers.about(&host), Some(allowed));
        answers.add(pattern("*.b.test"), Answer::Deny);
        assert_eq!(answers.0.len(), 2);
        for number in 0..2 * MAX_ANSWERS {
            answers.add(pattern(&format!("h{number}.test")), Answer::Allow);
        }
        assert_eq!(answers.0.len(), MAX_ANSWERS);
        assert_eq!(
            answers.about(&host).map(|(_, answer)| answer),
            Some(Answer::Deny)
        );
    }
}
