//! `WWW-Authenticate` headers (RFC 9110 §11.6.1): which way of logging in a registry offers.

use http_auth::{ChallengeRef, parser::ChallengeParser};

/// The most bytes of a header that are looked at.
const MAX_CHALLENGE_BYTES: usize = 8 << 10;

/// A challenge this client can answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from a token server (distribution "Token Authentication Specification").
    Bearer(Bearer),
}

/// The parameters of a bearer challenge.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) realm: String,
    pub(super) service: Option<String>,
}

/// The best of the offered challenges: a token before a password. A header that is malformed counts up to where it is.
pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers.filter(|header| header.len() <= MAX_CHALLENGE_BYTES) {
        for challenge in ChallengeParser::new(header).map_while(Result::ok) {
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            } else if let Some(bearer) = bearer(&challenge) {
                return Some(Challenge::Bearer(bearer));
            }
        }
    }
    basic
}

fn bearer(challenge: &ChallengeRef<'_>) -> Option<Bearer> {
    let parameter = |name: &str| {
        let mut parameters = challenge.params.iter();
        let (_, value) = parameters.find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        Some(value.to_unescaped())
    };
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    Some(Bearer {
        realm: parameter("realm")?,
        service: parameter("service"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(header: &str) -> Option<Challenge> {
        choose([header].into_iter())
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer(Bearer {
            realm: realm.into(),
            service: service.map(str::to_owned),
        }))
    }

    #[test]
    fn reads_what_registries_send() {
        assert_eq!(
            one(r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#),
            bearer("https://auth.docker.io/token", Some("registry.docker.io"))
        );
        assert_eq!(
            one(r#"bearer scope="a,b", realm="https://x/\"t", error=x"#),
            bearer("https://x/\"t", None)
        );
        assert_eq!(
            one(r#"Negotiate, Basic realm="r", Bearer realm="https://x/t" , service=y"#),
            bearer("https://x/t", Some("y"))
        );
        assert_eq!(
            one(r#"Basic realm="Registry Realm""#),
            Some(Challenge::Basic)
        );
        assert_eq!(one("basic"), Some(Challenge::Basic));
    }

    #[test]
    fn unusable_challenges_are_no_challenge() {
        for header in [
            "",
            "Negotiate",
            "Bearer",
            "Bearer service=x",
            "Bearer realm=\"open",
            "Bearer realm=\"x\\",
            // Not the grammar: such an address must be quoted.
            "Bearer realm=https://x/t",
            "Bearer realm=\"\u{e9}\"",
        ] {
            assert_eq!(one(header), None, "{header}");
        }
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let offered = ["Basic realm=x", "Bearer realm=\"https://t\""];
        assert_eq!(choose(offered.into_iter()), bearer("https://t", None));
    }
}
