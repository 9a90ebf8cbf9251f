//! What a request head says: which host it names, and where it carries placeholders. Sans I/O, without secrets.
//!
//! Only the head is searched. Every part of it is: method, path and query, header names and values, each in every usual
//! encoding (`encodings.rs`), and for logins that are not the VM's own (`foreign.rs`).

use agent_vm_policy::{ForeignCredential, HostName, PlaceholderUse, Transport};
use http::header::{self, HeaderName};
use http::request::Parts;

use crate::credential::{CredentialSet, Slot};
use crate::encodings::find_encoded;
use crate::foreign::{Login, foreign_login};

/// The largest request head in bytes.
pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Placeholders found in a head.
#[derive(Debug)]
pub(crate) struct Findings {
    /// The worst place.
    pub(crate) placeholders: PlaceholderUse,
    /// Where secrets go if the request is allowed.
    pub(crate) attachments: Vec<Attachment>,
    /// A login that is not the VM's own.
    pub(crate) foreign: Option<Login>,
}

impl Findings {
    /// As the policy judges it.
    pub(crate) fn foreign(&self) -> ForeignCredential {
        match self.foreign {
            None => ForeignCredential::Absent,
            Some(_) => ForeignCredential::Present,
        }
    }
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
        foreign: None,
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
        if let Some(found) = find_encoded(text.as_bytes(), set.scanner()) {
            misplaced(found);
        }
    }
    for name in head.headers.keys() {
        if let Some(found) = find_encoded(name.as_str().as_bytes(), set.scanner()) {
            misplaced(found);
        }
    }
    for (name, value) in &head.headers {
        let Some(found) = find_encoded(value.as_bytes(), set.scanner()) else {
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
    findings.foreign = foreign_login(head, host, &findings.attachments, set);
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
        .any(|part| find_encoded(part, set.scanner()).is_some())
    {
        return None;
    }
    Some(Attachment {
        credential: found,
        header: name.clone(),
        slot,
    })
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

/// An authority as it was judged: the name in lower case without a trailing dot, the port if one was given.
pub(crate) fn canonical_authority(judged: &str) -> String {
    let (host, port) = match judged.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok()),
        None => (judged, None),
    };
    let host = HostName::parse(host).map_or_else(|_| String::new(), |host| host.to_string());
    match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
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
