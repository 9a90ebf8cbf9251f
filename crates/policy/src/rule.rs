//! Rules of the person about hosts: `[[egress.rule]]` of a configuration file, in their order.
//!
//! Of the rules that cover something, the first decides. As soon as a rule allows (or asks about) a host, the rules alone
//! say what is reached there: what none of them covers is denied. A rule with a method or path is about requests, so its
//! host is intercepted; all others decide about connections. A deny rule never lets anything more pass, wherever it stands.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

use crate::host::{HostName, HostPattern};
use crate::path::{NormalPath, PathPattern};

/// The longest method in bytes.
pub const MAX_METHOD_BYTES: usize = 24;

/// What a rule does with what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It may pass.
    Allow,
    /// It may not.
    Deny,
    /// The person is asked.
    Ask,
}

/// The text is no action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an action is `allow`, `deny` or `ask`")]
pub struct ActionError;

impl FromStr for Action {
    type Err = ActionError;

    fn from_str(text: &str) -> Result<Self, ActionError> {
        match text {
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            "ask" => Ok(Self::Ask),
            _ => Err(ActionError),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Ask => "ask",
        })
    }
}

/// An HTTP method (RFC 9110 §9.1) as a rule names it: capital letters and `-`. Requests are compared without case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Method(String);

/// The text is no method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a method is in capital letters, such as GET, and not CONNECT")]
pub struct MethodError;

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        let known = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
        let length = 1..=MAX_METHOD_BYTES;
        let valid = length.contains(&text.len()) && text.bytes().all(known) && text != "CONNECT";
        valid.then(|| Self(text.to_owned())).ok_or(MethodError)
    }
}

impl Method {
    fn is(&self, method: &str) -> bool {
        self.0.eq_ignore_ascii_case(method)
    }
}

/// Which rule of which file; what the audit log shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleName {
    /// Name of the file.
    pub file: &'static str,
    /// Its place among the file's rules, from 1 on.
    pub number: usize,
    /// What the person wrote beside it.
    pub reason: Option<String>,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} of {}", self.number, self.file)?;
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

impl Serialize for RuleName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostRule {
    /// Which one it is.
    pub name: RuleName,
    /// The hosts it is about.
    pub host: HostPattern,
    /// The port it is about; every one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The methods it is about; every one when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    /// The paths it is about; every one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathPattern>,
    /// What it does.
    pub action: Action,
}

impl HostRule {
    /// Whether it is about some requests only, so that requests must be looked at.
    #[must_use]
    pub fn is_about_requests(&self) -> bool {
        !self.methods.is_empty() || self.path.is_some()
    }

    /// Whether it can let something pass.
    fn opens(&self) -> bool {
        self.action != Action::Deny
    }

    fn is_at(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }

    fn covers(&self, method: &str, path: Option<&NormalPath>) -> bool {
        let method = self.methods.is_empty() || self.methods.iter().any(|own| own.is(method));
        let at = |own: &PathPattern| path.is_some_and(|path| own.matches(path));
        method && self.path.as_ref().is_none_or(at)
    }
}

/// As a person reads it: `deny POST, PUT api.example.org:443/repos/**`.
impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.action)?;
        for (index, method) in self.methods.iter().enumerate() {
            let comma = if index + 1 < self.methods.len() {
                ","
            } else {
                ""
            };
            write!(f, "{}{comma} ", method.0)?;
        }
        write!(f, "{}", self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match &self.path {
            Some(path) => write!(f, "{path}"),
            None => Ok(()),
        }
    }
}

/// All rules, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct RuleList(Vec<HostRule>);

/// What rules say about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlowWord<'a> {
    /// None is about it.
    Nothing,
    /// This one decides.
    Says(&'a HostRule),
    /// Its requests are judged one by one; by this rule some may pass.
    Requests(Option<&'a HostRule>),
    /// Others let something of the host pass, but not this.
    Closed,
}

/// What rules say about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestWord<'a> {
    /// None covers it.
    Nothing,
    /// This one decides.
    Says(&'a HostRule),
    /// Others let something of the host pass, but not this.
    Closed,
    /// Some are about paths, and this path is not clear.
    Unclear,
}

impl RuleList {
    /// With these behind the others.
    pub(crate) fn extend(&mut self, rules: Vec<HostRule>) {
        self.0.extend(rules);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn about<'a>(&'a self, host: &'a HostName) -> impl Iterator<Item = &'a HostRule> {
        self.0.iter().filter(|rule| rule.host.matches(host))
    }

    /// Hosts some of whose requests a rule is about.
    pub(crate) fn intercepted(&self) -> impl Iterator<Item = &HostPattern> {
        let about = self.0.iter().filter(|rule| rule.is_about_requests());
        about.map(|rule| &rule.host)
    }

    /// What is said about the host as such: whether anything of it can be reached.
    pub(crate) fn name<'a>(&'a self, host: &'a HostName) -> FlowWord<'a> {
        let whole = |rule: &HostRule| rule.port.is_none() && !rule.is_about_requests();
        let decisive = self.about(host).find(|rule| rule.opens() || whole(rule));
        decisive.map_or(FlowWord::Nothing, FlowWord::Says)
    }

    /// What is said about a connection to `host` at `port`.
    pub(crate) fn flow<'a>(&'a self, host: &'a HostName, port: u16) -> FlowWord<'a> {
        let (mut judged, mut opened) = (false, false);
        for rule in self.about(host) {
            opened |= rule.opens();
            if !rule.is_at(port) {
                continue;
            }
            match (rule.is_about_requests(), rule.opens()) {
                // What goes before only denies.
                (false, false) => return FlowWord::Says(rule),
                (false, true) if !judged => return FlowWord::Says(rule),
                (_, true) => return FlowWord::Requests(Some(rule)),
                (true, false) => judged = true,
            }
        }
        match (opened, judged) {
            (true, _) => FlowWord::Closed,
            (false, true) => FlowWord::Requests(None),
            (false, false) => FlowWord::Nothing,
        }
    }

    /// What is said about a request to `host` at `port`; `path` is without its query.
    pub(crate) fn request<'a>(
        &'a self,
        (host, port): (&'a HostName, u16),
        (method, path): (&str, &str),
    ) -> RequestWord<'a> {
        let normal = NormalPath::parse(path);
        if self.judges_paths(host, port) && normal.is_err() {
            return RequestWord::Unclear;
        }
        let normal = normal.ok();
        let mut opened = false;
        for rule in self.about(host) {
            opened |= rule.opens();
            if rule.is_at(port) && rule.covers(method, normal.as_ref()) {
                return RequestWord::Says(rule);
            }
        }
        if opened {
            RequestWord::Closed
        } else {
            RequestWord::Nothing
        }
    }

    /// Whether a rule is about paths of `host` at `port`.
    pub(crate) fn judges_paths(&self, host: &HostName, port: u16) -> bool {
        let mut about = self.about(host);
        about.any(|rule| rule.is_at(port) && rule.path.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(host: &str, port: Option<u16>, path: Option<&str>, action: Action) -> HostRule {
        HostRule {
            name: RuleName {
                file: "config.toml",
                number: 1,
                reason: None,
            },
            host: host.parse().unwrap(),
            port,
            methods: Vec::new(),
            path: path.map(|text| text.parse().unwrap()),
            action,
        }
    }

    #[test]
    fn methods_and_actions_are_read_in_one_form_only() {
        for text in ["GET", "M-SEARCH", "PROPFIND"] {
            assert!(text.parse::<Method>().is_ok(), "{text}");
        }
        for text in ["", "get", "CONNECT", "G T", "GET,POST", "*"] {
            assert_eq!(text.parse::<Method>(), Err(MethodError), "{text}");
        }
        for action in [Action::Allow, Action::Deny, Action::Ask] {
            assert_eq!(action.to_string().parse(), Ok(action));
        }
        assert_eq!("Allow".parse::<Action>(), Err(ActionError));
    }

    #[test]
    fn a_rule_is_shown_as_what_it_covers() {
        let mut shown = rule("*.a.test", Some(443), Some("/x/**"), Action::Deny);
        shown.methods = vec!["GET".parse().unwrap(), "HEAD".parse().unwrap()];
        assert_eq!(shown.to_string(), "deny GET, HEAD *.a.test:443/x/**");
        shown.name.reason = Some("why".to_owned());
        assert_eq!(shown.name.to_string(), "rule 1 of config.toml: why");
    }

    #[test]
    fn the_first_rule_about_a_connection_decides_and_requests_are_judged_only_where_a_rule_needs_it()
     {
        let host = HostName::parse("a.test").unwrap();
        let (at_22, at_path) = (
            rule("a.test", Some(22), None, Action::Allow),
            rule("a.test", Some(443), Some("/x"), Action::Allow),
        );
        let mut list = RuleList::default();
        list.extend(vec![at_22.clone(), at_path.clone()]);
        assert_eq!(list.flow(&host, 22), FlowWord::Says(&at_22));
        assert_eq!(list.flow(&host, 443), FlowWord::Requests(Some(&at_path)));
        assert_eq!(list.flow(&host, 80), FlowWord::Closed);
        let mut denied = RuleList::default();
        denied.extend(vec![rule("a.test", None, Some("/x"), Action::Deny)]);
        assert_eq!(denied.flow(&host, 80), FlowWord::Requests(None));
        assert_eq!(denied.name(&host), FlowWord::Nothing);
        let all = rule("a.test", None, None, Action::Deny);
        denied.extend(vec![all.clone()]);
        assert_eq!(denied.flow(&host, 80), FlowWord::Says(&all));
        assert_eq!(denied.name(&host), FlowWord::Says(&all));
    }
}
