//! DNS messages (RFC 1035) in both directions: the guest's questions and our answers, our questions and the host
//! resolvers' replies. Bytes in, values out.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::resolver::{Answer, DnsFailure, Family, MAX_ANSWER_ADDRESSES};

/// A question from the guest.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// The name, lower case, without the final dot.
    pub(crate) name: String,
    /// What is asked for.
    pub(crate) asked: Asked,
    request: Message,
}

/// What a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Addresses.
    Addresses(Family),
    /// Any other type: the answer is empty.
    Other,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// These addresses; none means "no data".
    Addresses {
        addresses: Vec<IpAddr>,
        ttl: Duration,
    },
    /// A failure.
    Failure(DnsFailure),
}

/// What to do with bytes that came to the DNS port.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A question to answer.
    Question(Box<Question>),
    /// A message that is answered at once with this.
    Answered(Vec<u8>),
    /// Nothing that has an answer.
    Ignored,
}

/// Reads a message from the guest.
pub(crate) fn read_query(bytes: &[u8]) -> Parsed {
    if bytes.len() > MAX_QUERY {
        return Parsed::Ignored;
    }
    let Ok(request) = Message::from_vec(bytes) else {
        // RFC 1035 §4.1.1: the header may still be good enough to say that the rest is not.
        return match bytes.first_chunk::<4>() {
            Some([high, low, flags, _]) if bytes.len() >= HEADER_LEN && flags & 0x80 == 0 => {
                let id = u16::from_be_bytes([*high, *low]);
                error(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
            }
            _ => Parsed::Ignored,
        };
    };
    if request.metadata.message_type != MessageType::Query {
        return Parsed::Ignored;
    }
    let refuse = |code| {
        let mut message = Message::error_msg(request.metadata.id, request.metadata.op_code, code);
        message.metadata.recursion_desired = request.metadata.recursion_desired;
        message.metadata.recursion_available = true;
        message.queries.clone_from(&request.queries);
        error(message)
    };
    if request.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [query] = &request.queries[..] else {
        return refuse(ResponseCode::FormErr);
    };
    if query.query_class() != DNSClass::IN {
        return refuse(ResponseCode::Refused);
    }
    let Some(name) = host_name(query.name()) else {
        return refuse(ResponseCode::NXDomain);
    };
    let asked = match query.query_type() {
        RecordType::A => Asked::Addresses(Family::V4),
        RecordType::AAAA => Asked::Addresses(Family::V6),
        _ => Asked::Other,
    };
    Parsed::Question(Box::new(Question {
        name,
        asked,
        request,
    }))
}

impl Question {
    /// How many bytes the guest takes in one datagram.
    pub(crate) fn datagram_limit(&self) -> usize {
        let asked = self.request.edns.as_ref().map_or(0, Edns::max_payload);
        usize::from(asked).clamp(CLASSIC_LIMIT, MAX_UDP_ANSWER)
    }

    /// Writes the answer, cut down to a truncated one if it is longer than `limit` bytes.
    pub(crate) fn answer(&self, reply: &Reply, limit: usize) -> Option<Vec<u8>> {
        let request = &self.request;
        let mut message = Message::response(request.metadata.id, OpCode::Query);
        message.metadata.recursion_desired = request.metadata.recursion_desired;
        message.metadata.recursion_available = true;
        message.queries.clone_from(&request.queries);
        if request.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP_ANSWER as u16);
            message.set_edns(edns);
        }
        match reply {
            Reply::Addresses { addresses, ttl } => {
                let name = request.queries.first()?.name();
                let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
                for address in addresses {
                    message.add_answer(Record::from_rdata(name.clone(), ttl, rdata(*address)));
                }
            }
            Reply::Failure(failure) => {
                message.metadata.response_code = match failure {
                    DnsFailure::NoSuchName => ResponseCode::NXDomain,
                    DnsFailure::ServerFailure => ResponseCode::ServFail,
                    DnsFailure::Refused => ResponseCode::Refused,
                };
            }
        }
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        message.truncate().to_vec().ok()
    }
}

fn error(message: Message) -> Parsed {
    message.to_vec().map_or(Parsed::Ignored, Parsed::Answered)
}

fn rdata(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    }
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

/// A question of ours to a host resolver.
#[derive(Debug, Clone)]
pub(crate) struct OwnQuestion {
    id: u16,
    query: Query,
    family: Family,
}

impl OwnQuestion {
    /// A question for the addresses of `name`, with the given transaction id.
    pub(crate) fn new(name: &str, family: Family, id: u16) -> Option<Self> {
        let mut name = Name::from_labels(name.split('.').map(str::as_bytes)).ok()?;
        name.set_fqdn(true);
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        Some(Self {
            id,
            query: Query::query(name, kind),
            family,
        })
    }

    /// The bytes to send.
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut message = Message::new(self.id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(self.query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(OUR_PAYLOAD);
        message.set_edns(edns);
        message.to_vec().ok()
    }

    /// Reads a reply. `None` means that it does not belong to this question: a forged or a late one.
    pub(crate) fn read_reply(&self, bytes: &[u8]) -> Option<ServerReply> {
        let message = Message::from_vec(bytes).ok()?;
        let metadata = &message.metadata;
        let [query] = &message.queries[..] else {
            return None;
        };
        let ours = metadata.message_type == MessageType::Response
            && metadata.id == self.id
            && metadata.op_code == OpCode::Query
            && query.query_type() == self.query.query_type()
            && query.query_class() == DNSClass::IN
            && query.name().eq_ignore_root(self.query.name());
        if !ours {
            return None;
        }
        if metadata.truncation {
            return Some(ServerReply::Truncated);
        }
        Some(ServerReply::Full(match metadata.response_code {
            ResponseCode::NoError => Ok(self.follow(&message.answers)),
            ResponseCode::NXDomain => Err(DnsFailure::NoSuchName),
            _ => Err(DnsFailure::ServerFailure),
        }))
    }

    /// Follows the aliases from the name asked for to its addresses.
    fn follow(&self, answers: &[Record]) -> Answer {
        let mut owner = self.query.name().clone();
        let mut ttl = MAX_TTL;
        for _ in 0..MAX_ALIASES {
            let alias = answers.iter().find_map(|record| match &record.data {
                RData::CNAME(target) if record.name.eq_ignore_root(&owner) => {
                    Some((target.0.clone(), record.ttl))
                }
                _ => None,
            });
            let Some((target, alias_ttl)) = alias else {
                break;
            };
            owner = target;
            ttl = ttl.min(alias_ttl);
        }
        let mut addresses = Vec::new();
        for record in answers {
            let address = match (&record.data, self.family) {
                (RData::A(a), Family::V4) => IpAddr::V4(a.0),
                (RData::AAAA(aaaa), Family::V6) => IpAddr::V6(aaaa.0),
                _ => continue,
            };
            if record.name.eq_ignore_root(&owner) && addresses.len() < MAX_ANSWER_ADDRESSES {
                addresses.push(address);
                ttl = ttl.min(record.ttl);
            }
        }
        Answer {
            addresses,
            ttl: Duration::from_secs(u64::from(ttl)),
        }
    }
}

/// What a host resolver said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerReply {
    /// The answer does not fit a datagram: ask again over TCP.
    Truncated,
    /// The answer.
    Full(Result<Answer, DnsFailure>),
}

/// Bytes of a DNS header.
const HEADER_LEN: usize = 12;

/// A question is far shorter; EDNS padding goes up to 468 (RFC 8467).
const MAX_QUERY: usize = 4_096;

/// Datagram size without EDNS (RFC 1035 §4.2.1).
const CLASSIC_LIMIT: usize = 512;

/// Largest answer we send in a datagram; the link is local, so no path MTU is in the way.
const MAX_UDP_ANSWER: usize = 4_096;

/// Datagram size we offer resolvers (DNS flag day 2020).
const OUR_PAYLOAD: u16 = 1_232;

/// Longest chain of aliases followed.
const MAX_ALIASES: usize = 16;

/// Longest time an answer is kept, in seconds.
const MAX_TTL: u32 = 3_600;

#[cfg(test)]
mod tests;
