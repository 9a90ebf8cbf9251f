//! `--secret NAME[=SOURCE]@HOST[,HOST…][:HEADER]`, or the same parts from a file: a token of the user's own, with the hosts and the
//! header it may travel to. SOURCE is `env:VARIABLE`, `file:PATH` or `cmd:PROGRAM ARG…`; without it,
//! the variable NAME.
//!
//! Must hold: an error never repeats the SOURCE, which could be a token typed by mistake.

use std::str::FromStr;

use agent_vm_policy::{HostNameError, HostPattern};
use thiserror::Error;

use crate::credential::HeaderSpec;

/// Most hosts of one secret.
const MAX_HOSTS: usize = 64;
/// Longest name of a secret in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Headers that frame or route a message: a token has no place in them.
const FRAMING_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// One `--secret`, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSpec {
    /// Name of the variable in the guest.
    pub name: String,
    /// Where the token is on the host.
    pub source: SecretSource,
    /// The only hosts that receive it; at least one.
    pub hosts: Vec<HostPattern>,
    /// The only header it travels in.
    pub header: HeaderSpec,
}

/// Where a token is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A variable of the launcher's environment.
    Environment(String),
    /// A file; `~` is the home directory.
    File(String),
    /// Standard output of a program with its arguments; no shell.
    Command(Vec<String>),
}

/// Why a text is not a secret's specification.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SecretSpecError {
    /// No `@HOST`: a secret without hosts could go anywhere.
    #[error("no host is named to which the token may be sent")]
    NoHost,
    /// The name could not be a variable.
    #[error(
        "the name must be 1 to {MAX_NAME_BYTES} letters, digits and `_`, not beginning with a digit"
    )]
    Name,
    /// The source has no known form.
    #[error("the source is no variable, file or command")]
    Source,
    /// A host is not valid.
    #[error("a host is not valid")]
    Host(#[from] HostNameError),
    /// Too many hosts.
    #[error("more than {MAX_HOSTS} hosts")]
    TooManyHosts,
    /// The header is not a field name, or one that frames messages.
    #[error("{header:?} is not the name of a header that can carry a token")]
    Header {
        /// As given.
        header: String,
    },
}

impl FromStr for SecretSpec {
    type Err = SecretSpecError;

    fn from_str(text: &str) -> Result<Self, SecretSpecError> {
        // A source may hold `@`, a host may not: the last one divides.
        let (left, target) = text.rsplit_once('@').ok_or(SecretSpecError::NoHost)?;
        let (name, source) = match left.split_once('=') {
            Some((name, source)) => (name, Some(source)),
            None => (left, None),
        };
        if !is_variable_name(name) {
            return Err(SecretSpecError::Name);
        }
        let source = match source {
            Some(source) => parse_source(source)?,
            None => SecretSource::Environment(name.to_owned()),
        };
        let (hosts, header) = match target.split_once(':') {
            Some((hosts, header)) => (hosts, Some(header)),
            None => (target, None),
        };
        if hosts.is_empty() {
            return Err(SecretSpecError::NoHost);
        }
        let hosts: Vec<&str> = hosts.split(',').take(MAX_HOSTS + 1).collect();
        Self::new(name, Some(source), &hosts, header)
    }
}

impl SecretSpec {
    /// A secret of these parts: without a source, the variable `name`; without a header, `authorization`.
    ///
    /// # Errors
    /// As for the text that says the same.
    pub fn new(
        name: &str,
        source: Option<SecretSource>,
        hosts: &[&str],
        header: Option<&str>,
    ) -> Result<Self, SecretSpecError> {
        if !is_variable_name(name) {
            return Err(SecretSpecError::Name);
        }
        let source = source.unwrap_or_else(|| SecretSource::Environment(name.to_owned()));
        let usable = match &source {
            SecretSource::Environment(variable) => is_variable_name(variable),
            SecretSource::File(path) => !path.is_empty(),
            SecretSource::Command(words) => words.first().is_some_and(|word| !word.is_empty()),
        };
        if !usable {
            return Err(SecretSpecError::Source);
        }
        let header = header.map_or_else(|| Ok(HeaderSpec::any_authorization()), parse_header)?;
        Ok(Self {
            name: name.to_owned(),
            source,
            hosts: parse_hosts(hosts)?,
            header,
        })
    }
}

fn is_variable_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(known)
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

fn parse_source(text: &str) -> Result<SecretSource, SecretSpecError> {
    let (kind, rest) = text.split_once(':').ok_or(SecretSpecError::Source)?;
    match kind {
        "env" => Ok(SecretSource::Environment(rest.to_owned())),
        "file" => Ok(SecretSource::File(rest.to_owned())),
        "cmd" => {
            let words = rest.split_whitespace().map(str::to_owned);
            Ok(SecretSource::Command(words.collect()))
        }
        _ => Err(SecretSpecError::Source),
    }
}

fn parse_hosts(hosts: &[&str]) -> Result<Vec<HostPattern>, SecretSpecError> {
    if hosts.is_empty() {
        return Err(SecretSpecError::NoHost);
    }
    if hosts.len() > MAX_HOSTS {
        return Err(SecretSpecError::TooManyHosts);
    }
    let hosts = hosts.iter().map(|host| HostPattern::parse(host));
    Ok(hosts.collect::<Result<_, _>>()?)
}

fn parse_header(text: &str) -> Result<HeaderSpec, SecretSpecError> {
    let name = text.to_ascii_lowercase();
    // RFC 9110 §5.6.2 token; a name of digits only is a port typed by mistake.
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let number = name.bytes().all(|byte| byte.is_ascii_digit());
    let framing = FRAMING_HEADERS.contains(&name.as_str()) || name.starts_with("proxy-");
    if number || framing || !name.bytes().all(token) {
        return Err(SecretSpecError::Header {
            header: text.chars().take(80).collect(),
        });
    }
    Ok(if name == "authorization" {
        HeaderSpec::any_authorization()
    } else {
        HeaderSpec::raw(&name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SecretSpec, SecretSpecError> {
        text.parse()
    }

    fn shown(spec: &SecretSpec) -> String {
        let hosts: Vec<String> = spec.hosts.iter().map(ToString::to_string).collect();
        format!(
            "{} {:?} {} {}",
            spec.name,
            spec.source,
            hosts.join(","),
            spec.header.name
        )
    }

    #[test]
    fn accepts_every_documented_form() {
        for (text, expected) in [
            (
                "TOK@api.example.org",
                r#"TOK Environment("TOK") api.example.org authorization"#,
            ),
            (
                "T=env:U@a.b,*.c.d",
                r#"T Environment("U") a.b,*.c.d authorization"#,
            ),
            (
                "T=file:~/a@b:c@a.b",
                r#"T File("~/a@b:c") a.b authorization"#,
            ),
            (
                "T=cmd:pass show x@a.b:X-Api-Key",
                r#"T Command(["pass", "show", "x"]) a.b x-api-key"#,
            ),
            (
                "T@a.b:Authorization",
                r#"T Environment("T") a.b authorization"#,
            ),
        ] {
            assert_eq!(shown(&parse(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn refuses_every_other_form() {
        for (text, expected) in [
            ("TOK", SecretSpecError::NoHost),
            ("TOK@", SecretSpecError::NoHost),
            ("@a.b", SecretSpecError::Name),
            ("1A@a.b", SecretSpecError::Name),
            ("A-B@a.b", SecretSpecError::Name),
            ("A=@a.b", SecretSpecError::Source),
            ("A=literal@a.b", SecretSpecError::Source),
            ("A=env:@a.b", SecretSpecError::Source),
            ("A=file:@a.b", SecretSpecError::Source),
            ("A=cmd: @a.b", SecretSpecError::Source),
            (
                "A@a.b:443",
                SecretSpecError::Header {
                    header: "443".to_owned(),
                },
            ),
            (
                "A@a.b:",
                SecretSpecError::Header {
                    header: String::new(),
                },
            ),
            (
                "A@a.b:Host",
                SecretSpecError::Header {
                    header: "Host".to_owned(),
                },
            ),
            (
                "A@a.b:Proxy-Authorization",
                SecretSpecError::Header {
                    header: "Proxy-Authorization".to_owned(),
                },
            ),
            (
                "A@a.b:x y",
                SecretSpecError::Header {
                    header: "x y".to_owned(),
                },
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
        for text in ["A@127.0.0.1", "A@a.b,,c.d", "A@*.org", "A@a b", "A@*"] {
            assert!(
                matches!(parse(text), Err(SecretSpecError::Host(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn error_never_repeats_a_token_typed_in_place_of_a_source() {
        for text in ["A=sk-real@a.b", "A=sk:real@a.b", "A=sk-real", "sk-real@a.b"] {
            let error = parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("real"), "{error:?}");
        }
    }

    #[test]
    fn number_of_hosts_is_bounded() {
        let hosts = vec!["a.b"; MAX_HOSTS + 1].join(",");
        assert_eq!(
            parse(&format!("A@{hosts}")).unwrap_err(),
            SecretSpecError::TooManyHosts
        );
    }
}
