//! What a guest is answered when it renews a login (RFC 6749 §5.1): placeholders, and the time the real access token
//! has left, so that the guest comes again when there is a reason to.

use std::time::{Duration, SystemTime};

use agent_vm_secret::Placeholder;
use serde_json::{Map, Value, json};

use super::login::{Login, UNSAID_LIFETIME};
use crate::refresh_endpoint::RefreshFacts;

/// The document for a guest that holds `access` for the access token of `login`.
#[must_use]
pub fn guest_answer(
    facts: &RefreshFacts,
    access: &Placeholder,
    login: &Login,
    now: SystemTime,
) -> Vec<u8> {
    let left = match login.expires {
        Some(expires) => expires.duration_since(now).unwrap_or(Duration::ZERO),
        None => UNSAID_LIFETIME,
    };
    let mut document = Map::new();
    let mut set = |name: &str, value: Value| drop(document.insert(name.to_owned(), value));
    set("token_type", json!("Bearer"));
    set("access_token", json!(access.as_str()));
    set("refresh_token", json!(facts.refresh_placeholder.as_str()));
    set("expires_in", json!(left.as_secs()));
    if !facts.guest_scope.is_empty() {
        set("scope", json!(facts.guest_scope));
    }
    if let Some(token) = &facts.guest_id_token {
        set("id_token", json!(token));
    }
    Value::Object(document).to_string().into_bytes()
}

#[cfg(test)]
mod tests;
