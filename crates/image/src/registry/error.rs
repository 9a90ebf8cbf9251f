//! What can go wrong with a registry, in words that name the registry and the image and say what helps.

use std::error::Error as _;
use std::time::Duration;

use serde::Deserialize;

use super::credential::CredentialError;
use crate::digest::ImageDigest;
use crate::escape::Escaped;
use crate::reference::Reference;

/// Why a registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// 401 after every credential there is.
    #[error("{} refuses {image} without a valid login (401: {reason}){}", image.registry(), login_hint(*has_credential))]
    Unauthorized {
        /// The image.
        image: Reference,
        /// What the registry said.
        reason: Escaped,
        /// Whether a credential for this registry was found.
        has_credential: bool,
    },
    /// 403.
    #[error("{} forbids access to {image} (403: {reason}){}", image.registry(), login_hint(*has_credential))]
    Forbidden {
        /// The image.
        image: Reference,
        /// What the registry said.
        reason: Escaped,
        /// Whether a credential for this registry was found.
        has_credential: bool,
    },
    /// 404.
    #[error("{} has no {image} (404: {reason})", image.registry())]
    NotFound {
        /// The image.
        image: Reference,
        /// What the registry said.
        reason: Escaped,
    },
    /// 429 to the last attempt.
    #[error("{} limits the rate of requests (429) for {image}{}", image.registry(), wait_hint(*retry_after))]
    TooManyRequests {
        /// The image.
        image: Reference,
        /// What the registry asks to wait.
        retry_after: Option<Duration>,
    },
    /// Any other status.
    #[error("{} answers {status} ({reason}) to a request for {image}", image.registry())]
    Status {
        /// The image.
        image: Reference,
        /// The HTTP status.
        status: u16,
        /// What the registry said.
        reason: Escaped,
        /// What the registry asks to wait.
        retry_after: Option<Duration>,
    },
    /// The server's certificate is not trusted, or TLS did not come up.
    #[error("no trusted TLS connection to {} for {image}; a private certificate authority must be given explicitly", image.registry())]
    Tls {
        /// The image.
        image: Reference,
        /// What TLS says.
        #[source]
        source: rustls::Error,
    },
    /// The connection did not come up or broke.
    #[error("connection to {} broken while pulling {image}", image.registry())]
    Transport {
        /// The image.
        image: Reference,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// The registry was silent for too long.
    #[error("{} did not answer in time while pulling {image}", image.registry())]
    Timeout {
        /// The image.
        image: Reference,
    },
    /// An answer is larger than anything sensible.
    #[error("{} answers with more than {limit} bytes to a request for {image}", image.registry())]
    TooLarge {
        /// The image.
        image: Reference,
        /// The limit that was passed.
        limit: u64,
    },
    /// The token server's answer cannot be used.
    #[error("the token server of {} gives an unusable token for {image}", image.registry())]
    InvalidToken {
        /// The image.
        image: Reference,
    },
    /// The authentication realm is not an address credentials may be sent to.
    #[error("{} names `{realm}` as its token server, which is not a trusted address (https needed)", image.registry())]
    Realm {
        /// The image.
        image: Reference,
        /// The address it named.
        realm: Escaped,
    },
    /// A range was asked for and another one came.
    #[error("{} answers a request for part of {digest} of {image} with another part", image.registry())]
    BadRange {
        /// The image.
        image: Reference,
        /// The blob.
        digest: ImageDigest,
    },
    /// The connection ended where the answer could not have.
    #[error("the connection to {} was cut while pulling {image}", image.registry())]
    Cut {
        /// The image.
        image: Reference,
    },
    /// The place the registry keeps blobs at refuses; its addresses expire.
    #[error("{host}, where {} keeps {image}, answers {status} ({reason})", image.registry())]
    Storage {
        /// The image.
        image: Reference,
        /// Where the registry redirected to.
        host: Escaped,
        /// The HTTP status.
        status: u16,
        /// What it said.
        reason: Escaped,
    },
    /// A redirect that is not followed.
    #[error(
        "{} redirects a request for {image} to `{target}`, which is not followed: it is without TLS, or the last of too many",
        image.registry()
    )]
    Redirect {
        /// The image.
        image: Reference,
        /// Where to.
        target: Escaped,
    },
    /// HTML instead of a manifest.
    #[error(
        "{} answers with a web page instead of {image}: perhaps the network wants a login, or this is no registry",
        image.registry()
    )]
    WebPage {
        /// The image.
        image: Reference,
    },
    /// The reference does not make a URL.
    #[error("{image} is not an address a registry can be asked at")]
    Address {
        /// The image.
        image: Reference,
    },
    /// The registry wants a login, and the credential files or helpers that may have one do not work.
    #[error("{} wants a login for {image}, and none can be read", image.registry())]
    Credential {
        /// The image.
        image: Reference,
        /// What happened.
        #[source]
        source: CredentialError,
    },
    /// The extra certificate authorities, the proxy or the HTTP client's set-up.
    #[error("the {what} for {} cannot be used", image.registry())]
    Setup {
        /// The image.
        image: Reference,
        /// What it is about.
        what: &'static str,
    },
}

impl RegistryError {
    /// Sorts a transport error: TLS trouble is told apart, for it needs other help.
    pub(super) fn transport(image: &Reference, source: reqwest::Error) -> Self {
        let image = image.clone();
        if source.is_timeout() {
            return Self::Timeout { image };
        }
        match tls_error(&source) {
            Some(source) => Self::Tls { image, source },
            None => Self::Transport {
                image,
                source: source.without_url(),
            },
        }
    }

    /// Whether asking again may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::TooManyRequests { .. }
            | Self::Transport { .. }
            | Self::Timeout { .. }
            | Self::Cut { .. }
            | Self::Storage { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 408,
            _ => false,
        }
    }

    /// Whether no connection came up at all.
    pub(crate) fn is_connect(&self) -> bool {
        matches!(self, Self::Transport { source, .. } if source.is_connect())
    }

    /// How long the registry wants us to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { retry_after, .. } | Self::Status { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}

fn tls_error(error: &reqwest::Error) -> Option<rustls::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls.clone());
        }
        // tokio-rustls wraps its errors in io::Error, whose `source` skips the wrapped value itself.
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if let Some(tls) = wrapped.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(tls.clone());
        }
        cause = wrapped.map_or_else(
            || error.source(),
            |inner| Some(inner as &(dyn std::error::Error + 'static)),
        );
    }
    None
}

fn login_hint(has_credential: bool) -> &'static str {
    if has_credential {
        "; the stored login is not accepted"
    } else {
        "; no login for it was found, try `docker login` or `podman login`"
    }
}

fn wait_hint(retry_after: Option<Duration>) -> String {
    retry_after
        .map(|wait| format!("; try again in {} s", wait.as_secs()))
        .unwrap_or_default()
}

/// The first message of a registry's error document, if the body is one.
pub(super) fn reason(body: &[u8]) -> Option<Escaped> {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        code: Option<String>,
        message: Option<String>,
    }
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    let first = envelope.errors.into_iter().next()?;
    first
        .message
        .filter(|text| !text.is_empty())
        .or(first.code)
        .map(Escaped::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_taken_from_the_error_document_and_escaped() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m","detail":{}}]}"#;
        assert_eq!(reason(body).unwrap().as_str(), "no\\x1b[31m");
        assert_eq!(
            reason(br#"{"errors":[{"code":"DENIED"}]}"#)
                .unwrap()
                .as_str(),
            "DENIED"
        );
        assert_eq!(reason(b"<html>"), None);
        assert_eq!(reason(br#"{"errors":[]}"#), None);
    }

    #[test]
    fn messages_name_registry_image_and_remedy() {
        let image: Reference = "ghcr.io/a/b:1".parse().unwrap();
        let text = RegistryError::Unauthorized {
            image: image.clone(),
            reason: Escaped::new("x"),
            has_credential: false,
        }
        .to_string();
        assert!(
            text.contains("ghcr.io refuses ghcr.io/a/b:1") && text.contains("podman login"),
            "{text}"
        );
        let text = RegistryError::TooManyRequests {
            image,
            retry_after: Some(Duration::from_secs(7)),
        }
        .to_string();
        assert!(text.contains("429") && text.contains("7 s"), "{text}");
    }
}
