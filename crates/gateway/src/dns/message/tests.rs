use hickory_proto::rr::rdata::CNAME;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(9, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn code(bytes: &[u8]) -> Option<ResponseCode> {
    match read_query(bytes) {
        Parsed::Answered(answer) => {
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!(answer.metadata.message_type, MessageType::Response);
            Some(answer.metadata.response_code)
        }
        _ => None,
    }
}

#[test]
fn names_are_lowered_and_lose_the_final_dot() {
    let bytes = query("WWW.Example.Test.", RecordType::AAAA)
        .to_vec()
        .unwrap();
    let Parsed::Question(question) = read_query(&bytes) else {
        panic!("a question");
    };
    assert_eq!(question.name, "www.example.test");
    assert_eq!(question.asked, Asked::Addresses(Family::V6));
}

#[test]
fn names_that_no_host_has_do_not_exist() {
    let mut names = vec![Name::root()];
    for label in [&b"a b"[..], b"a\0", b"a.b", b"\xc3\xa9", b"*"] {
        names.push(Name::from_labels([label, b"test"]).unwrap());
    }
    for name in names {
        let mut message = query("x.test.", RecordType::A);
        message.queries[0].set_name(name.clone());
        let bytes = message.to_vec().unwrap();
        assert_eq!(code(&bytes), Some(ResponseCode::NXDomain), "{name}");
    }
}

#[test]
fn what_is_no_plain_question_is_answered_as_such() {
    let mut update = query("a.test.", RecordType::A);
    update.metadata.op_code = OpCode::Status;
    assert_eq!(code(&update.to_vec().unwrap()), Some(ResponseCode::NotImp));
    let mut chaos = query("a.test.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos.to_vec().unwrap()), Some(ResponseCode::Refused));
    let none = Message::new(9, MessageType::Query, OpCode::Query);
    assert_eq!(code(&none.to_vec().unwrap()), Some(ResponseCode::FormErr));
    let cut = &query("a.test.", RecordType::A).to_vec().unwrap()[..14];
    assert_eq!(code(cut), Some(ResponseCode::FormErr));
    let response = Message::response(9, OpCode::Query).to_vec().unwrap();
    assert!(matches!(read_query(&response), Parsed::Ignored));
    assert!(matches!(read_query(&[0; 11]), Parsed::Ignored));
}

#[test]
fn answers_are_truncated_to_what_the_guest_takes() {
    let addresses = vec![IpAddr::from([192, 0, 2, 1]); 32];
    let ttl = Duration::from_secs(5);
    let reply = Reply::Addresses { addresses, ttl };
    for (payload, truncated) in [(None, true), (Some(540), true), (Some(4_096), false)] {
        let mut message = query("many.test.", RecordType::A);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        let Parsed::Question(question) = read_query(&message.to_vec().unwrap()) else {
            panic!("a question");
        };
        let bytes = question.answer(&reply, question.datagram_limit()).unwrap();
        assert!(bytes.len() <= usize::from(payload.unwrap_or(512)));
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.truncation, truncated);
        assert_eq!(answer.edns.is_some(), payload.is_some());
    }
}

#[test]
fn failures_have_their_codes() {
    let bytes = query("a.test.", RecordType::A).to_vec().unwrap();
    let Parsed::Question(question) = read_query(&bytes) else {
        panic!("a question");
    };
    for (failure, expected) in [
        (DnsFailure::NoSuchName, ResponseCode::NXDomain),
        (DnsFailure::ServerFailure, ResponseCode::ServFail),
        (DnsFailure::Refused, ResponseCode::Refused),
    ] {
        let bytes = question.answer(&Reply::Failure(failure), 512).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.response_code, expected);
    }
}

fn own() -> OwnQuestion {
    OwnQuestion::new("a.test", Family::V4, 0x1234).unwrap()
}

fn reply_to(question: &OwnQuestion) -> Message {
    Message::from_vec(&question.to_bytes().unwrap())
        .unwrap()
        .into_response()
}

fn record(name: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
}

fn a(last: u8) -> RData {
    RData::A(Ipv4Addr::new(192, 0, 2, last).into())
}

#[test]
fn replies_follow_aliases_and_take_the_shortest_time() {
    let question = own();
    let mut reply = reply_to(&question);
    let alias = |name: &str| RData::CNAME(CNAME(Name::from_ascii(name).unwrap()));
    reply.add_answer(record("c.test.", 90, a(1)));
    reply.add_answer(record("B.test.", 40, alias("c.test.")));
    reply.add_answer(record("a.test.", 60, alias("b.test.")));
    reply.add_answer(record("other.test.", 1, a(2)));
    let read = question.read_reply(&reply.to_vec().unwrap());
    let expected = Answer {
        addresses: vec![[192, 0, 2, 1].into()],
        ttl: Duration::from_secs(40),
    };
    assert_eq!(read, Some(ServerReply::Full(Ok(expected))));
}

#[test]
fn alias_loops_end() {
    let question = own();
    let mut reply = reply_to(&question);
    let alias = RData::CNAME(CNAME(Name::from_ascii("a.test.").unwrap()));
    reply.add_answer(record("a.test.", 60, alias));
    let Some(ServerReply::Full(Ok(answer))) = question.read_reply(&reply.to_vec().unwrap()) else {
        panic!("an answer");
    };
    assert!(answer.addresses.is_empty());
}

#[test]
fn replies_to_something_else_are_not_taken() {
    let question = own();
    let good = reply_to(&question);
    assert!(question.read_reply(&good.to_vec().unwrap()).is_some());
    let mut id = good.clone();
    id.metadata.id ^= 1;
    let mut kind = good.clone();
    kind.queries[0].set_query_type(RecordType::AAAA);
    let mut name = good.clone();
    name.queries[0].set_name(Name::from_ascii("b.test.").unwrap());
    let mut unasked = good.clone();
    unasked.queries.clear();
    let mut request = good;
    request.metadata.message_type = MessageType::Query;
    for wrong in [id, kind, name, unasked, request] {
        assert_eq!(question.read_reply(&wrong.to_vec().unwrap()), None);
    }
}

proptest! {
    #[test]
    fn no_query_brings_the_server_down(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        crate::fuzz_dns_query(&bytes);
        crate::fuzz_dns_reply(&bytes);
    }

    #[test]
    fn no_damage_to_a_message_brings_us_down(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
    ) {
        let mut query = query("www.example.test.", RecordType::A).to_vec().unwrap();
        let mut reply = reply_to(&own());
        reply.add_answer(record("a.test.", 90, a(1)));
        let mut reply = reply.to_vec().unwrap();
        for (at, value) in changes {
            let (q, r) = (at.index(query.len()), at.index(reply.len()));
            query[q] = value;
            reply[r] = value;
        }
        crate::fuzz_dns_query(&query);
        crate::fuzz_dns_reply(&reply);
    }

    #[test]
    fn every_host_name_survives_the_way_in(name in "[a-z0-9_-]{1,20}(\\.[a-z0-9_-]{1,20}){0,4}") {
        let bytes = OwnQuestion::new(&name, Family::V4, 1).unwrap().to_bytes().unwrap();
        let Parsed::Question(question) = read_query(&bytes) else {
            panic!("a question");
        };
        prop_assert_eq!(question.name, name);
    }
}
