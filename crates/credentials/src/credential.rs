//! What a launch knows about one token, and what the guest gets in its stead.

use agent_vm_policy::HostPattern;
use agent_vm_secret::{Placeholder, PlaceholderScanner, Secret};
use serde::Serialize;

use crate::collect::CollectError;
use crate::refresh_endpoint::RefreshFacts;

/// One real token with everything the egress needs to exchange it. `Debug` never shows the token.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Name shown to people, for example `claude-oauth` or `TOK`.
    pub name: String,
    /// The real token as it was found; `None` when only a renewal gives one (`refresh` says how).
    pub secret: Option<Secret>,
    /// What the guest holds.
    pub placeholder: Placeholder,
    /// The only hosts that may receive the token; empty for one that is never exchanged.
    pub hosts: Vec<HostPattern>,
    /// The only header it may be exchanged in.
    pub header: HeaderSpec,
    /// Where it was found, for people: a file, a variable, a command; never the token.
    pub source: String,
    /// How an access token is renewed; `None` for one that is not.
    pub refresh: Option<RefreshFacts>,
}

impl Credential {
    /// The token as it was found, if it was. Every caller is a place to review.
    #[must_use]
    pub fn exposed(&self) -> Option<&str> {
        self.secret.as_ref().map(Secret::expose)
    }
}

/// The header a token travels in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeaderSpec {
    /// Lower-case field name (RFC 9110 §5.1).
    pub name: String,
    /// How the value is built around the token.
    pub scheme: AuthScheme,
}

/// How a header value is built around a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthScheme {
    /// `Bearer TOKEN`, the scheme in any case (RFC 9110 §11.1).
    Bearer,
    /// Any scheme word, also `Basic` with the token as its user or password.
    Any,
    /// The token is the whole value.
    Raw,
}

impl HeaderSpec {
    /// `authorization: Bearer TOKEN`.
    #[must_use]
    pub fn bearer() -> Self {
        Self {
            name: "authorization".to_owned(),
            scheme: AuthScheme::Bearer,
        }
    }

    /// `authorization: SCHEME TOKEN`.
    #[must_use]
    pub fn any_authorization() -> Self {
        Self {
            name: "authorization".to_owned(),
            scheme: AuthScheme::Any,
        }
    }

    /// `NAME: TOKEN`; `name` must be a lower-case field name.
    #[must_use]
    pub fn raw(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            scheme: AuthScheme::Raw,
        }
    }
}

/// A file made for the guest; holds placeholders, never tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFile {
    /// Path relative to the home directory of the guest's user.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// All of it.
    pub content: Vec<u8>,
}

/// Everything that was found for one launch.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// The tokens.
    pub credentials: Vec<Credential>,
    /// Files the agents expect their login in.
    pub guest_files: Vec<GuestFile>,
    /// Variables the agents expect their login in: name and placeholder; some say only which project or region is
    /// meant.
    pub guest_env: Vec<(String, String)>,
    /// What a person should know.
    pub notices: Vec<Notice>,
}

/// Something odd about the host's credentials that does not stop a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// No login was found for a provider.
    NotLoggedIn {
        /// What was looked for.
        provider: &'static str,
        /// How to log in on the host.
        fix: &'static str,
    },
    /// The token that was found is no longer valid.
    Expired {
        /// Where it was found.
        source: String,
        /// How to renew it on the host.
        fix: &'static str,
    },
    /// A variable is set, but to no token that the program takes; it was passed over.
    NotAccepted {
        /// The variable.
        variable: &'static str,
        /// How a token that is taken begins.
        accepts: &'static [&'static str],
    },
    /// A login of a kind that is not supported is on this host; nothing of it is used.
    PassedOver {
        /// Where it is: a variable, or a part of a file.
        source: String,
        /// Why it is not used, as the end of a sentence, and what to do.
        why: &'static str,
    },
    /// A file holds something that is not used, because nothing is known of where it may go.
    LeftOut {
        /// The file.
        source: String,
        /// Which part, shortened; `None` for all of it.
        what: Option<String>,
    },
}

impl Collected {
    /// Checks that no placeholder is found in another, or in a part of one that is divided by dots: the egress
    /// would take one for the other.
    ///
    /// # Errors
    /// [`CollectError::PlaceholderOverlap`] with the first that is.
    pub fn check_placeholders(&self) -> Result<(), CollectError> {
        let all = || self.credentials.iter().map(|known| &known.placeholder);
        let scanner = PlaceholderScanner::new(all());
        for (index, known) in self.credentials.iter().enumerate() {
            let text = known.placeholder.as_str();
            let alone = scanner.find(text.as_bytes()) == Some(index);
            let others = all().enumerate().filter(|(other, _)| *other != index);
            if !alone
                || others
                    .into_iter()
                    .any(|(_, other)| other.as_str().contains(text))
            {
                return Err(CollectError::PlaceholderOverlap {
                    name: known.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// Adds what was found elsewhere.
    pub fn extend(&mut self, other: Self) {
        self.credentials.extend(other.credentials);
        self.guest_files.extend(other.guest_files);
        self.guest_env.extend(other.guest_env);
        self.notices.extend(other.notices);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(placeholder: &Placeholder) -> Credential {
        Credential {
            name: "A".to_owned(),
            secret: None,
            placeholder: placeholder.clone(),
            hosts: Vec::new(),
            header: HeaderSpec::bearer(),
            source: String::new(),
            refresh: None,
        }
    }

    fn check(placeholders: &[&Placeholder]) -> Result<(), CollectError> {
        let collected = Collected {
            credentials: placeholders.iter().map(|known| credential(known)).collect(),
            ..Collected::default()
        };
        collected.check_placeholders()
    }

    #[test]
    fn placeholder_that_is_part_of_another_is_refused() {
        let [one, two] = [(); 2].map(|()| Placeholder::mint("gho_").unwrap());
        check(&[&one, &two]).unwrap();
        let within = Placeholder::parse(&format!("a.b.{one}")).unwrap();
        let tail = Placeholder::parse(one.as_str().strip_prefix("gho_").unwrap()).unwrap();
        for set in [
            [&one, &one],
            [&one, &within],
            [&within, &tail],
            [&tail, &one],
        ] {
            assert!(matches!(
                check(&set),
                Err(CollectError::PlaceholderOverlap { .. })
            ));
        }
    }
}
