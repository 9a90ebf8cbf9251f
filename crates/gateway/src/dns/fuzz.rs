//! Entry points for fuzzing DNS, in both directions.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::svcb::{SVCB, SvcParamValue};
use hickory_proto::rr::{Name, RData, RecordType};

use super::filter::sift;
use super::message::{Parsed, Query, read_query, refusal};
use super::resolver::{Answer, DnsFailure, Question, judged_name};
use super::reverse::network_of;
use super::server_reply::{EdnsUse, OwnQuestion, ServerReply, Trust, unfollowed};
use super::special;
use crate::handler::NameTreatment;

/// Reads a DNS question from the guest and answers it.
///
/// # Panics
/// When an answer is longer than its limit or not one to the question.
pub fn fuzz_dns_query(bytes: &[u8]) {
    if let Some(refusal) = refusal(bytes) {
        is_response(&refusal, bytes);
    }
    let query = match read_query(bytes) {
        Parsed::Question(query) => query,
        Parsed::Answered(answer) => return drop(is_response(&answer, bytes)),
        Parsed::Ignored => return,
    };
    let question = &query.question;
    let _judged = (judged_name(question), network_of(&question.name));
    let addresses = (0..=u8::MAX).flat_map(|n| [IpAddr::from([192, 0, 2, n]), [n; 16].into()]);
    let mut replies = vec![
        Err(DnsFailure::ServerFailure),
        Ok(Answer::no_such_name()),
        Ok(Answer::of_addresses(question, addresses, Duration::MAX)),
    ];
    replies.extend(special::answer(question).map(Ok));
    for reply in replies {
        for most in [0, 1_232, usize::MAX] {
            let limit = query.datagram_limit(most);
            let answer = query.answer(&reply, limit).expect("every reply has a form");
            assert!(answer.len() <= limit);
            let answer = is_response(&answer, bytes);
            assert!(most > 0 || limit == 512, "the least every guest takes");
            assert!(reply.is_ok() || answer.answers.is_empty());
        }
    }
}

fn is_response(answer: &[u8], query: &[u8]) -> Message {
    let answer = Message::from_vec(answer).expect("our own answers can be read");
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert_eq!(Some(&answer.metadata.id.to_be_bytes()), query.first_chunk());
    answer
}

/// Reads a reply of a name server and passes it on: once as it is, once as the flags, counts and records of a reply to a
/// question of ours, whose type the first byte chooses.
///
/// # Panics
/// When something gets through that the guest may not be told.
pub fn fuzz_dns_reply(bytes: &[u8]) {
    for kind in [RecordType::A, RecordType::HTTPS] {
        pass_on(kind, |_| bytes.to_vec());
    }
    let Some((choice, rest)) = bytes.split_first() else {
        return;
    };
    let Some((header, records)) = rest.split_first_chunk::<8>() else {
        return;
    };
    let kind = KINDS[usize::from(*choice) % KINDS.len()];
    pass_on(RecordType::from(kind), |asked| {
        let mut reply = asked.get(..2).unwrap_or_default().to_vec();
        reply.extend([header[0] | 0x80, header[1], 0, 1]);
        reply.extend(&header[2..]);
        reply.extend(asked.get(HEADER_LEN..).unwrap_or_default());
        reply.extend(records);
        reply
    });
}

fn pass_on(kind: RecordType, reply: impl Fn(&[u8]) -> Vec<u8>) {
    let name = Name::from_ascii("a.test.").expect("a name");
    let question = Question::new(&name, kind);
    let own = OwnQuestion::new(&question, ID, EdnsUse::Left, Trust::VerifiedAnswers);
    let asked = own.to_bytes().expect("a question has a form");
    let Some(ServerReply::Full(answer)) = own.read_reply(&reply(&asked)) else {
        return;
    };
    drop(unfollowed(&question, &answer));
    let Parsed::Question(query) = read_query(&asked) else {
        return;
    };
    for treatment in [NameTreatment::Plain, NameTreatment::Intercepted] {
        let mut answer = answer.clone();
        sift(&mut answer, treatment, |address, _| allowed(address));
        told(&query, &Ok(answer), treatment);
    }
}

fn told(query: &Query, reply: &Result<Answer, DnsFailure>, treatment: NameTreatment) {
    let Some(bytes) = query.answer(reply, usize::from(u16::MAX)) else {
        return;
    };
    let message = Message::from_vec(&bytes).expect("our own answers can be read");
    let intercepted = treatment == NameTreatment::Intercepted;
    for record in message.answers {
        match &record.data {
            RData::SVCB(service) => service_told(service, intercepted),
            RData::HTTPS(service) => service_told(&service.0, intercepted),
            data => assert!(data.ip_addr().is_none_or(allowed)),
        }
    }
}

fn service_told(service: &SVCB, intercepted: bool) {
    for (_, value) in &service.svc_params {
        match value {
            SvcParamValue::Ipv4Hint(hints) => {
                assert!(!intercepted && hints.0.iter().all(|hint| allowed(hint.0.into())));
            }
            SvcParamValue::Ipv6Hint(hints) => {
                assert!(!intercepted && hints.0.iter().all(|hint| allowed(hint.0.into())));
            }
            SvcParamValue::EchConfigList(_) | SvcParamValue::Unknown(_) => assert!(!intercepted),
            _ => {}
        }
    }
}

/// Half of all addresses are.
fn allowed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[3] & 1 == 0,
        IpAddr::V6(v6) => v6.octets()[15] & 1 == 0,
    }
}

/// A, NS, CNAME, SOA, WKS, PTR, HINFO, MX, TXT, AAAA, SRV, NAPTR, A6, APL, SVCB, HTTPS, CAA and one that nobody knows.
const KINDS: [u16; 18] = [
    1, 2, 5, 6, 11, 12, 13, 15, 16, 28, 33, 35, 38, 42, 64, 65, 257, 65_280,
];

const ID: u16 = 0x1234;

/// Bytes of a DNS header.
const HEADER_LEN: usize = 12;

#[cfg(test)]
mod tests;
