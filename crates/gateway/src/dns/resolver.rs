//! The seam between our DNS server and what answers its questions.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::handler::LocalBoxFuture;

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// What is asked: a name and a type, always of class IN. Names compare without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    pub(crate) name: Name,
    pub(crate) kind: RecordType,
}

impl Question {
    pub(crate) fn new(name: &Name, kind: RecordType) -> Self {
        let mut name = name.to_lowercase();
        name.set_fqdn(true);
        Self { name, kind }
    }

    /// The name as the rest of agent-vm writes it, lower case and without the final dot; `None` if it cannot be a
    /// host's.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        host_name(&self.name)
    }

    /// The family of the addresses asked for, if it is addresses.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        match self.kind {
            RecordType::A => Some(Family::V4),
            RecordType::AAAA => Some(Family::V6),
            _ => None,
        }
    }

    /// Whether the answer says how to reach a service (RFC 9460): addresses and keys, besides other things.
    pub(crate) fn is_service(&self) -> bool {
        matches!(self.kind, RecordType::HTTPS | RecordType::SVCB)
    }
}

/// Whether the name asked for exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existence {
    /// It does, though perhaps without data of the type asked for.
    Exists,
    /// It, or the name it is an alias of, does not.
    NoSuchName,
}

/// What is known about a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Aliases, from the name asked for on, then records of the type asked for.
    pub(crate) records: Vec<Record>,
    /// What a negative answer may be kept by (RFC 2308).
    pub(crate) soa: Option<Box<Record>>,
    pub(crate) existence: Existence,
    /// The server says that it has verified the answer, and it is to be believed.
    pub(crate) authentic: bool,
}

impl Answer {
    /// The addresses of the name asked for, those of another family than asked for left out, to be kept for `ttl`.
    #[must_use]
    pub fn of_addresses(
        question: &Question,
        addresses: impl IntoIterator<Item = IpAddr>,
        ttl: Duration,
    ) -> Self {
        let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        let data = addresses.into_iter().filter_map(|address| {
            let (data, family) = match address {
                IpAddr::V4(v4) => (RData::A(v4.into()), Family::V4),
                IpAddr::V6(v6) => (RData::AAAA(v6.into()), Family::V6),
            };
            (question.family() == Some(family)).then_some(data)
        });
        let record = |data| Record::from_rdata(question.name.clone(), ttl, data);
        Self::of(data.map(record).collect())
    }

    /// The name does not exist.
    #[must_use]
    pub fn no_such_name() -> Self {
        Self::empty(Existence::NoSuchName)
    }

    /// "No such name", or "no data".
    pub(crate) fn empty(existence: Existence) -> Self {
        Self {
            records: Vec::new(),
            soa: None,
            existence,
            authentic: false,
        }
    }

    pub(crate) fn of(records: Vec<Record>) -> Self {
        Self {
            records,
            ..Self::empty(Existence::Exists)
        }
    }

    /// Whether there are records of the type that was asked for.
    pub(crate) fn has_data(&self, kind: RecordType) -> bool {
        self.records
            .iter()
            .any(|record| record.record_type() == kind)
    }

    /// How long it may be kept: the shortest time of its records; what a negative answer's SOA says, else not at all.
    pub(crate) fn lifetime(&self, kind: RecordType) -> Duration {
        let records = self.records.iter().map(|record| record.ttl).min();
        let ttl = if self.has_data(kind) {
            records.unwrap_or(0)
        } else {
            let negative = self.soa.as_deref().map_or(0, negative_ttl);
            negative.min(records.unwrap_or(u32::MAX))
        };
        Duration::from_secs(u64::from(ttl))
    }

    /// Takes the time that has passed off every record.
    pub(crate) fn age(&mut self, passed: Duration) {
        let passed = u32::try_from(passed.as_secs()).unwrap_or(u32::MAX);
        for record in self.records.iter_mut().chain(self.soa.as_deref_mut()) {
            record.ttl = record.ttl.saturating_sub(passed);
        }
    }
}

/// How long a negative answer with this SOA may be kept (RFC 2308 §5), in seconds.
pub(crate) fn negative_ttl(soa: &Record) -> u32 {
    match &soa.data {
        RData::SOA(data) => soa.ttl.min(data.minimum).min(MAX_NEGATIVE_TTL),
        _ => 0,
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DnsFailure {
    /// No server gave a valid answer.
    #[error("no name server answered")]
    ServerFailure,
    /// The question is not one we ask.
    #[error("refused")]
    Refused,
}

/// Answers questions.
pub trait Resolver {
    /// Looks for the answer. Must end by itself within a bounded time.
    ///
    /// # Errors
    /// A [`DnsFailure`] says what the guest is told.
    fn resolve(&self, question: &Question) -> LocalBoxFuture<'static, Result<Answer, DnsFailure>>;
}

/// The name in the form the rest of agent-vm uses, if it can be a host's: labels of letters, digits, `-` and `_`.
pub(crate) fn host_name(name: &Name) -> Option<String> {
    let labels: Vec<&[u8]> = name.iter().collect();
    let proper = |label: &&[u8]| {
        label
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if labels.is_empty() || !labels.iter().all(proper) {
        return None;
    }
    let mut text = String::with_capacity(name.len());
    for label in labels {
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(
            label
                .iter()
                .map(|byte| char::from(byte.to_ascii_lowercase())),
        );
    }
    Some(text)
}

/// The name that policy judges: of a name like `_8443._https.example.com` or `My Printer._ipp._tcp.example.com` the part
/// that can be a host's. All of a name that is asked for addresses counts.
pub(crate) fn judged_name(question: &Question) -> String {
    let labels: Vec<&[u8]> = question.name.iter().collect();
    let odd = |label: &&[u8]| {
        let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        label.starts_with(b"_") || !label.iter().all(known)
    };
    let from = match question.family() {
        Some(_) => 0,
        None => labels.iter().rposition(odd).map_or(0, |last| last + 1),
    };
    let text = |label: &&[u8]| String::from_utf8_lossy(label).to_ascii_lowercase();
    labels[from..]
        .iter()
        .map(text)
        .collect::<Vec<_>>()
        .join(".")
}

/// Addresses of one answer that the guest is told at most.
pub const MAX_ANSWER_ADDRESSES: usize = 32;

/// Longest time a negative answer is kept, in seconds.
const MAX_NEGATIVE_TTL: u32 = 900;
