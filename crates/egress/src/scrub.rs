//! Real tokens that come back in an answer become their placeholders again, before the guest sees them.
//!
//! Only tokens that this VM's requests were given can come back, so those are remembered ([`SentSecrets`]) and looked
//! for: as they are and as servers write them (percent-encoded, in JSON, base 64 of both alphabets at any alignment,
//! hexadecimal, inside `Basic`). The search is over header fields, trailers, and those bodies that [`covers`] names;
//! all others are opaque. A body is searched as it streams: only what may be the beginning of a token waits for more.

use std::cell::RefCell;
use std::rc::Rc;

use agent_vm_policy::HostName;
use agent_vm_secret::{Placeholder, Secret};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, response};
use memchr::memmem;

use crate::credential::Slot;
use crate::written::{Written, forms};

/// The shortest token that is looked for: a shorter one would be found where it does not stand.
const MIN_SECRET_BYTES: usize = 8;
/// The longest: each byte of a searched body may have to wait for that many.
const MAX_SECRET_BYTES: usize = 16 * 1024;
/// How many tokens and `Basic` pairs are remembered; the oldest goes. A token that was replaced comes back only from a
/// server that keeps old ones.
const MAX_REMEMBERED: usize = 64;
/// The longest body that is searched at any path of a bound host.
const MAX_BODY_BYTES: u64 = 64 * 1024;

/// Paths that answer with tokens, or with what the server knows about the one it was given: their bodies are searched
/// whatever their length, and asked for uncompressed. Exact, without query.
const TOKEN_PATHS: [(&str, &str); 20] = [
    ("api.anthropic.com", "/api/oauth/profile"),
    ("api.anthropic.com", "/api/oauth/claude_cli/create_api_key"),
    ("api.anthropic.com", "/api/oauth/claude_cli/roles"),
    ("api.anthropic.com", "/api/claude_cli/bootstrap"),
    ("api.github.com", "/copilot_internal/user"),
    ("api.github.com", "/copilot_internal/v2/token"),
    ("api.github.com", "/user"),
    ("api.openai.com", "/v1/me"),
    ("auth.openai.com", "/oauth/token"),
    ("chatgpt.com", "/backend-api/me"),
    ("chatgpt.com", "/backend-api/wham/accounts/check"),
    ("chatgpt.com", "/backend-api/wham/settings/user"),
    ("console.anthropic.com", "/v1/oauth/token"),
    ("github.com", "/login/oauth/access_token"),
    ("oauth2.googleapis.com", "/token"),
    ("oauth2.googleapis.com", "/tokeninfo"),
    ("openidconnect.googleapis.com", "/v1/userinfo"),
    ("platform.claude.com", "/v1/oauth/token"),
    ("www.googleapis.com", "/oauth2/v1/userinfo"),
    ("www.googleapis.com", "/oauth2/v2/userinfo"),
];

/// Whether an answer from there may hold a token.
pub(crate) fn answers_with_tokens(host: &HostName, path: &str) -> bool {
    TOKEN_PATHS.contains(&(host.as_str(), path))
}

/// A way a token is written, and what stands there instead.
struct Pattern {
    needle: Secret,
    stands: Bytes,
}

/// What to look for, the longest first.
#[derive(Clone, Default)]
pub(crate) struct Patterns(Rc<[Pattern]>);

/// The tokens that this VM's requests were given.
#[derive(Default)]
pub(crate) struct SentSecrets {
    sent: RefCell<Vec<Sent>>,
    patterns: RefCell<Patterns>,
}

struct Sent {
    credential: usize,
    secret: Secret,
    placeholder: Placeholder,
    /// What stood around it, in `Basic`.
    pair: Option<(Vec<u8>, Vec<u8>)>,
}

impl SentSecrets {
    /// Remembers that a request is about to carry `secret`.
    pub(crate) fn note(
        &self,
        (credential, placeholder): (usize, &Placeholder),
        secret: &Secret,
        slot: &Slot,
    ) {
        let pair = match slot {
            Slot::Plain { .. } => None,
            Slot::Basic { before, after, .. } => Some((before.clone(), after.clone())),
        };
        let mut sent = self.sent.borrow_mut();
        let known = sent.iter().any(|known| {
            known.credential == credential
                && known.pair == pair
                && known.secret.expose() == secret.expose()
        });
        let length = secret.expose().len();
        if known || !(MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&length) {
            return;
        }
        if sent.len() >= MAX_REMEMBERED {
            sent.remove(0);
        }
        sent.push(Sent {
            credential,
            secret: secret.clone(),
            placeholder: placeholder.clone(),
            pair,
        });
        *self.patterns.borrow_mut() = Patterns::of(&sent);
    }

    /// What to look for now.
    pub(crate) fn patterns(&self) -> Patterns {
        self.patterns.borrow().clone()
    }
}

impl Patterns {
    fn of(sent: &[Sent]) -> Self {
        let mut patterns: Vec<Pattern> = Vec::new();
        for one in sent {
            let pair = one.pair.as_ref();
            let pair = pair.map(|(before, after)| (before.as_slice(), after.as_slice()));
            for Written { needle, stands } in forms(&one.secret, &one.placeholder, pair) {
                let new = |known: &Pattern| known.needle.expose() != needle.expose();
                if patterns.iter().all(new) {
                    patterns.push(Pattern { needle, stands });
                }
            }
        }
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.needle.expose().len()));
        Self(patterns.into())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first token in `bytes` from `from` on, the longest at its place.
    fn first(&self, bytes: &[u8], from: usize) -> Option<(usize, &Pattern)> {
        let rest = &bytes[from..];
        let found = self.0.iter().filter_map(|pattern| {
            let at = memmem::find(rest, pattern.needle.expose().as_bytes())?;
            Some((from + at, pattern))
        });
        found.min_by_key(|(at, _)| *at)
    }

    /// Appends `bytes` without tokens to `clean`; returns how many bytes that were, all but what stands behind the last
    /// token.
    fn replace_into(&self, bytes: &[u8], clean: &mut Vec<u8>) -> usize {
        let mut done = 0;
        while let Some((at, pattern)) = self.first(bytes, done) {
            clean.extend_from_slice(&bytes[done..at]);
            clean.extend_from_slice(&pattern.stands);
            done = at + pattern.needle.expose().len();
        }
        done
    }

    /// How many bytes at the end of `bytes` may be the beginning of a token.
    fn unsure(&self, bytes: &[u8]) -> usize {
        let longest = |pattern: &Pattern| {
            let needle = pattern.needle.expose().as_bytes();
            let from = bytes.len() - bytes.len().min(needle.len() - 1);
            let starts = memchr::memchr_iter(needle[0], &bytes[from..]);
            starts
                .map(|at| &bytes[from + at..])
                .find(|end| needle.starts_with(end))
                .map_or(0, <[u8]>::len)
        };
        self.0.iter().map(longest).max().unwrap_or(0)
    }

    /// Header fields or trailers without tokens. A field whose name holds one, or whose clean value is none, goes.
    pub(crate) fn clean(&self, headers: &mut HeaderMap) {
        if self.is_empty() {
            return;
        }
        let mut hopeless: Vec<HeaderName> = Vec::new();
        for (name, value) in headers.iter_mut() {
            if self.is_in_name(name) {
                hopeless.push(name.clone());
                continue;
            }
            let bytes = value.as_bytes();
            if self.first(bytes, 0).is_none() {
                continue;
            }
            let mut clean = Vec::new();
            let done = self.replace_into(bytes, &mut clean);
            clean.extend_from_slice(&bytes[done..]);
            match HeaderValue::from_maybe_shared(Bytes::from(clean)) {
                Ok(clean) => *value = clean,
                Err(_) => hopeless.push(name.clone()),
            }
        }
        for name in hopeless {
            headers.remove(name);
        }
    }

    /// Names are told in lower case.
    fn is_in_name(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        self.0.iter().any(|pattern| {
            let needle = pattern.needle.expose();
            name.len() >= needle.len() && name.contains(&needle.to_ascii_lowercase())
        })
    }
}

/// Whether the body of an answer is searched: one from a [path that answers with tokens](answers_with_tokens), or a
/// short one of text, as those of refused requests are, which like to repeat what they were sent.
pub(crate) fn covers(head: &response::Parts, length: Option<u64>, listed: bool) -> bool {
    if listed {
        return true;
    }
    let short = length.is_some_and(|length| (1..=MAX_BODY_BYTES).contains(&length));
    short && !is_compressed(&head.headers) && is_text(&head.headers) && !is_part(head.status)
}

/// Whether a body is something else than it says it is about.
pub(crate) fn is_compressed(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|coding| {
            !coding
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"identity")
        })
}

fn is_part(status: StatusCode) -> bool {
    status == StatusCode::PARTIAL_CONTENT
}

fn is_text(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let value = value.map_or(&b""[..], HeaderValue::as_bytes);
    let media = value.split(|byte| *byte == b';').next().unwrap_or_default();
    let media = media.trim_ascii().to_ascii_lowercase();
    media.starts_with(b"text/")
        || media.ends_with(b"+json")
        || media.ends_with(b"+xml")
        || [
            &b"application/json"[..],
            b"application/x-www-form-urlencoded",
            b"application/xml",
        ]
        .contains(&media.as_slice())
}

/// A body on its way to the guest.
pub(crate) struct Scrub {
    patterns: Patterns,
    /// What may be the beginning of a token: shorter than the longest pattern.
    kept: Vec<u8>,
}

impl Scrub {
    pub(crate) fn new(patterns: Patterns) -> Self {
        Self {
            patterns,
            kept: Vec::new(),
        }
    }

    /// The next piece without tokens; empty when it has to wait for more.
    pub(crate) fn push(&mut self, piece: Bytes) -> Bytes {
        if self.kept.is_empty() && self.patterns.first(&piece, 0).is_none() {
            let sure = piece.len() - self.patterns.unsure(&piece);
            self.kept.extend_from_slice(&piece[sure..]);
            return piece.slice(..sure);
        }
        let mut bytes = std::mem::take(&mut self.kept);
        bytes.extend_from_slice(&piece);
        let mut clean = Vec::with_capacity(bytes.len());
        let done = self.patterns.replace_into(&bytes, &mut clean);
        let rest = &bytes[done..];
        let sure = rest.len() - self.patterns.unsure(rest);
        clean.extend_from_slice(&rest[..sure]);
        self.kept = rest[sure..].to_vec();
        clean.into()
    }

    /// What is left when the body has ended.
    pub(crate) fn end(&mut self) -> Bytes {
        std::mem::take(&mut self.kept).into()
    }

    /// Whether nothing waits.
    pub(crate) fn is_done(&self) -> bool {
        self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests;
