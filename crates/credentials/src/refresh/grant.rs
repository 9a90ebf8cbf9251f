//! The request that renews a login (RFC 6749 §6) and its answer (§5).

use std::time::{Duration, SystemTime};

use agent_vm_secret::Secret;
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::login::{Login, UNSAID_LIFETIME, client_value, scope};
use crate::refresh_endpoint::{LoginFields, RefreshBody, RefreshEndpoint};

/// The longest lifetime that is believed: ten years.
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// The longest text of a refusal that is kept, in bytes.
const MAX_CODE_BYTES: usize = 64;

/// A request for the token endpoint.
pub struct GrantRequest {
    /// The host.
    pub host: &'static str,
    /// The path.
    pub path: &'static str,
    /// `application/json` or `application/x-www-form-urlencoded`.
    pub content_type: &'static str,
    /// The body; holds the refresh token.
    pub body: Zeroizing<Vec<u8>>,
}

/// An answer of the token endpoint.
pub struct GrantAnswer {
    /// HTTP status.
    pub status: u16,
    /// How long it wants not to be asked again.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Zeroizing<Vec<u8>>,
}

/// Who asks the token endpoint. `launch` adapts the egress's client to it.
pub trait Issuer {
    /// Sends the request once and waits for the whole answer, for a bounded time.
    ///
    /// # Errors
    /// When there is none.
    fn ask(&self, request: GrantRequest) -> Result<GrantAnswer, IssuerUnreachable>;
}

/// The token endpoint gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("the token endpoint gave no answer: {problem}")]
pub struct IssuerUnreachable {
    /// Why, for people; without secrets.
    pub problem: String,
}

/// What a successful answer holds. `Debug` shows no token.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) access: Secret,
    /// The next refresh token, when it was replaced.
    pub(super) refresh: Option<Secret>,
    pub(super) id_token: Option<Secret>,
    pub(super) lifetime: Option<Duration>,
    pub(super) scope: Option<String>,
}

impl Granted {
    /// The login it makes, for one that is kept in memory only.
    pub(super) fn as_login(&self, refresh: &Secret, at: SystemTime) -> Login {
        Login {
            access: Some(self.access.clone()),
            refresh: Some(self.refresh.as_ref().unwrap_or(refresh).clone()),
            expires: Some(at + self.lifetime.unwrap_or(UNSAID_LIFETIME)),
        }
    }
}

/// Why an answer is no grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// The login is over (RFC 6749 §5.2): only a new login helps. With the provider's code.
    Over(String),
    /// At another time it may work.
    Later(String),
}

impl GrantRequest {
    /// The request for the login in `document`; `None` when something it needs is missing.
    pub(super) fn new(
        document: &str,
        endpoint: &RefreshEndpoint,
        fields: &LoginFields,
        refresh: &Secret,
    ) -> Option<Self> {
        let mut pairs = vec![
            ("grant_type", "refresh_token".to_owned()),
            ("refresh_token", refresh.expose().to_owned()),
            ("client_id", client_value(document, endpoint.client_id)?),
        ];
        if let Some(secret) = endpoint.client_secret {
            pairs.push(("client_secret", client_value(document, secret)?));
        }
        if let Some(scope) = scope(document, endpoint, fields) {
            pairs.push(("scope", scope));
        }
        let extra = endpoint.extra.iter();
        pairs.extend(extra.map(|(name, value)| (*name, (*value).to_owned())));
        let (content_type, body) = match endpoint.body {
            RefreshBody::Json => {
                let named = pairs.into_iter();
                let named: Map<String, Value> = named
                    .map(|(name, value)| (name.to_owned(), Value::from(value)))
                    .collect();
                ("application/json", Value::Object(named).to_string())
            }
            RefreshBody::Form => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                form.extend_pairs(pairs);
                ("application/x-www-form-urlencoded", form.finish())
            }
        };
        Some(Self {
            host: endpoint.host,
            path: endpoint.path,
            content_type,
            body: Zeroizing::new(body.into_bytes()),
        })
    }
}

/// RFC 6749 §5.1; lifetimes also as texts, as some providers write them.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    id_token: Option<String>,
    #[serde(default)]
    expires_in: Option<Value>,
    #[serde(default)]
    scope: Option<String>,
}

impl GrantAnswer {
    /// What it grants.
    pub(super) fn granted(&self) -> Result<Granted, Refused> {
        if self.status != 200 {
            return Err(self.refused());
        }
        let odd = || Refused::Later("the answer is not understood".to_owned());
        let answer: Answer = serde_json::from_slice(&self.body).map_err(|_| odd())?;
        let secret = |text: Option<String>| text.and_then(|text| Secret::new(text).ok());
        let lifetime = match answer.expires_in {
            Some(Value::Number(seconds)) => seconds.as_f64(),
            Some(Value::String(seconds)) => seconds.parse().ok(),
            _ => None,
        };
        let lifetime = lifetime.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Ok(Granted {
            access: secret(Some(answer.access_token)).ok_or_else(odd)?,
            refresh: secret(answer.refresh_token),
            id_token: secret(answer.id_token),
            lifetime: lifetime.map(|lifetime| lifetime.min(MAX_LIFETIME)),
            scope: answer.scope.filter(|scope| !scope.trim().is_empty()),
        })
    }

    fn refused(&self) -> Refused {
        let code = code(&self.body);
        let said = match &code {
            Some(code) => format!("it answered {} {code}", self.status),
            None => format!("it answered {}", self.status),
        };
        let over = [
            "invalid_grant",
            "refresh_token_expired",
            "refresh_token_reused",
            "refresh_token_invalidated",
        ];
        let named = code.is_some_and(|code| over.contains(&&*code));
        match self.status {
            400 | 401 | 403 if named => Refused::Over(said),
            _ => Refused::Later(said),
        }
    }
}

/// The code of a refusal: `{"error": CODE}` (RFC 6749 §5.2), or `{"error": {"code": CODE}}` as OpenAI writes it.
fn code(body: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let error = document.get("error")?;
    let nested = || error.get("code").or_else(|| error.get("type"))?.as_str();
    let code = error.as_str().or_else(nested)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (code.len() <= MAX_CODE_BYTES && code.bytes().all(plain)).then(|| code.to_owned())
}

#[cfg(test)]
mod tests;
