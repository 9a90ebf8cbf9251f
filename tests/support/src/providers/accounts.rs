//! Who may use the fake providers: tokens that are accepted, end, and are renewed with rotation as by the real ones.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Whose token it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// api.anthropic.com, renewed at platform.claude.com.
    Anthropic,
    /// chatgpt.com and api.openai.com, renewed at auth.openai.com.
    OpenAi,
    /// GitHub, its git and Copilot.
    GitHub,
    /// Google's APIs, renewed at oauth2.googleapis.com.
    Google,
    /// api.z.ai, which stands for the many providers with one key.
    Zai,
}

/// One login.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    /// Where it is good.
    pub service: Service,
    /// The token of requests.
    pub access: String,
    /// The token that renews it; each renewal gives a new one and ends the old one.
    #[serde(default)]
    pub refresh: Option<String>,
    /// How many requests it is good for; without end when absent. A renewed one has no end.
    #[serde(default)]
    pub uses: Option<u32>,
}

/// A renewed login.
#[derive(Debug, Clone)]
pub(crate) struct Renewed {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

/// All logins.
#[derive(Debug)]
pub(crate) struct Accounts(Vec<Account>);

impl Accounts {
    pub(crate) fn new(accounts: Vec<Account>) -> Self {
        Self(accounts)
    }

    /// Whether the token of this request is good at `service` now.
    pub(crate) fn accept(&mut self, service: Service, headers: &HeaderMap) -> bool {
        let Some(token) = token(headers) else {
            return false;
        };
        let known = |account: &&mut Account| account.service == service && account.access == token;
        let Some(account) = self.0.iter_mut().find(known) else {
            return false;
        };
        match &mut account.uses {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    /// Renews; nothing when the token was never given or is used up.
    pub(crate) fn renew(&mut self, service: Service, refresh: &str) -> Option<Renewed> {
        let known = |account: &&mut Account| {
            account.service == service && account.refresh.as_deref() == Some(refresh)
        };
        let account = self.0.iter_mut().find(known)?;
        account.access = successor(&account.access);
        account.refresh = Some(successor(refresh));
        account.uses = None;
        Some(Renewed {
            access: account.access.clone(),
            refresh: account.refresh.clone()?,
        })
    }
}

/// The next token of a login. It contains what a search for the old one finds: the whole of an opaque one, the
/// signature of a signed one.
fn successor(token: &str) -> String {
    match token.split('.').collect::<Vec<_>>()[..] {
        [_, _, signature] => signed(&format!("{signature}Next"), IN_ONE_HOUR),
        _ => format!("{token}Next"),
    }
}

/// Seconds a token of this program is good for from the start of the clock that a signed token names.
pub const IN_ONE_HOUR: i64 = 3600;

/// A signed token (RFC 7519) as the OpenAI clients take it, that ends in `seconds` from now; its signature is `mark`.
///
/// # Panics
/// When the clock stands before 1970.
#[must_use]
pub fn signed(mark: &str, seconds: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("the clock is right").as_secs().cast_signed();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(&json!({"alg": "RS256", "typ": "JWT", "kid": "fake"}));
    let claims = part(&json!({
        "iss": "https://auth.openai.com", "aud": ["https://api.openai.com/v1"], "sub": "auth0|fake",
        "iat": now, "exp": now + seconds, "email": "person@example.test",
        "https://api.openai.com/profile": {"email": "person@example.test", "email_verified": true},
        "https://api.openai.com/auth": {"chatgpt_account_id": ACCOUNT_ID, "chatgpt_plan_type": "pro",
            "chatgpt_user_id": "user-fake", "user_id": "user-fake"},
    }));
    format!("{head}.{claims}.{mark}")
}

/// The one ChatGPT account.
pub const ACCOUNT_ID: &str = "5b6f0c1e-7a51-4f0e-9a3d-2f8f4e1c7d90";

/// The token of a request, in any of the spellings clients use.
pub(crate) fn token(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    if let Some(key) = text("x-api-key").or_else(|| text("x-goog-api-key")) {
        return Some(key.to_owned());
    }
    let (scheme, rest) = text(header::AUTHORIZATION.as_str())?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Some(rest.trim().to_owned());
    }
    let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (user, password) = pair.split_once(':')?;
    let token = if password.is_empty() { user } else { password };
    Some(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    fn account(uses: Option<u32>) -> Accounts {
        Accounts::new(vec![Account {
            service: Service::GitHub,
            access: "gho_abc".to_owned(),
            refresh: Some("ghr_abc".to_owned()),
            uses,
        }])
    }

    #[test]
    fn a_token_is_good_at_its_service_in_every_spelling() {
        for value in ["Bearer gho_abc", "token gho_abc", "Basic eDpnaG9fYWJj"] {
            assert!(
                account(None).accept(Service::GitHub, &headers(value)),
                "{value}"
            );
            assert!(
                !account(None).accept(Service::Google, &headers(value)),
                "{value}"
            );
        }
        assert!(!account(None).accept(Service::GitHub, &headers("Bearer gho_abcd")));
        assert!(!account(None).accept(Service::GitHub, &HeaderMap::new()));
    }

    #[test]
    fn a_token_ends_and_its_renewal_rotates_both() {
        let mut accounts = account(Some(1));
        assert!(accounts.accept(Service::GitHub, &headers("Bearer gho_abc")));
        assert!(!accounts.accept(Service::GitHub, &headers("Bearer gho_abc")));
        let renewed = accounts.renew(Service::GitHub, "ghr_abc").unwrap();
        assert!(accounts.renew(Service::GitHub, "ghr_abc").is_none());
        assert!(renewed.access.contains("gho_abc") && renewed.refresh.contains("ghr_abc"));
        let value = format!("Bearer {}", renewed.access);
        assert!(accounts.accept(Service::GitHub, &headers(&value)));
    }

    #[test]
    fn a_signed_token_keeps_its_mark_through_renewals() {
        let renewed = successor(&signed("mark-of-the-token", -5));
        assert!(renewed.ends_with(".mark-of-the-tokenNext"));
        assert_eq!(renewed.split('.').count(), 3);
    }
}
