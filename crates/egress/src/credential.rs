//! Credentials bound to hosts and one header, and the exchange of placeholder for secret in a header's value.
//!
//! The exchange is planned while the request is judged ([`Slot::find`]) and carried out only after the verdict
//! ([`Slot::render`]); in between nothing holds the secret.

use std::pin::Pin;

use agent_vm_policy::{HostName, HostPattern};
use agent_vm_secret::{Placeholder, PlaceholderScanner, Secret};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{self, HeaderName, HeaderValue};
use thiserror::Error;

/// A placeholder, and where its secret may go.
#[derive(Debug, Clone)]
pub struct BoundCredential {
    /// Name for people, the audit log and the [`SecretSource`]; not secret.
    pub name: String,
    /// What the guest holds.
    pub placeholder: Placeholder,
    /// The only hosts the secret may be sent to.
    pub hosts: Vec<HostPattern>,
    /// The only header it may be sent in.
    pub header: HeaderRule,
}

impl BoundCredential {
    /// Whether the secret may be sent to `host`.
    #[must_use]
    pub fn is_bound_to(&self, host: &HostName) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(host))
    }
}

/// The header a credential belongs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderRule {
    /// `Authorization` with any scheme; for `Basic` the user:password pair is decoded and encoded again.
    Authorization,
    /// Another header, whose value holds the secret as it is.
    Named(HeaderName),
}

impl HeaderRule {
    /// Reads a header name in any case.
    ///
    /// # Errors
    /// When it is no header name, or a header that frames or routes the message.
    pub fn parse(name: &str) -> Result<Self, HeaderRuleError> {
        let refuse = || HeaderRuleError {
            name: name.chars().take(80).collect(),
        };
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse())?;
        if FRAMING_HEADERS.contains(&name) {
            return Err(refuse());
        }
        Ok(if name == header::AUTHORIZATION {
            Self::Authorization
        } else {
            Self::Named(name)
        })
    }

    /// The header's name.
    #[must_use]
    pub fn name(&self) -> &HeaderName {
        match self {
            Self::Authorization => &header::AUTHORIZATION,
            Self::Named(name) => name,
        }
    }
}

/// Headers that frame or route a message: never a place for a credential.
const FRAMING_HEADERS: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The name is not that of a header a credential can be in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name:?} is not a header that can carry a credential")]
pub struct HeaderRuleError {
    name: String,
}

/// A future that stays on the egress's thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Where secrets come from, asked once per authorised request. `launch` adapts the host's credentials to it.
pub trait SecretSource {
    /// The current secret of the credential with this name. May wait while an expired one is renewed, for a bounded
    /// time.
    ///
    /// Resolves to an error when there is none at the moment; the guest is told 503.
    fn secret<'a>(
        &'a self,
        credential: &'a str,
    ) -> LocalBoxFuture<'a, Result<Secret, SecretUnavailable>>;

    /// An upstream answered 401 to a request that carried `used`. Resolves to whether there is another secret by now,
    /// with which the request is worth repeating. May wait as [`SecretSource::secret`] does.
    fn rejected<'a>(&'a self, credential: &'a str, used: &'a Secret) -> LocalBoxFuture<'a, bool>;
}

/// A secret cannot be had at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the secret of credential {credential} is not available")]
pub struct SecretUnavailable {
    /// Name of the credential.
    pub credential: String,
}

/// All credentials of one VM with a search for their placeholders.
#[derive(Debug)]
pub(crate) struct CredentialSet {
    credentials: Vec<BoundCredential>,
    scanner: PlaceholderScanner,
}

impl CredentialSet {
    pub(crate) fn new(credentials: Vec<BoundCredential>) -> Self {
        let scanner = PlaceholderScanner::new(credentials.iter().map(|c| &c.placeholder));
        Self {
            credentials,
            scanner,
        }
    }

    pub(crate) fn get(&self, index: usize) -> &BoundCredential {
        &self.credentials[index]
    }

    /// The index of the credential with this name.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.credentials.iter().position(|known| known.name == name)
    }

    /// Whether any credential belongs in this header.
    pub(crate) fn is_own_header(&self, name: &HeaderName) -> bool {
        self.credentials.iter().any(|c| c.header.name() == name)
    }

    /// The headers that credentials bound to `host` belong in.
    pub(crate) fn headers_at(&self, host: &HostName) -> Vec<&HeaderRule> {
        let bound = self.credentials.iter().filter(|c| c.is_bound_to(host));
        bound.map(|credential| &credential.header).collect()
    }

    pub(crate) fn scanner(&self) -> &PlaceholderScanner {
        &self.scanner
    }
}

/// Where in a header's value the secret goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Between these.
    Plain { before: Vec<u8>, after: Vec<u8> },
    /// Between these, after the scheme and inside the base64 of `Basic`.
    Basic {
        scheme: Vec<u8>,
        before: Vec<u8>,
        after: Vec<u8>,
    },
}

impl Slot {
    /// Finds the one place for the secret of `credential` in `value`; `None` when there is none, more than one, or
    /// another placeholder beside it.
    pub(crate) fn find(
        value: &[u8],
        credential: &BoundCredential,
        scanner: &PlaceholderScanner,
    ) -> Option<Self> {
        let text = credential.placeholder.as_str().as_bytes();
        let split = |bytes: &[u8]| {
            let at = bytes
                .windows(text.len())
                .position(|window| window == text)?;
            let (before, after) = (bytes[..at].to_vec(), bytes[at + text.len()..].to_vec());
            let clean = scanner.find(&before).is_none() && scanner.find(&after).is_none();
            clean.then_some((before, after))
        };
        if credential.header == HeaderRule::Authorization
            && let Some((scheme, pair)) = basic_pair(value)
        {
            let (before, after) = split(&pair)?;
            return Some(Self::Basic {
                scheme: scheme.to_vec(),
                before,
                after,
            });
        }
        let (before, after) = split(value)?;
        Some(Self::Plain { before, after })
    }

    /// What stands around the secret.
    pub(crate) fn rest(&self) -> [&[u8]; 2] {
        match self {
            Self::Plain { before, after } | Self::Basic { before, after, .. } => [before, after],
        }
    }

    /// The header's value with the secret in its place, marked sensitive so that HPACK never indexes it. `None` when
    /// the result is no header value.
    pub(crate) fn render(&self, secret: &Secret) -> Option<HeaderValue> {
        let secret = secret.expose().as_bytes();
        let value = match self {
            Self::Plain { before, after } => [before, secret, after].concat(),
            Self::Basic {
                scheme,
                before,
                after,
            } => {
                let pair = [before, secret, after].concat();
                let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
                [scheme, &b" "[..], encoded.as_bytes()].concat()
            }
        };
        let mut value = HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Scheme as written and the decoded pair of a `Basic` authorization.
fn basic_pair(value: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, token) = (&value[..space], value[space..].trim_ascii());
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = BASE64
        .decode(token)
        .or_else(|_| BASE64_URL.decode(token))
        .ok()?;
    Some((scheme, pair))
}

const FORGIVING: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
/// Base 64 with or without padding.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, FORGIVING);
/// URL-safe base 64 with or without padding.
pub(crate) const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, FORGIVING);

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(header: HeaderRule) -> (CredentialSet, Secret) {
        let credential = BoundCredential {
            name: "tok".into(),
            placeholder: Placeholder::mint("gho_").unwrap(),
            hosts: vec![HostPattern::parse("api.bound.test").unwrap()],
            header,
        };
        (
            CredentialSet::new(vec![credential]),
            Secret::new("real-token").unwrap(),
        )
    }

    fn exchange(set: &CredentialSet, secret: &Secret, value: &str) -> Option<String> {
        let slot = Slot::find(value.as_bytes(), set.get(0), set.scanner())?;
        let value = slot.render(secret).unwrap();
        assert!(value.is_sensitive());
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn exchanges_under_any_scheme() {
        let (set, secret) = credential(HeaderRule::Authorization);
        let placeholder = &set.get(0).placeholder;
        for (sent, expected) in [
            ("Bearer P", "Bearer real-token"),
            ("bearer P", "bearer real-token"),
            ("token P", "token real-token"),
            ("P", "real-token"),
            ("Token token=\"P\"", "Token token=\"real-token\""),
        ] {
            let sent = sent.replace('P', placeholder.as_str());
            assert_eq!(exchange(&set, &secret, &sent).as_deref(), Some(expected));
        }
    }

    #[test]
    fn decodes_and_encodes_basic_again() {
        let (set, secret) = credential(HeaderRule::Authorization);
        let pair = format!("git-user:{}", set.get(0).placeholder);
        for sent in [
            format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(&pair)
            ),
            format!(
                "basic {}",
                base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&pair)
            ),
        ] {
            let (scheme, token) = (&sent[..5], "Z2l0LXVzZXI6cmVhbC10b2tlbg==");
            assert_eq!(
                exchange(&set, &secret, &sent),
                Some(format!("{scheme} {token}"))
            );
        }
    }

    #[test]
    fn a_named_header_is_not_decoded() {
        let rule = HeaderRule::parse("X-Api-Key").unwrap();
        let (set, secret) = credential(rule);
        let sent = set.get(0).placeholder.to_string();
        assert_eq!(
            exchange(&set, &secret, &sent).as_deref(),
            Some("real-token")
        );
        let basic = base64::engine::general_purpose::STANDARD.encode(&sent);
        assert_eq!(exchange(&set, &secret, &format!("Basic {basic}")), None);
    }

    #[test]
    fn refuses_none_two_and_partial_placeholders() {
        let (set, secret) = credential(HeaderRule::Authorization);
        let placeholder = set.get(0).placeholder.as_str();
        let twice = format!("Bearer {placeholder}, {placeholder}");
        let no_prefix = format!("Bearer {}", &placeholder[4..]);
        for sent in ["Bearer x", "Basic !!", &twice, &no_prefix] {
            assert_eq!(exchange(&set, &secret, sent), None, "{sent}");
        }
    }

    #[test]
    fn refuses_framing_headers_and_bad_names() {
        for name in ["Host", "connection", "Content-Length", "a b", "", ":path"] {
            assert!(HeaderRule::parse(name).is_err(), "{name:?}");
        }
        assert_eq!(
            HeaderRule::parse("AUTHORIZATION"),
            Ok(HeaderRule::Authorization)
        );
    }
}
