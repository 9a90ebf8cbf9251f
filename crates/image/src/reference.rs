//! Image references as people type them, and their one canonical form.
//!
//! The grammar is that of the distribution project (`reference/regexp.go`, OCI distribution-spec "Pulling manifests"):
//! `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`. The first component is a registry if it contains a dot or a colon or is `localhost`;
//! otherwise the registry is `docker.io`, where a name of one component means `library/NAME`.
//! A reference holds only valid parts: each may be put into a URL path without escaping. Only `sha256` digests are taken.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use crate::digest::{DigestParseError, ImageDigest};
use crate::escape::Escaped;

/// The registry of names without one.
pub(crate) const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of names with neither tag nor digest.
pub(crate) const DEFAULT_TAG: &str = "latest";
/// The longest registry and repository together, in bytes (distribution `NameTotalLengthMax`).
pub(crate) const MAX_NAME_LENGTH: usize = 255;
/// The longest tag, in bytes.
pub(crate) const MAX_TAG_LENGTH: usize = 128;

/// A parsed image reference; `Display` gives the canonical form. Cheap to clone: every error of a pull has one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference(Arc<Parts>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Parts {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<ImageDigest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("an image reference is empty")]
    Empty,
    /// Registry and repository are too long together.
    #[error("the image name `{name}` is longer than {MAX_NAME_LENGTH} bytes")]
    TooLong {
        /// The name, shortened.
        name: Escaped,
    },
    /// The registry is not `HOST[:PORT]`.
    #[error("`{registry}` is not a registry of the form HOST or HOST:PORT")]
    Registry {
        /// What stood before the first slash.
        registry: Escaped,
    },
    /// The repository has characters or separators it must not have.
    #[error(
        "`{repository}` is not a repository: components of lower-case letters and digits, joined by `.`, `_`, `__` or `-`, and `/` between them"
    )]
    Repository {
        /// What stood in place of the repository.
        repository: Escaped,
    },
    /// The tag has characters it must not have, or is too long.
    #[error(
        "`{tag}` is not a tag: up to {MAX_TAG_LENGTH} letters, digits, `_`, `.` and `-`, not beginning with `.` or `-`"
    )]
    Tag {
        /// What stood in place of the tag.
        tag: Escaped,
    },
    /// The part after `@` is not a digest.
    #[error("the digest of the image reference is not valid")]
    Digest {
        /// What is wrong with it.
        #[source]
        source: DigestParseError,
    },
}

impl Reference {
    /// The registry as the user names it: `docker.io`, `ghcr.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.0.registry
    }

    /// The host and port that serve the registry's API; differs from [`Self::registry`] for Docker Hub only.
    pub fn api_host(&self) -> &str {
        match self.0.registry.as_str() {
            DEFAULT_REGISTRY => "registry-1.docker.io",
            other => other,
        }
    }

    /// The repository, for example `library/debian`.
    pub fn repository(&self) -> &str {
        &self.0.repository
    }

    /// The tag, if one was given or implied.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag.as_deref()
    }

    /// The digest, if the reference pins one.
    pub fn digest(&self) -> Option<ImageDigest> {
        self.0.digest
    }

    /// The same repository, pinned to `digest` and without a tag.
    #[must_use]
    pub fn pinned(&self, digest: ImageDigest) -> Self {
        let Parts {
            registry,
            repository,
            ..
        } = Parts::clone(&self.0);
        Self(Arc::new(Parts {
            registry,
            repository,
            tag: None,
            digest: Some(digest),
        }))
    }

    /// What follows `/manifests/` when the image is asked for: the digest if there is one, else the tag.
    pub(crate) fn manifest_selector(&self) -> String {
        match (&self.0.digest, &self.0.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Whether the registry is this machine: `localhost`, `127.0.0.0/8` or `[::1]`, with or without a port.
    pub fn is_loopback(&self) -> bool {
        let host = split_port(&self.0.registry).0;
        if let Some(v6) = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            return v6
                .parse::<Ipv6Addr>()
                .is_ok_and(|address| address.is_loopback());
        }
        host == "localhost"
            || host
                .parse::<Ipv4Addr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(
                    digest
                        .parse()
                        .map_err(|source| ReferenceError::Digest { source })?,
                ),
            ),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest)?;
        let (registry, repository) = split_registry(name)?;
        if registry.len() + 1 + repository.len() > MAX_NAME_LENGTH {
            return Err(ReferenceError::TooLong {
                name: Escaped::new(name),
            });
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self(Arc::new(Parts {
            registry,
            repository,
            tag,
            digest,
        })))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.registry, self.0.repository)?;
        if let Some(tag) = &self.0.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.0.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn split_tag(text: &str) -> Result<(&str, Option<&str>), ReferenceError> {
    let Some(colon) = text
        .rfind(':')
        .filter(|&colon| !text[colon..].contains('/'))
    else {
        return Ok((text, None));
    };
    let (name, tag) = (&text[..colon], &text[colon + 1..]);
    if !is_tag(tag) {
        return Err(ReferenceError::Tag {
            tag: Escaped::new(tag),
        });
    }
    Ok((name, Some(tag)))
}

fn split_registry(name: &str) -> Result<(String, String), ReferenceError> {
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if names_registry(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    if !is_registry(registry) {
        return Err(ReferenceError::Registry {
            registry: Escaped::new(registry),
        });
    }
    let registry = match registry.to_ascii_lowercase() {
        hub if hub == "index.docker.io" || hub == "registry-1.docker.io" => {
            DEFAULT_REGISTRY.to_owned()
        }
        other => other,
    };
    if !path.split('/').all(is_repository_component) {
        return Err(ReferenceError::Repository {
            repository: Escaped::new(path),
        });
    }
    let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    Ok((registry, repository))
}

fn names_registry(component: &str) -> bool {
    component.contains(['.', ':']) || component.eq_ignore_ascii_case("localhost")
}

fn is_registry(text: &str) -> bool {
    let (host, port) = split_port(text);
    if !port.is_none_or(|port| {
        !port.is_empty()
            && port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    }) {
        return false;
    }
    if let Some(v6) = host.strip_prefix('[') {
        return v6
            .strip_suffix(']')
            .is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok());
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

fn split_port(registry: &str) -> (&str, Option<&str>) {
    match registry
        .rfind(':')
        .filter(|&colon| !registry[colon..].contains(']'))
    {
        Some(colon) => (&registry[..colon], Some(&registry[colon + 1..])),
        None => (registry, None),
    }
}

fn is_repository_component(component: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alphanumeric(first)
        && alphanumeric(last)
        && bytes.split(alphanumeric).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__")
                || separator.iter().all(|&byte| byte == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=MAX_TAG_LENGTH).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag
            .bytes()
            .all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests;
