//! The audit log as it is shown: which lines are wanted, and one line of text for each.
//!
//! A guest chose names and paths. The log holds them as ASCII with escapes; here they are decoded, so everything that is
//! not plain printable ASCII is escaped again before it reaches a terminal.

use std::fmt::Write as _;

use agent_vm_policy::{HostName, HostPattern};
use serde::Deserialize;

use crate::whose::Whose;

/// The longest name or path that is shown whole, in characters.
const MAX_SHOWN: usize = 300;

/// One decision.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LogLine {
    pub(crate) time: String,
    pub(crate) session: String,
    pub(crate) project: String,
    pub(crate) kind: String,
    pub(crate) host: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Option<String>,
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) change: Option<String>,
    pub(crate) verdict: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) rule: Option<String>,
    pub(crate) proxy: Option<String>,
    pub(crate) credential: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) suppressed: Option<u64>,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
    pub(crate) ms: u64,
}

/// Which decisions are wanted.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) whose: Whose,
    pub(crate) denied: bool,
    pub(crate) host: Option<HostPattern>,
}

impl Filter {
    pub(crate) fn wants(&self, line: &LogLine) -> bool {
        let whose = self.whose.wants(&line.session, &line.project);
        // Every session has its two; they are only told to who looks at one.
        let told = line.kind != "canary" || matches!(self.whose, Whose::Session(_));
        let verdict = !self.denied || matches!(line.verdict.as_deref(), Some("deny" | "failed"));
        let host = self.host.as_ref().is_none_or(|pattern| {
            let name = line.host.as_deref().map(HostName::parse);
            name.and_then(Result::ok)
                .is_some_and(|name| pattern.matches(&name))
        });
        whose && told && verdict && host
    }
}

impl LogLine {
    /// Reads a line of the log; `None` when it is none.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// One line for people. With everybody's decisions, it tells the session too.
    pub(crate) fn render(&self, whose: &Whose) -> String {
        let verdict = match self.kind.as_str() {
            "integrity" => "file",
            _ => self.verdict.as_deref().unwrap_or("?"),
        };
        let mut text = format!("{} {:<6} ", visible(&self.time), visible(verdict));
        text += &self.what();
        if let Some(status) = self.status {
            add(&mut text, format_args!(" {status}"));
        }
        if let Some(reason) = &self.reason {
            add(&mut text, format_args!(" {}", visible(reason)));
        }
        for (word, value) in [
            ("rule", &self.rule),
            ("via", &self.proxy),
            ("credential", &self.credential),
        ] {
            if let Some(value) = value {
                add(&mut text, format_args!(" ({word} {})", visible(value)));
            }
        }
        if let Some(count) = self.suppressed {
            add(
                &mut text,
                format_args!(" (and {count} that were not recorded)"),
            );
        }
        if self.bytes_up + self.bytes_down + self.ms > 0 {
            let (up, down) = (self.bytes_up, self.bytes_down);
            add(
                &mut text,
                format_args!(" {up} B up, {down} B down, {} ms", self.ms),
            );
        }
        if *whose == Whose::All {
            add(&mut text, format_args!(" [{}]", visible(&self.session)));
        }
        text + "\n"
    }

    /// What was decided about.
    fn what(&self) -> String {
        let text = |text: &Option<String>| text.as_deref().map(visible).unwrap_or_default();
        let (host, address) = (text(&self.host), text(&self.address));
        let colon = |address: String| match self.port {
            Some(port) if address.contains(':') => format!("[{address}]:{port}"),
            Some(port) => format!("{address}:{port}"),
            None => address,
        };
        match self.kind.as_str() {
            "dns" if address.is_empty() => format!("name {host}"),
            "dns" => format!("name {host} at {address}"),
            "request" => {
                let host = match self.port {
                    Some(443) => host,
                    _ => colon(host),
                };
                format!("{} {host}{}", text(&self.method), text(&self.path))
            }
            "integrity" => format!("{} {}", text(&self.change), text(&self.path)),
            "canary" if host.is_empty() => format!("canary {}", colon(address)),
            "canary" => format!("canary {host}"),
            "packet" => format!("{} {}", text(&self.protocol), colon(address)),
            _ if host.is_empty() => colon(address),
            _ => format!("{} at {address}", colon(host)),
        }
    }
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments)
        .expect("writing to a String cannot fail");
}

/// Everything but printable ASCII as an escape, and not longer than a few lines of a terminal.
fn visible(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars().take(MAX_SHOWN) {
        if character == '\\' || !matches!(character, ' '..='~') {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

/// A line as it is recorded; bytes that are no ASCII, which only older versions wrote, become escapes of JSON.
pub(crate) fn as_json(line: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(line).chars() {
        if matches!(character, ' '..='~') {
            text.push(character);
        } else if !character.is_ascii_control() || character == '\u{7f}' {
            for unit in character.encode_utf16(&mut [0; 2]) {
                add(&mut text, format_args!("\\u{unit:04x}"));
            }
        }
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(json: &str) -> LogLine {
        LogLine::parse(json.as_bytes()).unwrap()
    }

    fn shown(json: &str) -> String {
        line(json).render(&Whose::Project(String::new()))
    }

    #[test]
    fn every_kind_is_one_readable_line() {
        for (json, text) in [
            (
                r#"{"time":"T","kind":"request","host":"a.test","address":"1.2.3.4","port":443,"method":"GET","path":"/x","verdict":"allow","status":200,"credential":"TOK","bytes_up":1,"bytes_down":2,"ms":3}"#,
                "T allow  GET a.test/x 200 (credential TOK) 1 B up, 2 B down, 3 ms\n",
            ),
            (
                r#"{"time":"T","kind":"request","host":"a.test","port":8443,"method":"GET","path":"/","verdict":"deny","reason":"rule"}"#,
                "T deny   GET a.test:8443/ rule\n",
            ),
            (
                r#"{"time":"T","kind":"connect","host":"a.test","address":"2001:db8::1","port":443,"verdict":"tunnel","rule":"public","proxy":"http://p:1","ms":5}"#,
                "T tunnel a.test:443 at 2001:db8::1 (rule public) (via http://p:1) 0 B up, 0 B down, 5 ms\n",
            ),
            (
                r#"{"time":"T","kind":"connect","address":"2001:db8::1","port":443,"verdict":"deny","reason":"not-listed"}"#,
                "T deny   [2001:db8::1]:443 not-listed\n",
            ),
            (
                r#"{"time":"T","kind":"dns","host":"a.test","verdict":"deny","reason":"not-listed"}"#,
                "T deny   name a.test not-listed\n",
            ),
            (
                r#"{"time":"T","kind":"integrity","path":".git/hooks/x","change":"new"}"#,
                "T file   new .git/hooks/x\n",
            ),
            (
                r#"{"time":"T","kind":"canary","address":"169.254.169.254","port":9,"verdict":"deny","reason":"address-metadata"}"#,
                "T deny   canary 169.254.169.254:9 address-metadata\n",
            ),
            (
                r#"{"time":"T","kind":"packet","protocol":"udp","address":"1.1.1.1","port":53,"verdict":"deny","reason":"foreign-dns-server","suppressed":7}"#,
                "T deny   udp 1.1.1.1:53 foreign-dns-server (and 7 that were not recorded)\n",
            ),
        ] {
            assert_eq!(shown(json), text);
        }
        let all = line(r#"{"time":"T","kind":"dns","session":"5e","verdict":"allow"}"#);
        assert_eq!(all.render(&Whose::All), "T allow  name  [5e]\n");
    }

    #[test]
    fn hostile_text_reaches_the_terminal_as_printable_ascii_on_one_line() {
        let text = shown(
            r#"{"time":"T","kind":"request","host":"a\u001b[2J","method":"G\nT deny","path":"/\u009b\u202e\u2028\u007f\\é","verdict":"al\rlow"}"#,
        );
        assert!(
            text.trim_end_matches('\n')
                .bytes()
                .all(|byte| (0x20..0x7f).contains(&byte)),
            "{text:?}"
        );
        assert_eq!(
            text,
            "T al\\rlow G\\nT deny a\\u{1b}[2J/\\u{9b}\\u{202e}\\u{2028}\\u{7f}\\\\\\u{e9}\n"
        );
        let long = format!(r#"{{"kind":"dns","host":"{}"}}"#, "x".repeat(100_000));
        assert!(shown(&long).len() < 400);
    }

    #[test]
    fn json_is_passed_on_as_ascii() {
        assert_eq!(as_json(b"{\"a\":\"b\\n\"}"), "{\"a\":\"b\\n\"}\n");
        assert_eq!(
            as_json("{\"a\":\"\u{9b}\u{1f600}\"}".as_bytes()),
            "{\"a\":\"\\u009b\\ud83d\\ude00\"}\n"
        );
        assert_eq!(
            as_json(b"{\"a\":\"\x1b[2J\xff\"}"),
            "{\"a\":\"[2J\\ufffd\"}\n"
        );
    }

    #[test]
    fn filters_are_about_whose_what_and_where() {
        let denied = line(r#"{"session":"abc","project":"p","host":"x.a.test","verdict":"deny"}"#);
        let allowed = line(r#"{"session":"abd","project":"q","host":"b.test","verdict":"allow"}"#);
        let canary = line(r#"{"session":"abc","kind":"canary","verdict":"deny"}"#);
        let filter = |whose: Whose, denied: bool, host: Option<&str>| Filter {
            whose,
            denied,
            host: host.map(|text| text.parse().unwrap()),
        };
        assert!(!filter(Whose::All, true, None).wants(&canary));
        assert!(filter(Whose::Session("abc".into()), true, None).wants(&canary));
        for (filter, wanted) in [
            (filter(Whose::All, false, None), (true, true)),
            (filter(Whose::All, true, None), (true, false)),
            (
                filter(Whose::Project("q".into()), false, None),
                (false, true),
            ),
            (
                filter(Whose::Session("ab".into()), false, None),
                (true, true),
            ),
            (
                filter(Whose::Session("abd".into()), false, None),
                (false, true),
            ),
            (filter(Whose::All, false, Some("*.a.test")), (true, false)),
            (filter(Whose::All, false, Some("b.test")), (false, true)),
        ] {
            assert_eq!(
                (filter.wants(&denied), filter.wants(&allowed)),
                wanted,
                "{filter:?}"
            );
        }
    }
}
