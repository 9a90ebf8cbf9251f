//! `WWW-Authenticate` headers (RFC 9110 §11.6.1): which way of logging in a registry offers.

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

/// The best of the offered challenges: a token before a password.
pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers.filter(|header| header.len() <= MAX_CHALLENGE_BYTES) {
        match parse(header) {
            Some(Challenge::Basic) => basic = Some(Challenge::Basic),
            bearer @ Some(_) => return bearer,
            None => {}
        }
    }
    basic
}

fn parse(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    let mut rest = rest;
    while let Some((name, value, after)) = parameter(rest) {
        match name.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            _ => {}
        }
        rest = after;
    }
    Some(Challenge::Bearer(Bearer {
        realm: realm?,
        service,
    }))
}

/// One `name=value` or `name="value"`, and what follows it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([',', ' ', '\t']);
    let (name, rest) = text.split_once('=')?;
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        return Some((name.trim(), rest[..end].to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((name.trim(), value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
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
            one("Bearer realm=https://x/t,service=y"),
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
