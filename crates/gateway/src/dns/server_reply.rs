//! DNS messages between us and the host's name servers: our questions and what they say.
//!
//! A reply counts only if it has our transaction id and repeats our question. Of its sections only the answer is
//! believed, and of that only the aliases that lead from the name asked for and the records of the type asked for
//! where they end; the SOA of a negative answer says how long to keep it.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::message::RawHeader;
use super::resolver::{Answer, Existence, Question};

/// A question of ours to a name server.
#[derive(Debug, Clone)]
pub(crate) struct OwnQuestion {
    id: u16,
    query: Query,
    edns: EdnsUse,
    trust: Trust,
}

/// Whether we speak EDNS; some servers know it not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EdnsUse {
    /// Yes.
    Offered,
    /// The server has refused it.
    Left,
}

/// Whether a server is believed when it says that it has verified an answer (`options trust-ad`, resolv.conf(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Yes: it is asked to say so.
    VerifiedAnswers,
    /// No.
    Nothing,
}

/// What a name server said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ServerReply {
    /// The answer does not fit a datagram: ask again over TCP.
    Truncated,
    /// It does not know EDNS: ask again without.
    WithoutEdns,
    /// It has no answer, or none that can be read: another server may.
    Failed,
    /// The answer.
    Full(Answer),
}

impl OwnQuestion {
    /// `question` with the given transaction id.
    pub(crate) fn new(question: &Question, id: u16, edns: EdnsUse, trust: Trust) -> Self {
        Self {
            id,
            query: Query::query(question.name.clone(), question.kind),
            edns,
            trust,
        }
    }

    /// The bytes to send; `None` if the name cannot be written.
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut message = Message::new(self.id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.authentic_data = self.trust == Trust::VerifiedAnswers;
        message.add_query(self.query.clone());
        if self.edns == EdnsUse::Offered {
            let mut edns = Edns::new();
            edns.set_max_payload(OUR_PAYLOAD);
            message.set_edns(edns);
        }
        message.to_vec().ok()
    }

    /// Reads a reply. `None` means that it does not belong to this question: a forged or a late one.
    pub(crate) fn read_reply(&self, bytes: &[u8]) -> Option<ServerReply> {
        let header = RawHeader::read(bytes)?;
        if !header.is_response || header.id != self.id || header.questions > 1 {
            return None;
        }
        let Ok(message) = Message::from_vec(bytes) else {
            return Some(ServerReply::Failed);
        };
        let code = message.metadata.response_code;
        let refuses_edns = matches!(
            code,
            ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS
        );
        if refuses_edns && self.edns == EdnsUse::Offered {
            return Some(ServerReply::WithoutEdns);
        }
        let [query] = &message.queries[..] else {
            return None;
        };
        let ours = message.metadata.op_code == OpCode::Query
            && query.query_type() == self.query.query_type()
            && query.query_class() == DNSClass::IN
            && query.name().eq_ignore_root(self.query.name());
        if !ours {
            return None;
        }
        if message.metadata.truncation {
            return Some(ServerReply::Truncated);
        }
        let existence = match code {
            ResponseCode::NoError => Existence::Exists,
            ResponseCode::NXDomain => Existence::NoSuchName,
            _ => return Some(ServerReply::Failed),
        };
        Some(self.take_answer(message, existence))
    }

    fn take_answer(&self, message: Message, existence: Existence) -> ServerReply {
        let (records, _) = follow(self.query.name(), self.query.query_type(), &message.answers);
        let soa = message
            .authorities
            .into_iter()
            .find(is_soa)
            .map(clamped)
            .map(Box::new);
        // A referral: the server does not look further, and has nothing itself.
        let metadata = &message.metadata;
        let lame = !metadata.recursion_available && !metadata.authoritative;
        if lame && records.is_empty() && soa.is_none() && existence == Existence::Exists {
            return ServerReply::Failed;
        }
        ServerReply::Full(Answer {
            records,
            soa,
            existence,
            authentic: metadata.authentic_data && self.trust == Trust::VerifiedAnswers,
        })
    }
}

/// The aliases from `name` on and the records of `kind` where they end, with the name they end at.
fn follow(name: &Name, kind: RecordType, answers: &[Record]) -> (Vec<Record>, Name) {
    let of = |owner: &Name, kind: RecordType| {
        let owner = owner.clone();
        answers.iter().filter(move |record| {
            record.dns_class == DNSClass::IN
                && record.record_type() == kind
                && record.name.eq_ignore_root(&owner)
        })
    };
    let mut owner = name.clone();
    let mut records: Vec<Record> = Vec::new();
    while kind != RecordType::CNAME && records.len() < MAX_ALIASES {
        let Some(record) = of(&owner, RecordType::CNAME).next() else {
            break;
        };
        let RData::CNAME(target) = &record.data else {
            break;
        };
        owner = target.0.clone();
        records.push(clamped(record.clone()));
    }
    let found = of(&owner, kind).take(MAX_RECORDS).cloned().map(clamped);
    records.extend(found);
    (records, owner)
}

/// Where the aliases of `answer` end, if it says nothing about that name: a server that does not follow them.
pub(crate) fn unfollowed(question: &Question, answer: &Answer) -> Option<Question> {
    let last = answer.records.last()?;
    let RData::CNAME(target) = &last.data else {
        return None;
    };
    let open = question.kind != RecordType::CNAME
        && answer.soa.is_none()
        && answer.existence == Existence::Exists
        && !answer.records.iter().any(|record| record.name == target.0)
        && target.0 != question.name;
    open.then(|| Question::new(&target.0, question.kind))
}

fn is_soa(record: &Record) -> bool {
    record.record_type() == RecordType::SOA && record.dns_class == DNSClass::IN
}

/// A time with its highest bit set is zero (RFC 2181 §8).
fn clamped(mut record: Record) -> Record {
    record.ttl = if record.ttl > i32::MAX as u32 {
        0
    } else {
        record.ttl.min(MAX_TTL)
    };
    record
}

/// Datagram size we offer name servers (DNS flag day 2020).
const OUR_PAYLOAD: u16 = 1_232;

/// Longest chain of aliases followed.
pub(crate) const MAX_ALIASES: usize = 16;

/// Records of one type taken from an answer.
const MAX_RECORDS: usize = 1_000;

/// Longest time a record is kept, in seconds.
const MAX_TTL: u32 = 3_600;

#[cfg(test)]
mod tests;
