//! What is said about one HTTP request of an intercepted connection.

use crate::answer::Answer;
use crate::grant::Rule;
use crate::host::HostName;
use crate::path::NormalPath;
use crate::reason::DenyReason;
use crate::rule::{Action, HostRule, RequestWord};
use crate::verdict::Policy;

/// What carries a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TLS, with the upstream's certificate verified.
    Tls,
    /// Nothing that protects it.
    Plain,
}

/// The worst place in which a request head carries a placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlaceholderUse {
    /// No placeholder at all.
    None,
    /// Only in the header that the credential names, at a host it is bound to.
    InItsHeader,
    /// One that is bound to other hosts.
    OtherHost,
    /// In another header, the path or the query, in any encoding.
    Elsewhere,
}

/// Whether a request carries a login of its own to a host that a credential is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignCredential {
    /// No login, or only the placeholder of the host's own.
    Absent,
    /// Another key, token or session.
    Present,
}

/// What is known of a request when it is judged: the head, nothing of the body.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The host the connection is for: the TLS server name, or the resolved name of a plain connection.
    pub host: &'a HostName,
    /// The host that the request names (`:authority` or `Host`); `None` when it is missing or no host name.
    pub authority: Option<&'a HostName>,
    /// The port the connection is for.
    pub port: u16,
    /// What carries the request.
    pub transport: Transport,
    /// Method, as sent.
    pub method: &'a str,
    /// Path and query, as sent.
    pub target: &'a str,
    /// Where placeholders are.
    pub placeholders: PlaceholderUse,
    /// Whether somebody else's credential is in it.
    pub foreign: ForeignCredential,
}

/// Whether a request may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestVerdict {
    /// Not at all.
    Deny(DenyReason),
    /// With its credential, when it carries the placeholder of one.
    Allow,
}

impl Policy {
    /// Judges one request of an intercepted connection.
    #[must_use]
    pub fn decide_request(&self, facts: &RequestFacts<'_>) -> RequestVerdict {
        self.judge_request(facts).0
    }

    /// The rule or answer that decides about a request, if one does.
    #[must_use]
    pub fn request_rule(&self, facts: &RequestFacts<'_>) -> Option<Rule> {
        self.judge_request(facts).1
    }

    /// [`Self::decide_request`] and [`Self::request_rule`] at once.
    #[must_use]
    pub fn judge_request(&self, facts: &RequestFacts<'_>) -> (RequestVerdict, Option<Rule>) {
        let (refused, rule) = match self.judge_by_rules(facts) {
            Ok(rule) => (None, rule),
            Err((reason, rule)) => (Some(reason), rule),
        };
        let verdict = match self.refuses_head(facts).or(refused) {
            Some(reason) => RequestVerdict::Deny(reason),
            None => RequestVerdict::Allow,
        };
        (verdict, rule)
    }

    /// Why no rule can let the request pass.
    fn refuses_head(&self, facts: &RequestFacts<'_>) -> Option<DenyReason> {
        if facts.method == "CONNECT" {
            return Some(DenyReason::ConnectMethod);
        }
        if facts.authority != Some(facts.host) {
            return Some(DenyReason::AuthorityMismatch);
        }
        let in_clear = facts.transport == Transport::Plain;
        let foreign = facts.foreign == ForeignCredential::Present && self.refuses_foreign();
        match facts.placeholders {
            PlaceholderUse::None | PlaceholderUse::InItsHeader if foreign => {
                Some(DenyReason::ForeignCredential)
            }
            PlaceholderUse::None => None,
            _ if in_clear => Some(DenyReason::PlaceholderInClear),
            PlaceholderUse::InItsHeader => None,
            PlaceholderUse::OtherHost => Some(DenyReason::PlaceholderOtherHost),
            PlaceholderUse::Elsewhere => Some(DenyReason::PlaceholderOutsideCredential),
        }
    }

    /// The path that is to be sent in the place of `path`, when rules are about paths of the host: the spelling that was
    /// judged. `None` when that is the same, or no rule looks at it.
    #[must_use]
    pub fn path_to_send(&self, host: &HostName, port: u16, path: &str) -> Option<String> {
        if !self.rules().judges_paths(host, port) {
            return None;
        }
        let normal = NormalPath::parse(path).ok()?;
        (normal.as_str() != path).then(|| normal.as_str().to_owned())
    }

    fn judge_by_rules(
        &self,
        facts: &RequestFacts<'_>,
    ) -> Result<Option<Rule>, (DenyReason, Option<Rule>)> {
        let answer = self.answers().about(facts.host);
        let asked = || answer.map(|(pattern, _)| Rule::Asked(pattern.clone()));
        if let Some((_, Answer::Deny)) = answer {
            return Err((DenyReason::AnsweredNo, asked()));
        }
        let path = facts.target.split('?').next().unwrap_or_default();
        let host = (facts.host, facts.port);
        let named = |rule: &HostRule| Some(Rule::Listed(rule.name.clone()));
        match self.rules().request(host, (facts.method, path)) {
            RequestWord::Nothing => Ok(None),
            RequestWord::Unclear => Err((DenyReason::PathUnclear, None)),
            RequestWord::Closed if answer.is_some() => Ok(asked()),
            RequestWord::Closed => Err((DenyReason::Rule, None)),
            RequestWord::Says(rule) => match rule.action {
                Action::Allow => Ok(named(rule)),
                Action::Deny => Err((DenyReason::Rule, named(rule))),
                Action::Ask if answer.is_some() => Ok(asked()),
                Action::Ask => Err((DenyReason::Unanswered, named(rule))),
            },
        }
    }
}
