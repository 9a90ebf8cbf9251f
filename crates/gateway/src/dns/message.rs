//! DNS messages (RFC 1035, 6891) between the guest and us: its questions and our answers. Bytes in, values out.
//!
//! Our OPT record is our own: what the guest puts into its own (client subnet, cookies, padding) goes nowhere.

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};

use super::resolver::{Answer, DnsFailure, Existence, Question, host_name, negative_ttl};

/// A question from the guest.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) question: Question,
    request: Message,
}

/// What to do with bytes that came to the DNS port.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A question to answer.
    Question(Box<Query>),
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
    let Some(header) = RawHeader::read(bytes) else {
        return Parsed::Ignored;
    };
    if header.is_response {
        return Parsed::Ignored;
    }
    // RFC 1035 §4.1.1: the header may still be good enough to say that the rest is not. The count is looked at before
    // a parser makes room for so many.
    let malformed = || {
        let code = ResponseCode::FormErr;
        encode(&Message::error_msg(header.id, OpCode::Query, code))
    };
    if header.questions > 1 {
        return malformed();
    }
    let Ok(request) = Message::from_vec(bytes) else {
        return malformed();
    };
    match read_request(&request) {
        Ok(question) => Parsed::Question(Box::new(Query { question, request })),
        Err(code) => encode(&response(&request, code)),
    }
}

/// The answer to a question that is not looked at: refused.
pub(crate) fn refusal(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = RawHeader::read(bytes)?;
    let message = Message::error_msg(header.id, OpCode::Query, ResponseCode::Refused);
    let refused = !header.is_response;
    refused.then(|| message.to_vec().ok())?
}

/// The question in a request, or why it has none.
fn read_request(request: &Message) -> Result<Question, ResponseCode> {
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if request.version() > 0 {
        return Err(ResponseCode::BADVERS);
    }
    let [query] = &request.queries[..] else {
        return Err(ResponseCode::FormErr);
    };
    if query.query_class() != DNSClass::IN {
        return Err(ResponseCode::Refused);
    }
    let kind = query.query_type();
    if is_meta(kind) {
        return Err(ResponseCode::NotImp);
    }
    let question = Question::new(query.name(), kind);
    let for_hosts = question.family().is_some() || question.is_service();
    if for_hosts && host_name(&question.name).is_none() {
        return Err(ResponseCode::NXDomain);
    }
    Ok(question)
}

/// Types that ask for something else than records of a name (RFC 6895 §3.1), but for ANY.
fn is_meta(kind: RecordType) -> bool {
    matches!(u16::from(kind), 0 | 41 | 128..=254)
}

impl Query {
    /// How many bytes the guest takes in one datagram (RFC 6891 §6.2.3), no more than `most`, which is what fits the
    /// link.
    pub(crate) fn datagram_limit(&self, most: usize) -> usize {
        let asked = self.request.edns.as_ref().map_or(0, Edns::max_payload);
        usize::from(asked).clamp(CLASSIC_LIMIT, most.clamp(CLASSIC_LIMIT, MAX_UDP_ANSWER))
    }

    /// Writes the answer, cut down to a truncated one if it is longer than `limit` bytes.
    pub(crate) fn answer(
        &self,
        reply: &Result<Answer, DnsFailure>,
        limit: usize,
    ) -> Option<Vec<u8>> {
        let mut message = response(&self.request, code(reply));
        if let Ok(answer) = reply {
            // Repeated as it was asked, for those who check the case of the letters.
            let asked = self.request.queries.first()?.name();
            let as_asked = |mut record: Record| {
                if record.name == *asked {
                    record.name.clone_from(asked);
                }
                record
            };
            message.answers = answer.records.iter().cloned().map(as_asked).collect();
            if !answer.has_data(self.question.kind) {
                let negative = |mut soa: Record| {
                    soa.ttl = negative_ttl(&soa);
                    soa
                };
                let soa = answer.soa.as_deref().cloned();
                message.authorities = soa.map(negative).into_iter().collect();
            }
            let wanted = self.request.metadata.authentic_data
                || self
                    .request
                    .edns
                    .as_ref()
                    .is_some_and(|edns| edns.flags().dnssec_ok);
            message.metadata.authentic_data = answer.authentic && wanted;
        }
        let bytes = match message.to_vec() {
            Ok(bytes) => bytes,
            Err(_) => response(&self.request, ResponseCode::ServFail)
                .to_vec()
                .ok()?,
        };
        if bytes.len() <= limit {
            return Some(bytes);
        }
        message.truncate().to_vec().ok()
    }
}

fn code(reply: &Result<Answer, DnsFailure>) -> ResponseCode {
    match reply {
        Ok(answer) => match answer.existence {
            Existence::Exists => ResponseCode::NoError,
            Existence::NoSuchName => ResponseCode::NXDomain,
        },
        Err(DnsFailure::ServerFailure) => ResponseCode::ServFail,
        Err(DnsFailure::Refused) => ResponseCode::Refused,
    }
}

/// A response without records.
fn response(request: &Message, code: ResponseCode) -> Message {
    let mut message = Message::error_msg(request.metadata.id, request.metadata.op_code, code);
    message.metadata.recursion_desired = request.metadata.recursion_desired;
    message.metadata.checking_disabled = request.metadata.checking_disabled;
    message.metadata.recursion_available = true;
    message.queries.clone_from(&request.queries);
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(OUR_PAYLOAD);
        message.set_edns(edns);
    }
    message
}

fn encode(message: &Message) -> Parsed {
    message.to_vec().map_or(Parsed::Ignored, Parsed::Answered)
}

/// What is needed of a header before the message is parsed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawHeader {
    pub(crate) id: u16,
    pub(crate) is_response: bool,
    pub(crate) questions: u16,
}

impl RawHeader {
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; 12] = bytes.first_chunk()?;
        Some(Self {
            id: u16::from_be_bytes([header[0], header[1]]),
            is_response: header[2] & 0x80 != 0,
            questions: u16::from_be_bytes([header[4], header[5]]),
        })
    }
}

/// A question is far shorter; EDNS padding goes up to 468 (RFC 8467).
const MAX_QUERY: usize = 4_096;

/// Datagram size without EDNS (RFC 1035 §4.2.1).
const CLASSIC_LIMIT: usize = 512;

/// Largest answer we send in a datagram to a guest that takes more; most ask for 1 232 (DNS flag day 2020).
const MAX_UDP_ANSWER: usize = 4_096;

/// Size of a datagram that we tell the guest to send us at most.
const OUR_PAYLOAD: u16 = 1_232;

#[cfg(test)]
mod tests;
