//! JSON Web Tokens (RFC 7519) as far as clients look into them: placeholders in their shape, and when one
//! of the host's ends. Signatures are never checked here; the service does.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Beginning of a placeholder in the shape of a JWT: `{"alg":"RS256"}`, `{"exp":4102444800}`, and one
/// letter that makes the signature's length a multiple of four.
pub(crate) const PLACEHOLDER_PREFIX: &str = "eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDB9.A";

/// The token of identity a guest gets: Codex does not read a file without one. It says nothing but that
/// it does not end.
const IDENTITY: &str = r#"{"exp":4102444800,"email":"","https://api.openai.com/auth":{}}"#;

/// Longest payload that is decoded, in bytes before decoding.
const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// A JWT with nobody's claims, the same for every guest.
pub(crate) fn guest_identity() -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signature = "A".repeat(40);
    format!(
        "{}.{}.{signature}",
        part(r#"{"alg":"RS256"}"#),
        part(IDENTITY)
    )
}

/// The claim `exp` of a token that is a JWT.
pub(crate) fn expiry(token: &str) -> Option<SystemTime> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || payload.len() > MAX_PAYLOAD_BYTES {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&bytes).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims["exp"].as_u64()?))
}

#[cfg(test)]
mod tests {
    use agent_vm_secret::Placeholder;

    use super::*;
    use crate::guest_document::FAR_FUTURE;

    fn parts(token: &str) -> Vec<&str> {
        token.split('.').collect()
    }

    fn decoded(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn placeholder_has_the_shape_clients_check() {
        let placeholder = Placeholder::mint(PLACEHOLDER_PREFIX).unwrap();
        let [header, payload, signature] = parts(placeholder.as_str())[..] else {
            panic!("{placeholder}")
        };
        assert_eq!(decoded(header)["alg"], "RS256");
        assert_eq!(decoded(payload)["exp"], FAR_FUTURE);
        assert_eq!(signature.len() % 4, 0);
        assert!(URL_SAFE_NO_PAD.decode(signature).is_ok());
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(FAR_FUTURE);
        assert_eq!(expiry(placeholder.as_str()), Some(end));
    }

    #[test]
    fn identity_is_a_jwt_without_a_person() {
        let token = guest_identity();
        let claims = decoded(parts(&token)[1]);
        assert_eq!(claims["email"], "");
        assert_eq!(claims.as_object().unwrap().len(), 3);
        assert_eq!(parts(&token)[2].len() % 4, 0);
    }

    #[test]
    fn what_is_no_jwt_has_no_expiry() {
        for token in [
            "",
            "opaque",
            "a.b",
            "a.b.c",
            "a.e30.c",
            "a.e30.c.d",
            "..",
            "a.W10.c",
        ] {
            assert_eq!(expiry(token), None, "{token}");
        }
        let early = format!("x.{}.y", URL_SAFE_NO_PAD.encode(r#"{"exp":7}"#));
        assert_eq!(
            expiry(&early),
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7))
        );
        let huge = format!(
            "x.{}.y",
            URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{}}}"#, u64::MAX))
        );
        assert_eq!(expiry(&huge), None);
    }
}
