//! What a request head says: which host it names, and where it carries placeholders. Sans I/O, without secrets.
//!
//! Only the head is searched. Every part of it is: method, path and query, header names and values, each as it is,
//! percent-decoded, and with every run of base 64 decoded. A placeholder is worthless wherever it is not exchanged;
//! the search is there to tell the person, and to stop a program that sends credentials to the wrong place.

use agent_vm_policy::{HostName, PlaceholderUse, Transport};
use base64::Engine as _;
use http::header::{self, HeaderName};
use http::request::Parts;

use crate::credential::{BASE64, BASE64_URL, CredentialSet, Slot};

/// The largest request head in bytes.
pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The shortest run of base 64 that can hold a placeholder's 39 identifying bytes.
const SHORTEST_ENCODED: usize = 52;

/// Placeholders found in a head.
#[derive(Debug)]
pub(crate) struct Findings {
    /// The worst place.
    pub(crate) placeholders: PlaceholderUse,
    /// Where secrets go if the request is allowed.
    pub(crate) attachments: Vec<Attachment>,
}

/// One secret to attach.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// Index of the credential.
    pub(crate) credential: usize,
    pub(crate) header: HeaderName,
    pub(crate) slot: Slot,
}

/// Searches the head of a request to `host`.
pub(crate) fn inspect(head: &Parts, host: &HostName, set: &CredentialSet) -> Findings {
    let mut findings = Findings {
        placeholders: PlaceholderUse::None,
        attachments: Vec::new(),
    };
    if set.scanner().is_empty() {
        return findings;
    }
    let mut misplaced = |found: usize| {
        let bound = set.get(found).is_bound_to(host);
        let place = if bound {
            PlaceholderUse::Elsewhere
        } else {
            PlaceholderUse::OtherHost
        };
        findings.placeholders = findings.placeholders.max(place);
    };
    let target = head
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    for text in [head.method.as_str(), target] {
        if let Some(found) = find_encoded(text.as_bytes(), set) {
            misplaced(found);
        }
    }
    for name in head.headers.keys() {
        if let Some(found) = find_encoded(name.as_str().as_bytes(), set) {
            misplaced(found);
        }
    }
    for (name, value) in &head.headers {
        let Some(found) = find_encoded(value.as_bytes(), set) else {
            continue;
        };
        match attachment(head, name, found, host, set) {
            Some(attachment) => findings.attachments.push(attachment),
            None => misplaced(found),
        }
    }
    if !findings.attachments.is_empty() {
        findings.placeholders = findings.placeholders.max(PlaceholderUse::InItsHeader);
    }
    findings
}

/// The attachment that a placeholder in the header `name` asks for; `None` when it is in the wrong place.
fn attachment(
    head: &Parts,
    name: &HeaderName,
    found: usize,
    host: &HostName,
    set: &CredentialSet,
) -> Option<Attachment> {
    let credential = set.get(found);
    let mut values = head.headers.get_all(name).iter();
    let (value, more) = (values.next()?, values.next());
    if name != credential.header.name() || !credential.is_bound_to(host) || more.is_some() {
        return None;
    }
    let slot = Slot::find(value.as_bytes(), credential, set.scanner())?;
    if slot
        .rest()
        .iter()
        .any(|part| find_encoded(part, set).is_some())
    {
        return None;
    }
    Some(Attachment {
        credential: found,
        header: name.clone(),
        slot,
    })
}

/// The first placeholder in `bytes` as they are or in any usual encoding.
fn find_encoded(bytes: &[u8], set: &CredentialSet) -> Option<usize> {
    let plain = set
        .scanner()
        .find(bytes)
        .or_else(|| find_in_base64(bytes, set));
    if plain.is_some() || !bytes.contains(&b'%') {
        return plain;
    }
    let decoded = percent_decoded(bytes);
    set.scanner()
        .find(&decoded)
        .or_else(|| find_in_base64(&decoded, set))
}

fn find_in_base64(bytes: &[u8], set: &CredentialSet) -> Option<usize> {
    if bytes.len() < SHORTEST_ENCODED {
        return None;
    }
    let alphabet = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    bytes
        .split(|byte| !alphabet(byte))
        .filter(|run| run.len() >= SHORTEST_ENCODED)
        .find_map(|run| find_in_run(run, set))
}

/// Decodes a run of base 64 characters from each of the four places where the encoding may begin, for the case that
/// text of the same alphabet stands before it.
fn find_in_run(run: &[u8], set: &CredentialSet) -> Option<usize> {
    (0..4).find_map(|skipped| {
        let run = run.get(skipped..)?;
        // A single character beyond whole groups of four encodes nothing.
        let run = if run.len() % 4 == 1 {
            &run[..run.len() - 1]
        } else {
            run
        };
        let decoded = BASE64
            .decode(run)
            .or_else(|_| BASE64_URL.decode(run))
            .ok()?;
        set.scanner().find(&decoded)
    })
}

fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        let pair = tail.first_chunk::<2>().filter(|_| first == b'%');
        let digits = pair.and_then(|[a, b]| Some((hex(*a)? << 4) | hex(*b)?));
        match digits {
            Some(byte) => {
                decoded.push(byte);
                rest = &tail[2..];
            }
            None => {
                decoded.push(first);
                rest = tail;
            }
        }
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// The host that a request names; `None` when it names none, two different ones, another port than the connection's,
/// another scheme, or user information.
pub(crate) fn authority(head: &Parts, transport: Transport, port: u16) -> Option<HostName> {
    let scheme = match transport {
        Transport::Tls => "https",
        Transport::Plain => "http",
    };
    if head
        .uri
        .scheme_str()
        .is_some_and(|named| !named.eq_ignore_ascii_case(scheme))
    {
        return None;
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (named, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return None;
    }
    let from_header = match named {
        Some(value) => Some(parse_authority(value.to_str().ok()?, port)?),
        None => None,
    };
    let from_uri = match head.uri.authority() {
        Some(authority) => Some(parse_authority(authority.as_str(), port)?),
        None => None,
    };
    match (from_uri, from_header) {
        (Some(one), Some(other)) => (one == other).then_some(one),
        (one, other) => one.or(other),
    }
}

fn parse_authority(text: &str, port: u16) -> Option<HostName> {
    let host = match text.rsplit_once(':') {
        Some((host, digits)) => {
            let same = digits.bytes().all(|byte| byte.is_ascii_digit())
                && digits.parse::<u16>().ok()? == port;
            same.then_some(host)?
        }
        None => text,
    };
    HostName::parse(host).ok()
}

/// Any head is judged without a panic, and after the exchange no placeholder is left in it.
pub fn fuzz_request_head(data: &[u8]) {
    use agent_vm_policy::HostPattern;
    use agent_vm_secret::{Placeholder, Secret};

    use crate::credential::{BoundCredential, HeaderRule};

    let placeholder = Placeholder::parse("fuzz-agentvmabcdefghijklmnopqrstuvwxyz234567")
        .expect("the text has the shape of a placeholder");
    let host = HostName::parse("api.bound.test").expect("the name is valid");
    let set = CredentialSet::new(vec![BoundCredential {
        name: "fuzz".into(),
        placeholder,
        hosts: vec![HostPattern::Exact(host.clone())],
        header: HeaderRule::Authorization,
    }]);
    let secret = Secret::new("real").expect("the secret is valid");
    let Some(mut head) = head_of_lines(data) else {
        return;
    };
    let _host = authority(&head, Transport::Tls, 443);
    let findings = inspect(&head, &host, &set);
    for attachment in findings.attachments {
        let value = attachment
            .slot
            .render(&secret)
            .expect("a visible secret fits a header");
        head.headers.insert(attachment.header, value);
    }
    if findings.placeholders <= PlaceholderUse::InItsHeader {
        let after = inspect(&head, &host, &set);
        assert_eq!(
            after.placeholders,
            PlaceholderUse::None,
            "a placeholder is left"
        );
    }
}

/// The most header fields of a fuzzed head; hyper takes 100.
const MAX_FUZZED_HEADERS: usize = 100;

/// A head whose target is the first line and whose other lines are `name:value`.
fn head_of_lines(data: &[u8]) -> Option<Parts> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let uri = http::Uri::try_from(lines.next()?).ok()?;
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.uri = uri;
    for line in lines.take(MAX_FUZZED_HEADERS) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = http::HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            head.headers.append(name, value);
        }
    }
    Some(head)
}

#[cfg(test)]
mod tests;
