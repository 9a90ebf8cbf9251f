//! Logins that are not the VM's own at a host that a credential is bound to: with the attacker's key, an allowed host
//! would carry the user's files away. Sans I/O.
//!
//! A login is a header or query parameter that providers take one in ([`HEADERS`], [`QUERY`]), a header that one of the
//! host's own credentials belongs in, a cookie that is not known to be harmless, or what stands beside a placeholder in
//! its header. It is the VM's own only as a placeholder in the place of its credential; one of another VM is just a
//! foreign key. A request without any login passes.
//!
//! Bodies are opaque: a login that is sent inside one (a form with `client_secret`, a JSON document) is not seen.

use std::borrow::Cow;
use std::fmt;

use agent_vm_policy::HostName;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use crate::credential::{CredentialSet, HeaderRule, Slot};
use crate::encodings::{find_encoded, percent_decoded};
use crate::request_head::Attachment;

/// Headers that carry a login somewhere, sorted.
const HEADERS: [&str; 24] = [
    "anthropic-api-key",
    "api-key",
    "authorization",
    "dd-api-key",
    "deploy-token",
    "job-token",
    "ocp-apim-subscription-key",
    "private-token",
    "x-access-token",
    "x-algolia-api-key",
    "x-amz-security-token",
    "x-api-key",
    "x-api-token",
    "x-auth-key",
    "x-auth-token",
    "x-figma-token",
    "x-functions-key",
    "x-github-token",
    "x-goog-api-key",
    "x-goog-iam-authorization-token",
    "x-rapidapi-key",
    "x-subscription-token",
    "x-vault-token",
    "xi-api-key",
];

/// Query parameters that carry a login somewhere, sorted.
const QUERY: [&str; 14] = [
    "access_token",
    "api-key",
    "api_key",
    "apikey",
    "auth_token",
    "bearer_token",
    "client_secret",
    "job_token",
    "oauth_token",
    "personal_access_token",
    "private_token",
    "subscription-key",
    "x-api-key",
    "x-goog-api-key",
];

/// Query parameters that carry a login at one provider's hosts and mean something harmless elsewhere.
const QUERY_AT: [(&str, &[&str]); 2] = [
    // https://cloud.google.com/apis/docs/system-parameters, signed URLs of its storage
    (
        "googleapis.com",
        &[
            "$key",
            "googleaccessid",
            "key",
            "signature",
            "x-goog-signature",
        ],
    ),
    ("amazonaws.com", &["x-amz-signature"]),
];

/// Cookies that log nobody in: those of load balancers, of protection against robots, of statistics. A name that ends
/// with `*` is the beginning of names.
const HARMLESS_COOKIES: [&str; 16] = [
    "__cf_bm",
    "__cflb",
    "__cfruid",
    "__cfseq",
    "__cfwaitingroom",
    "_cfuvid",
    "_dd_s",
    "_ga*",
    "_octo",
    "arraffinity*",
    "awsalb*",
    "cf_chl_*",
    "cf_clearance",
    "gclb",
    "logged_in",
    "oai-did",
];

/// Beginnings of WebSocket subprotocols that carry a login, for browsers cannot set headers.
const SUBPROTOCOLS: [&str; 4] = [
    "openai-insecure-api-key.",
    "base64url.bearer.",
    "bearer",
    "authorization",
];

/// Authorization schemes (RFC 9110 §11.4); alone they log nobody in.
const SCHEMES: [&[u8]; 3] = [b"bearer", b"token", b"basic"];
/// The longest user name beside a placeholder in `Basic`: a GitHub login has at most 39 characters, its tokens 40.
const MAX_USER_BYTES: usize = 39;
/// The longest e-mail address (RFC 5321 §4.5.3.1).
const MAX_EMAIL_BYTES: usize = 254;

/// Where a foreign login is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Login {
    Header(HeaderName),
    Query(String),
    Cookie(String),
    /// Beside the placeholder in this header.
    Beside(HeaderName),
}

/// A sentence for the person; never holds a part of the login.
impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "It is in the header {name}."),
            Self::Query(name) => write!(f, "It is in the query parameter {name}."),
            Self::Cookie(name) => write!(f, "It is the cookie {name}."),
            Self::Beside(name) => write!(f, "It is beside the placeholder in the header {name}."),
        }
    }
}

/// The first login of a request to `host` that is none of `attachments`; `None` also where no credential is bound.
pub(crate) fn foreign_login(
    head: &Parts,
    host: &HostName,
    attachments: &[Attachment],
    set: &CredentialSet,
) -> Option<Login> {
    let own = set.headers_at(host);
    if own.is_empty() {
        return None;
    }
    let beside = attachments.iter().find(|attachment| {
        let alone = match &attachment.slot {
            Slot::Plain { before, after } => is_alone(&attachment.header, before, after),
            Slot::Basic { before, after, .. } => is_basic_user(before, after),
        };
        !alone
    });
    if let Some(attachment) = beside {
        return Some(Login::Beside(attachment.header.clone()));
    }
    let attached = |name: &HeaderName| attachments.iter().any(|a| a.header == *name);
    let headers = head.headers.iter().find_map(|(name, value)| {
        if attached(name) {
            return None;
        }
        in_header(name, value.as_bytes(), &own)
    });
    headers.or_else(|| in_query(head.uri.query()?, host))
}

/// Takes out of a request's trailers what may only stand in a head (RFC 9110 §6.5.1): logins, and placeholders, which
/// would not be exchanged there.
pub(crate) fn strip_logins(trailers: &mut HeaderMap, set: &CredentialSet) {
    let out_of_place = |(name, value): (&HeaderName, &HeaderValue)| {
        let login = HEADERS.binary_search(&name.as_str()).is_ok()
            || name == header::COOKIE
            || set.is_own_header(name)
            || find_encoded(name.as_str().as_bytes(), set.scanner()).is_some()
            || find_encoded(value.as_bytes(), set.scanner()).is_some();
        login.then(|| name.clone())
    };
    let names: Vec<HeaderName> = trailers.iter().filter_map(out_of_place).collect();
    for name in names {
        tracing::debug!(%name, "a trailer of a request was taken out");
        trailers.remove(name);
    }
}

fn in_header(name: &HeaderName, value: &[u8], own: &[&HeaderRule]) -> Option<Login> {
    let listed = HEADERS.binary_search(&name.as_str()).is_ok();
    if listed || own.iter().any(|rule| rule.name() == name) {
        let value = value.trim_ascii();
        let nobody = value.is_empty() || SCHEMES.iter().any(|s| value.eq_ignore_ascii_case(s));
        return (!nobody).then(|| Login::Header(name.clone()));
    }
    if name == header::COOKIE {
        return in_cookies(value);
    }
    if name == header::SEC_WEBSOCKET_PROTOCOL {
        let mut offered = value.split(|byte| *byte == b',');
        let login = offered.any(|one| {
            let one = one.trim_ascii().to_ascii_lowercase();
            SUBPROTOCOLS
                .iter()
                .any(|begin| one.starts_with(begin.as_bytes()))
        });
        return login.then(|| Login::Header(name.clone()));
    }
    None
}

fn in_cookies(value: &[u8]) -> Option<Login> {
    let names = value.split(|byte| *byte == b';').map(|cookie| {
        let name = cookie
            .split(|byte| *byte == b'=')
            .next()
            .unwrap_or_default();
        String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase()
    });
    let harmless = |name: &String| {
        name.is_empty()
            || HARMLESS_COOKIES
                .iter()
                .any(|known| match known.strip_suffix('*') {
                    Some(beginning) => name.starts_with(beginning),
                    None => name == known,
                })
    };
    let foreign = names.into_iter().find(|name| !harmless(name));
    foreign.map(|name| Login::Cookie(shown(&name)))
}

fn in_query(query: &str, host: &HostName) -> Option<Login> {
    let at_host = QUERY_AT.iter().find(|(domain, _)| {
        let rest = host.as_str().strip_suffix(domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    let takes = |name: &str| {
        QUERY.binary_search(&name).is_ok()
            || at_host.is_some_and(|(_, names)| names.contains(&name))
    };
    query.split(['&', ';']).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let name = if name.contains('%') {
            Cow::Owned(String::from_utf8_lossy(&percent_decoded(name.as_bytes())).into_owned())
        } else {
            Cow::Borrowed(name)
        };
        let name = name.trim_matches(['+', ' ']).to_ascii_lowercase();
        (!value.is_empty() && takes(&name)).then(|| Login::Query(shown(&name)))
    })
}

/// What an answer may repeat of a name of the guest's.
fn shown(name: &str) -> String {
    let printable = name.chars().filter(|c| c.is_ascii_graphic());
    printable.take(64).collect()
}

/// Whether nothing but a scheme and quotes stands around a placeholder. A cookie has others beside it.
fn is_alone(name: &HeaderName, before: &[u8], after: &[u8]) -> bool {
    if name == header::COOKIE {
        let name = before
            .rsplit(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        let others = [&before[..before.len() - name.len()], after].concat();
        return in_cookies(&others).is_none();
    }
    let before = before.trim_ascii();
    let quoted = before.strip_suffix(b"\"");
    let scheme = quoted.unwrap_or(before);
    let scheme = scheme
        .strip_suffix(b"token=")
        .unwrap_or(scheme)
        .trim_ascii();
    let word = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'-';
    let end: &[u8] = if quoted.is_some() { b"\"" } else { b"" };
    scheme.len() <= MAX_SCHEME_BYTES && scheme.iter().all(word) && after.trim_ascii() == end
}

/// The longest authorization scheme: `scram-sha-256` of the IANA registry and some more.
const MAX_SCHEME_BYTES: usize = 20;

/// Whether what stands around a placeholder in `Basic` is a user name before it, or the customary words for none after.
fn is_basic_user(before: &[u8], after: &[u8]) -> bool {
    match before.split_last() {
        None => matches!(after, b"" | b":" | b":x-oauth-basic" | b":api_token"),
        Some((b':', user)) => {
            let longest = if user.contains(&b'@') {
                MAX_EMAIL_BYTES
            } else {
                MAX_USER_BYTES
            };
            after.is_empty() && user.len() <= longest
        }
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests;
