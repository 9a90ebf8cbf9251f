//! What a login's file on the host holds at the moment, and the file with what a renewal brought.

use std::time::{Duration, SystemTime};

use agent_vm_secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::document::{text, value, with_value};
use super::grant::Granted;
use crate::refresh_endpoint::{ClientValue, ExpiryField, LoginFields, RefreshEndpoint, ScopeField};

/// How long an access token is taken to live when nothing says so.
pub(super) const UNSAID_LIFETIME: Duration = Duration::from_secs(3600);

/// A login as its file has it. `Debug` shows no token.
#[derive(Debug, Clone)]
pub struct Login {
    /// The access token; `None` when the file has no place for it or holds none.
    pub access: Option<Secret>,
    /// The refresh token.
    pub refresh: Option<Secret>,
    /// When the access token ends; `None` when nothing says so.
    pub expires: Option<SystemTime>,
}

impl Login {
    /// Reads what `fields` name; absent values are `None`, never errors.
    pub(super) fn read(document: &str, fields: &LoginFields) -> Self {
        let secret = |path| text(document, path).and_then(|text| Secret::new(text).ok());
        let access = fields.access.and_then(secret);
        let expires = match fields.expiry {
            ExpiryField::Milliseconds(path) => {
                value(document, path).and_then(|ms| milliseconds(&ms))
            }
            ExpiryField::AccessTokenClaim => {
                access.as_ref().and_then(|token| claim(token.expose()))
            }
            ExpiryField::Nowhere => None,
        };
        Self {
            access,
            refresh: secret(fields.refresh),
            expires,
        }
    }

    /// Whether there is an access token that has more than `margin` left.
    #[must_use]
    pub fn lasts(&self, now: SystemTime, margin: Duration) -> bool {
        let lasts = |expires: SystemTime| expires > now + margin;
        self.access.is_some() && self.expires.is_none_or(lasts)
    }
}

/// The client id of the login (RFC 6749 §2.2).
pub(super) fn client_value(document: &str, client: ClientValue) -> Option<String> {
    match client {
        ClientValue::Fixed(id) => Some(id.to_owned()),
        ClientValue::InFile(path) => text(document, path),
    }
}

/// The scopes for a request that names them: one text, divided by spaces.
pub(super) fn scope(
    document: &str,
    endpoint: &RefreshEndpoint,
    fields: &LoginFields,
) -> Option<String> {
    if !endpoint.sends_scope {
        return None;
    }
    match fields.scopes? {
        ScopeField::Words(path) => text(document, path),
        ScopeField::List(path) => {
            let list = value(document, path)?;
            let words: Vec<&str> = list.as_array()?.iter().filter_map(Value::as_str).collect();
            (!words.is_empty()).then(|| words.join(" "))
        }
    }
}

/// The document with what was granted at `at`; `None` when it has no place for the tokens.
pub(super) fn renewed(
    document: &str,
    fields: &LoginFields,
    granted: &Granted,
    at: SystemTime,
) -> Option<Zeroizing<String>> {
    let mut changed = Zeroizing::new(document.to_owned());
    let mut set = |path: &[&str], value: Value| -> Option<()> {
        *changed = with_value(&changed, path, &value)?;
        Some(())
    };
    if let Some(path) = fields.access {
        set(path, json!(granted.access.expose()))?;
    }
    if let Some(refresh) = &granted.refresh {
        set(fields.refresh, json!(refresh.expose()))?;
    }
    if let ExpiryField::Milliseconds(path) = fields.expiry {
        let ends = at + granted.lifetime.unwrap_or(UNSAID_LIFETIME);
        let ms = ends
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()?
            .as_millis();
        set(path, json!(u64::try_from(ms).ok()?))?;
    }
    if let (Some(path), Some(token)) = (fields.id_token, &granted.id_token) {
        set(path, json!(token.expose()))?;
    }
    if let (Some(field), Some(scope)) = (fields.scopes, &granted.scope) {
        match field {
            ScopeField::Words(path) => set(path, json!(scope))?,
            ScopeField::List(path) => {
                set(
                    path,
                    json!(scope.split_ascii_whitespace().collect::<Vec<_>>()),
                )?;
            }
        }
    }
    if let Some(path) = fields.renewed_at {
        set(path, json!(rfc3339(at)))?;
    }
    Some(changed)
}

fn milliseconds(value: &Value) -> Option<SystemTime> {
    // Some clients write fractions.
    let ms = value.as_f64().filter(|ms| *ms >= 0.0)?;
    let since = Duration::try_from_secs_f64(ms / 1000.0).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// The claim `exp` of a JWT (RFC 7519 §4.1.4), whose signature is the provider's affair.
fn claim(token: &str) -> Option<SystemTime> {
    let mut parts = token.split('.');
    let (_head, claims) = (parts.next()?, parts.next()?);
    parts.next()?;
    let claims = Zeroizing::new(URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?);
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let seconds = claims.get("exp")?.as_f64().filter(|exp| *exp >= 0.0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// RFC 3339 in UTC with milliseconds.
fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond(),
    )
}

#[cfg(test)]
mod tests;
