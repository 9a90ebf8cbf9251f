//! Claude Code's login file: `{"claudeAiOauth": {accessToken, refreshToken, expiresAt (ms), scopes,
//! subscriptionType, rateLimitTier}}`.
//!
//! The guest's file is built from the allow-list below: placeholders, an expiry far away so that the
//! guest does not renew by itself, and three descriptive fields when they have a plain shape.

use std::time::{Duration, SystemTime};

use agent_vm_secret::{MintError, Placeholder, Secret};
use serde_json::{Map, Value, json};

use crate::credential::GuestFile;

/// The file, relative to the home directory, on the host and in the guest.
pub(crate) const PATH: &str = ".claude/.credentials.json";
/// 2100-01-01T00:00:00Z in milliseconds.
const FAR_FUTURE_MS: u64 = 4_102_444_800_000;
/// Descriptive fields that may be copied.
const PLAIN_FIELDS: &[&str] = &["subscriptionType", "rateLimitTier"];
/// Most scopes copied, and the longest text of a descriptive field in bytes.
const MAX_SCOPES: usize = 32;
const MAX_PLAIN_BYTES: usize = 64;

/// What the host's file holds.
pub(crate) struct ClaudeLogin {
    pub(crate) access: Secret,
    pub(crate) refresh: Option<Secret>,
    pub(crate) expires: Option<SystemTime>,
    described: Map<String, Value>,
}

impl ClaudeLogin {
    /// Reads the file's text; `Ok(None)` when it holds no login.
    ///
    /// # Errors
    /// When it is not JSON; the error names a position, never content.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, serde_json::Error> {
        let mut document: Value = serde_json::from_str(text)?;
        let Some(login) = document
            .get_mut("claudeAiOauth")
            .and_then(Value::as_object_mut)
        else {
            return Ok(None);
        };
        let Some(access) = take_secret(login, "accessToken") else {
            return Ok(None);
        };
        Ok(Some(Self {
            access,
            refresh: take_secret(login, "refreshToken"),
            expires: login
                .get("expiresAt")
                .and_then(Value::as_u64)
                .and_then(|ms| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms))),
            described: described(login),
        }))
    }

    /// The guest's file, with placeholders for both tokens.
    pub(crate) fn guest_file(&self, access: &Placeholder, refresh: &Placeholder) -> GuestFile {
        let mut login = self.described.clone();
        login.insert("accessToken".to_owned(), json!(access.as_str()));
        login.insert("refreshToken".to_owned(), json!(refresh.as_str()));
        login.insert("expiresAt".to_owned(), json!(FAR_FUTURE_MS));
        let document = json!({ "claudeAiOauth": login });
        GuestFile {
            path: PATH.to_owned(),
            mode: 0o600,
            content: document.to_string().into_bytes(),
        }
    }

    /// The scopes, divided by spaces.
    pub(crate) fn scope(&self) -> String {
        let scopes = self.described.get("scopes").and_then(Value::as_array);
        let words: Vec<&str> = scopes.into_iter().flatten().filter_map(plain).collect();
        words.join(" ")
    }

    /// Placeholders for the access and the refresh token.
    pub(crate) fn placeholders() -> Result<(Placeholder, Placeholder), MintError> {
        Ok((
            Placeholder::mint("sk-ant-oat01-")?,
            Placeholder::mint("sk-ant-ort01-")?,
        ))
    }
}

fn take_secret(login: &mut Map<String, Value>, field: &str) -> Option<Secret> {
    match login.remove(field) {
        Some(Value::String(text)) => Secret::new(text).ok(),
        Some(_) | None => None,
    }
}

fn described(login: &Map<String, Value>) -> Map<String, Value> {
    let mut kept = Map::new();
    let scopes = login
        .get("scopes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let scopes: Vec<&str> = scopes.filter_map(plain).take(MAX_SCOPES).collect();
    kept.insert("scopes".to_owned(), json!(scopes));
    for field in PLAIN_FIELDS {
        if let Some(text) = login.get(*field).and_then(plain) {
            kept.insert((*field).to_owned(), json!(text));
        }
    }
    kept
}

/// A short word such as `user:inference` or `default_claude_max_20x`.
fn plain(value: &Value) -> Option<&str> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-');
    value
        .as_str()
        .filter(|text| text.len() <= MAX_PLAIN_BYTES && text.bytes().all(word))
}

/// Body of the fuzz target for this file's parser.
#[doc(hidden)]
pub fn fuzz_claude_login(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = ClaudeLogin::parse(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: &str = r#"{"claudeAiOauth":{"accessToken":"sk-ant-oat01-real","refreshToken":
        "sk-ant-ort01-real","expiresAt":1800000000000,"scopes":["user:inference","user:profile"],
        "subscriptionType":"max","rateLimitTier":"default_claude_max_20x",
        "email":"person@example.org","extra":{"accessToken":"sk-nested"}},
        "mcpOAuth":{"server":{"accessToken":"mcp-real"}}}"#;

    fn guest(login: &ClaudeLogin) -> Value {
        let (access, refresh) = ClaudeLogin::placeholders().unwrap();
        serde_json::from_slice(&login.guest_file(&access, &refresh).content).unwrap()
    }

    #[test]
    fn guest_file_has_exactly_the_allowed_fields() {
        let login = ClaudeLogin::parse(LOGIN).unwrap().unwrap();
        let document = guest(&login);
        assert_eq!(document.as_object().unwrap().len(), 1);
        let fields: Vec<_> = document["claudeAiOauth"]
            .as_object()
            .unwrap()
            .keys()
            .collect();
        let mut allowed = [
            "accessToken",
            "expiresAt",
            "rateLimitTier",
            "refreshToken",
            "scopes",
            "subscriptionType",
        ];
        allowed.sort_unstable();
        assert_eq!(fields, allowed);
        assert_eq!(document["claudeAiOauth"]["subscriptionType"], "max");
    }

    #[test]
    fn guest_file_holds_nothing_of_the_tokens_or_the_person() {
        let login = ClaudeLogin::parse(LOGIN).unwrap().unwrap();
        let text = guest(&login).to_string();
        for private in ["real", "nested", "person", "example.org"] {
            assert!(!text.contains(private), "{text}");
        }
    }

    #[test]
    fn guest_token_does_not_expire_while_the_host_knows_when_its_own_does() {
        let login = ClaudeLogin::parse(LOGIN).unwrap().unwrap();
        assert_eq!(guest(&login)["claudeAiOauth"]["expiresAt"], FAR_FUTURE_MS);
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(login.expires, Some(expires));
    }

    #[test]
    fn descriptive_fields_of_odd_shape_are_dropped() {
        let login = ClaudeLogin::parse(
            r#"{"claudeAiOauth":{"accessToken":"t","scopes":["ok","with space",7],
                "subscriptionType":{"a":1},"rateLimitTier":"x y"}}"#,
        );
        let document = guest(&login.unwrap().unwrap());
        assert_eq!(document["claudeAiOauth"]["scopes"], json!(["ok"]));
        assert!(document["claudeAiOauth"].get("subscriptionType").is_none());
        assert!(document["claudeAiOauth"].get("rateLimitTier").is_none());
    }

    #[test]
    fn no_login_in_a_file_without_token() {
        for text in [
            "{}",
            "[]",
            r#"{"claudeAiOauth":null}"#,
            r#"{"claudeAiOauth":{}}"#,
            r#"{"claudeAiOauth":{"accessToken":""}}"#,
            r#"{"claudeAiOauth":{"accessToken":7}}"#,
        ] {
            assert!(ClaudeLogin::parse(text).unwrap().is_none(), "{text}");
        }
    }

    #[test]
    fn syntax_error_does_not_repeat_the_text() {
        let Err(error) = ClaudeLogin::parse(r#"{"claudeAiOauth":{"accessToken":"sk-real"#) else {
            panic!("accepted");
        };
        assert!(!error.to_string().contains("sk-real"), "{error}");
    }

    #[test]
    fn token_with_a_line_end_is_no_login() {
        let text = r#"{"claudeAiOauth":{"accessToken":"a\r\nx: y"}}"#;
        assert!(ClaudeLogin::parse(text).unwrap().is_none());
    }

    #[test]
    fn fuzz_body_takes_any_bytes() {
        for bytes in [&b""[..], b"\xff", b"[[[[", LOGIN.as_bytes()] {
            fuzz_claude_login(bytes);
        }
    }
}
