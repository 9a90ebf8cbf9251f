//! Reads what the table names out of one document of the host.

use std::path::Path;
use std::time::{Duration, SystemTime};

use agent_vm_secret::Secret;
use serde_json::Value;

use crate::collect::CollectError;
use crate::gh_hosts;
use crate::guest_document::{self, Shape, at};
use crate::jwt;
use crate::provider::{Entry, EntryKind, FileFormat, Login, Token};
use crate::refresh_endpoint::{ExpiryField, ScopeField};

/// A token with all that is known of it.
pub(super) struct Found<'a> {
    pub(super) token: &'a Token,
    pub(super) secret: Option<Secret>,
    /// For people.
    pub(super) source: String,
    /// The document it was found in.
    pub(super) document: &'a Value,
    pub(super) login: Option<(&'a Login, &'a Path)>,
}

pub(super) fn parse(format: FileFormat, text: &str, path: &Path) -> Result<Value, CollectError> {
    let path = || path.to_owned();
    match format {
        FileFormat::Json => serde_json::from_str(text).map_err(|source| CollectError::ParseLogin {
            path: path(),
            source,
        }),
        FileFormat::GhHosts => gh_hosts::parse(text).map_err(|source| CollectError::ParseHosts {
            path: path(),
            source,
        }),
    }
}

/// What an entry finds in a document; nothing where it is not there or no token.
pub(super) fn entry_found<'a>(
    entry: &'a Entry,
    document: &'a Value,
    path: &'a Path,
) -> Option<Found<'a>> {
    if !(entry.applies)(document) {
        return None;
    }
    let (secret, login) = match &entry.kind {
        EntryKind::Key(field) => (Some(secret_at(document, field)?), None),
        EntryKind::Login(login) => {
            let secret = match login.fields.access {
                Some(field) => Some(secret_at(document, field)?),
                // Only a renewal gives one, so there must be what renews.
                None => secret_at(document, login.fields.refresh).map(|_| None)?,
            };
            (secret, Some((login, path)))
        }
    };
    Some(Found {
        token: &entry.token,
        secret,
        source: path.display().to_string(),
        document,
        login,
    })
}

/// The key of the root below which the entry is.
pub(super) fn found_key(entry: &Entry) -> &'static str {
    let field = match &entry.kind {
        EntryKind::Key(field) => field,
        EntryKind::Login(login) => login.fields.refresh,
    };
    field.first().copied().unwrap_or_default()
}

pub(super) fn secret_at(document: &Value, field: &[&str]) -> Option<Secret> {
    let value = field
        .iter()
        .try_fold(document, |value, key| value.get(*key));
    Secret::new(value?.as_str()?).ok()
}

pub(super) fn expires(login: &Login, found: &Found<'_>) -> Option<SystemTime> {
    match login.fields.expiry {
        ExpiryField::Milliseconds(field) => {
            let ms = Duration::from_millis(at(found.document, field)?.as_u64()?);
            SystemTime::UNIX_EPOCH.checked_add(ms)
        }
        ExpiryField::AccessTokenClaim => jwt::expiry(found.secret.as_ref()?.expose()),
        ExpiryField::Nowhere => None,
    }
}

/// The scopes a guest may be told.
pub(super) fn scope(login: &Login, document: &Value) -> String {
    let copied =
        |field, shape| at(document, field).and_then(|value| guest_document::copy(value, shape));
    let value = match login.fields.scopes {
        None => None,
        Some(ScopeField::List(field)) => copied(field, Shape::Words),
        Some(ScopeField::Words(field)) => copied(field, Shape::Scopes),
    };
    match value {
        Some(Value::String(text)) => text,
        Some(Value::Array(words)) => {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            words.join(" ")
        }
        _ => String::new(),
    }
}
