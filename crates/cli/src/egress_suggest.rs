//! `egress suggest`: from what a session asked for and reached, the list of hosts it needed.

use std::collections::BTreeMap;

use agent_vm_policy::{HostName, HostPattern};
use serde::Serialize;

use crate::egress_log::LogLine;

/// Most hosts that are looked at.
const MAX_HOSTS: usize = 10_000;
/// So many hosts directly below one name become one pattern.
const FEWEST_BELOW: usize = 3;
/// Names below which strangers have theirs: no pattern covers them.
const SHARED: [&str; 12] = [
    "amazonaws.com",
    "appspot.com",
    "azureedge.net",
    "azurewebsites.net",
    "cloudfront.net",
    "github.io",
    "herokuapp.com",
    "netlify.app",
    "pages.dev",
    "vercel.app",
    "windows.net",
    "workers.dev",
];

/// What a session did with one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct HostUse {
    /// Times its name was asked for, as far as recorded.
    pub(crate) asked: u64,
    /// Connections that were passed on.
    pub(crate) connections: u64,
    /// Requests that were passed on.
    pub(crate) requests: u64,
    /// Times it was denied for not being listed or allowed.
    pub(crate) denied: u64,
    /// It has a credential, so it counts as listed anyway.
    pub(crate) credential: bool,
    /// A rule, the person or its address denied it: never suggested.
    pub(crate) refused: bool,
}

impl HostUse {
    fn is_needed(&self) -> bool {
        !self.refused && self.connections + self.requests + self.denied > 0
    }

    fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.connections += other.connections;
        self.requests += other.requests;
        self.denied += other.denied;
        self.credential &= other.credential;
    }
}

/// One entry of the suggested list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Suggested {
    pub(crate) pattern: HostPattern,
    /// How many hosts it stands for.
    pub(crate) hosts: usize,
    #[serde(flatten)]
    pub(crate) counts: HostUse,
}

/// What one session did.
#[derive(Debug, Default)]
pub(crate) struct Needs(BTreeMap<HostName, HostUse>);

impl Needs {
    /// Takes a line of the session into account.
    pub(crate) fn add(&mut self, line: &LogLine) {
        let Some(Ok(host)) = line.host.as_deref().map(HostName::parse) else {
            return;
        };
        if self.0.len() == MAX_HOSTS && !self.0.contains_key(&host) {
            return;
        }
        let known = self.0.entry(host).or_default();
        let verdict = line.verdict.as_deref().unwrap_or_default();
        known.credential |= line.credential.is_some();
        let by_credential = |rule: &String| rule.starts_with("credential ");
        known.credential |= line.rule.as_ref().is_some_and(by_credential);
        match (line.kind.as_str(), verdict) {
            ("dns", "allow") => known.asked += 1 + line.suppressed.unwrap_or_default(),
            ("connect", "tunnel" | "failed") => known.connections += 1,
            ("request", "allow" | "failed") => known.requests += 1,
            ("dns" | "connect" | "packet", "deny") => match line.reason.as_deref() {
                Some("not-listed" | "unanswered") => known.denied += 1,
                // Of requests only some may be denied; here it is the host.
                Some(reason) if is_of_the_host(reason) => known.refused = true,
                Some(_) | None => {}
            },
            _ => {}
        }
    }

    /// The list: what was needed, hosts of one family as one pattern.
    pub(crate) fn suggested(&self) -> Vec<Suggested> {
        let needed = || self.0.iter().filter(|(_, known)| known.is_needed());
        let mut families: BTreeMap<&str, usize> = BTreeMap::new();
        for (host, _) in needed() {
            if let Some(parent) = family(host) {
                *families.entry(parent).or_default() += 1;
            }
        }
        let spoiled = |parent: &str| {
            let below = |host: &HostName| family(host) == Some(parent);
            self.0
                .iter()
                .any(|(host, known)| known.refused && below(host))
        };
        families.retain(|parent, hosts| *hosts >= FEWEST_BELOW && !spoiled(parent));
        let mut list: BTreeMap<HostPattern, Suggested> = BTreeMap::new();
        for (host, known) in needed() {
            let parent = family(host).filter(|parent| families.contains_key(parent));
            let below = parent.and_then(|parent| HostPattern::parse(&format!("*.{parent}")).ok());
            let pattern = below.unwrap_or_else(|| HostPattern::Exact(host.clone()));
            let entry = list.entry(pattern.clone()).or_insert_with(|| Suggested {
                pattern,
                hosts: 0,
                counts: HostUse {
                    credential: true,
                    ..HostUse::default()
                },
            });
            entry.hosts += 1;
            entry.counts.add(known);
        }
        list.into_values().collect()
    }
}

/// Whether a reason is about the host as such.
fn is_of_the_host(reason: &str) -> bool {
    reason.starts_with("address") || matches!(reason, "rule" | "answered-no")
}

/// The name directly above, where all below it are probably one owner's.
fn family(host: &HostName) -> Option<&str> {
    let (_, parent) = host.as_str().split_once('.')?;
    let shared = |suffix: &&str| {
        parent
            .strip_suffix(*suffix)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let labels: Vec<&str> = parent.split('.').collect();
    // `co.uk`, `com.au`: the second label is no owner.
    let owned = match labels.as_slice() {
        [] | [_] => false,
        [second, _] => second.len() > 3,
        _ => true,
    };
    (owned && !SHARED.iter().any(shared)).then_some(parent)
}

/// The list as a part of `config.toml`.
pub(crate) fn as_toml(session: &str, list: &[Suggested]) -> String {
    let mut text = format!(
        "# Hosts that session {session} needed, besides those with a credential.\n\
         # Put what you agree with into ~/.config/agent-vm/config.toml.\n\
         [network]\npolicy = \"allowlist\"\nallow-domains = [\n"
    );
    for entry in list.iter().filter(|entry| !entry.counts.credential) {
        text += &format!("  \"{}\",  # {}\n", entry.pattern, counts(entry));
    }
    text + "]\n"
}

/// The counts of an entry in words.
pub(crate) fn counts(entry: &Suggested) -> String {
    let HostUse {
        asked,
        connections,
        requests,
        denied,
        ..
    } = entry.counts;
    let named = [
        (entry.hosts as u64, "hosts", entry.hosts > 1),
        (asked, "asked", asked > 0),
        (connections, "connections", connections > 0),
        (requests, "requests", requests > 0),
        (denied, "denied", denied > 0),
    ];
    let shown = named.iter().filter(|(.., shown)| *shown);
    let words: Vec<String> = shown
        .map(|(count, word, _)| format!("{count} {word}"))
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(lines: &[&str]) -> Needs {
        let mut needs = Needs::default();
        for line in lines {
            needs.add(&LogLine::parse(line.as_bytes()).unwrap());
        }
        needs
    }

    fn connected(host: &str) -> String {
        format!(r#"{{"kind":"connect","host":"{host}","verdict":"tunnel","rule":"public"}}"#)
    }

    fn patterns(list: &[Suggested]) -> Vec<String> {
        list.iter().map(|entry| entry.pattern.to_string()).collect()
    }

    #[test]
    fn what_was_reached_or_not_listed_is_suggested_and_what_was_denied_otherwise_never() {
        let list = needs(&[
            r#"{"kind":"dns","host":"a.test","verdict":"allow","suppressed":2}"#,
            &connected("a.test"),
            r#"{"kind":"dns","host":"only-asked.test","verdict":"allow"}"#,
            r#"{"kind":"dns","host":"new.test","verdict":"deny","reason":"not-listed"}"#,
            r#"{"kind":"connect","host":"held.test","verdict":"deny","reason":"unanswered"}"#,
            r#"{"kind":"dns","host":"inside.test","verdict":"deny","reason":"address-private","address":"10.0.0.1"}"#,
            &connected("inside.test"),
            r#"{"kind":"connect","host":"meta.test","verdict":"deny","reason":"address-metadata"}"#,
            r#"{"kind":"connect","host":"ruled.test","verdict":"deny","reason":"rule"}"#,
            r#"{"kind":"connect","host":"no.test","verdict":"deny","reason":"answered-no"}"#,
            r#"{"kind":"request","host":"api.test","verdict":"allow","credential":"TOK"}"#,
            r#"{"kind":"connect","address":"8.8.8.8","verdict":"tunnel"}"#,
            r#"{"kind":"dns","host":"not a host","verdict":"allow"}"#,
        ])
        .suggested();
        assert_eq!(
            patterns(&list),
            ["a.test", "api.test", "held.test", "new.test"]
        );
        let toml = as_toml("5e", &list);
        assert!(
            toml.contains("  \"a.test\",  # 3 asked, 1 connections\n"),
            "{toml}"
        );
        assert!(toml.contains("  \"new.test\",  # 1 denied\n"), "{toml}");
        assert!(!toml.contains("api.test"), "{toml}");
        assert!(toml.parse::<toml::Table>().is_ok(), "{toml}");
    }

    #[test]
    fn hosts_of_one_owner_become_one_pattern() {
        for (hosts, expected) in [
            (
                &[
                    "a.cdn.example.org",
                    "b.cdn.example.org",
                    "c.cdn.example.org",
                ][..],
                &["*.cdn.example.org"][..],
            ),
            (
                &["a.example.org", "b.example.org"],
                &["a.example.org", "b.example.org"],
            ),
            (
                &["a.co.uk", "b.co.uk", "c.co.uk"],
                &["a.co.uk", "b.co.uk", "c.co.uk"],
            ),
            (
                &["a.github.io", "b.github.io", "c.github.io"],
                &["a.github.io", "b.github.io", "c.github.io"],
            ),
            (&["a.org", "b.org", "c.org"], &["a.org", "b.org", "c.org"]),
        ] {
            let lines: Vec<String> = hosts.iter().map(|host| connected(host)).collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            assert_eq!(patterns(&needs(&lines).suggested()), expected);
        }
        let mut lines = ["a", "b", "c"]
            .map(|host| connected(&format!("{host}.x.example.org")))
            .to_vec();
        lines.push(r#"{"kind":"connect","host":"d.x.example.org","verdict":"deny","reason":"address-private"}"#.to_owned());
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(
            needs(&lines).suggested().len(),
            3,
            "no pattern over what was denied"
        );
    }
}
