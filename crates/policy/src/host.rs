//! Host names and patterns of them. A [`HostName`] is always valid: lower-case ASCII (international names in
//! punycode), no trailing dot, never an IP address in any notation, so that two names are the same host exactly when
//! they are equal.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// Longest name in bytes, without the trailing dot (RFC 1035 §3.1).
pub const MAX_NAME_BYTES: usize = 253;
/// Longest label in bytes (RFC 1035 §2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;

/// A valid DNS host name in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// Reads a name: folds ASCII case and drops one trailing dot.
    ///
    /// # Errors
    /// When a label is empty, too long, begins or ends with `-` or holds anything but letters, digits, `-` and `_`;
    /// when the name is too long, or its last label is a number as in an IPv4 address in any notation.
    pub fn parse(text: &str) -> Result<Self, HostNameError> {
        let refuse = |problem| HostNameError {
            name: shortened(text),
            problem,
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(refuse(Problem::Length));
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > MAX_LABEL_BYTES {
                return Err(refuse(Problem::LabelLength));
            }
            let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if !label.bytes().all(known) || label.starts_with('-') || label.ends_with('-') {
                return Err(refuse(Problem::Character));
            }
        }
        let name = name.to_ascii_lowercase();
        let last = name.rsplit('.').next().unwrap_or_default();
        if is_number(last) {
            return Err(refuse(Problem::Address));
        }
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Decimal, octal or hexadecimal: the last label of something a resolver may take for an IPv4 address.
fn is_number(label: &str) -> bool {
    let digits = label.bytes().all(|byte| byte.is_ascii_digit());
    let hex = label.strip_prefix("0x");
    digits || hex.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// What an error may repeat of a text of any length.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        Self::parse(text)
    }
}

impl Serialize for HostName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One host (`api.example.org`) or all below a name (`*.example.org`, which is not `example.org` itself).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Exactly this host.
    Exact(HostName),
    /// Every host below this name, at any depth.
    Below(HostName),
}

impl HostPattern {
    /// Reads a host name or `*.` before a name of at least two labels.
    ///
    /// # Errors
    /// When the name is not valid, or the pattern would cover a whole top-level domain.
    pub fn parse(text: &str) -> Result<Self, HostNameError> {
        let Some(below) = text.strip_prefix("*.") else {
            return HostName::parse(text).map(Self::Exact);
        };
        let name = HostName::parse(below)?;
        if !name.as_str().contains('.') {
            return Err(HostNameError {
                name: shortened(text),
                problem: Problem::TooWide,
            });
        }
        Ok(Self::Below(name))
    }

    /// Whether `host` is covered.
    #[must_use]
    pub fn matches(&self, host: &HostName) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(name) => host
                .as_str()
                .strip_suffix(name.as_str())
                .is_some_and(|rest| rest.ends_with('.')),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        Self::parse(text)
    }
}

impl Serialize for HostPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is no host name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name:?} is not a host name: {problem}")]
pub struct HostNameError {
    name: String,
    problem: Problem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum Problem {
    #[error("it must have 1 to {MAX_NAME_BYTES} characters")]
    Length,
    #[error("a label must have 1 to {MAX_LABEL_BYTES} characters")]
    LabelLength,
    #[error("only letters, digits, `-` and `_` are allowed, and no `-` at the ends of a label")]
    Character,
    #[error("it is an address")]
    Address,
    #[error("it covers a whole top-level domain")]
    TooWide,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    #[test]
    fn folds_case_and_one_trailing_dot() {
        assert_eq!(host("API.Example.ORG.").as_str(), "api.example.org");
        assert_eq!(
            host("xn--e1afmkfd.xn--p1ai").as_str(),
            "xn--e1afmkfd.xn--p1ai"
        );
        assert_eq!(host("_dmarc.example.org").as_str(), "_dmarc.example.org");
        assert_eq!(host("localhost").as_str(), "localhost");
    }

    #[test]
    fn refuses_what_is_no_name() {
        let long_label = format!("{}.org", "a".repeat(64));
        let long_name = vec!["a".repeat(50); 6].join(".");
        let bad = [
            "",
            ".",
            "a..b",
            "a.b..",
            ".a",
            "-a.org",
            "a-.org",
            "a b",
            "a/b",
            "a:80",
            "пример.рф",
            "a\0b",
            "*",
            "*.a.org",
            "user@a.org",
            "[::1]",
            "::1",
            "a%2eb",
            &long_label,
            &long_name,
        ];
        for text in bad {
            assert!(HostName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn refuses_addresses_in_every_notation() {
        for text in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "a.0x7f",
            "1.2.3.4.",
            "0x",
        ] {
            assert!(HostName::parse(text).is_err(), "{text:?}");
        }
        assert!(HostName::parse("1.2.3.4.example.org").is_ok());
        assert!(HostName::parse("0xy").is_ok());
    }

    #[test]
    fn a_pattern_covers_its_own_hosts_only() {
        let exact = HostPattern::parse("Example.org").unwrap();
        let below = HostPattern::parse("*.example.org").unwrap();
        assert!(exact.matches(&host("example.org")) && !exact.matches(&host("a.example.org")));
        assert!(below.matches(&host("a.example.org")) && below.matches(&host("a.b.example.org")));
        for other in [
            "example.org",
            "badexample.org",
            "example.org.evil.test",
            "org",
        ] {
            assert!(!below.matches(&host(other)), "{other}");
        }
    }

    #[test]
    fn refuses_patterns_that_cover_too_much() {
        for text in [
            "*",
            "*.",
            "*.org",
            "**.example.org",
            "a.*.org",
            "*example.org",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn errors_name_the_text_but_not_all_of_a_long_one() {
        let error = HostName::parse(&"é".repeat(10_000))
            .unwrap_err()
            .to_string();
        assert!(error.len() < 300, "{}", error.len());
    }

    proptest! {
        #[test]
        fn parse_is_idempotent(text in ".{0,80}") {
            if let Ok(name) = HostName::parse(&text) {
                prop_assert_eq!(HostName::parse(name.as_str()), Ok(name.clone()));
                prop_assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
            }
        }
    }
}
