use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{MessageType, Query as WireQuery};
use hickory_proto::rr::{Name, RData};
use proptest::prelude::*;

use super::super::resolver::Family;
use super::super::test_server::{a, name, record, soa};
use super::*;

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(9, MessageType::Query, OpCode::Query);
    message.add_query(WireQuery::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn edns(payload: u16) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    edns
}

fn read(message: &Message) -> Query {
    match read_query(&message.to_vec().unwrap()) {
        Parsed::Question(query) => *query,
        other => panic!("a question, not {other:?}"),
    }
}

fn answered(query: &Query, reply: Result<Answer, DnsFailure>) -> Message {
    Message::from_vec(&query.answer(&reply, 65_535).unwrap()).unwrap()
}

fn code(bytes: &[u8]) -> Option<ResponseCode> {
    match read_query(bytes) {
        Parsed::Answered(answer) => {
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!(answer.metadata.message_type, MessageType::Response);
            assert_eq!(answer.metadata.id, 9);
            Some(answer.metadata.response_code)
        }
        _ => None,
    }
}

#[test]
fn names_are_lowered_but_repeated_as_they_were_asked() {
    let query = read(&query("WWW.Example.Test.", RecordType::AAAA));
    assert_eq!(query.question.host().unwrap(), "www.example.test");
    assert_eq!(query.question.family(), Some(Family::V6));
    let address: IpAddr = "2001:db8::1".parse().unwrap();
    let reply = Answer::of_addresses(&query.question, [address], Duration::from_secs(5));
    let answer = answered(&query, Ok(reply));
    assert_eq!(answer.answers[0].name.to_string(), "WWW.Example.Test.");
    assert_eq!(answer.queries[0].name().to_string(), "WWW.Example.Test.");
}

#[test]
fn no_host_has_an_odd_name_but_other_records_may() {
    for label in [&b"a b"[..], b"a\0", b"a.b", b"\xc3\xa9", b"*"] {
        let odd = Name::from_labels([label, b"test"]).unwrap();
        for (kind, exists) in [
            (RecordType::A, false),
            (RecordType::AAAA, false),
            (RecordType::HTTPS, false),
            (RecordType::TXT, true),
            (RecordType::PTR, true),
        ] {
            let mut message = query("x.test.", kind);
            message.queries[0].set_name(odd.clone());
            let bytes = message.to_vec().unwrap();
            let expected = (!exists).then_some(ResponseCode::NXDomain);
            assert_eq!(code(&bytes), expected, "{odd} {kind}");
        }
    }
}

#[test]
fn what_is_no_plain_question_is_answered_as_such() {
    let bytes = |change: &dyn Fn(&mut Message)| {
        let mut message = query("a.test.", RecordType::A);
        change(&mut message);
        message.to_vec().unwrap()
    };
    let status = bytes(&|message| message.metadata.op_code = OpCode::Status);
    assert_eq!(code(&status), Some(ResponseCode::NotImp));
    let chaos = bytes(&|message| {
        message.queries[0].set_query_class(DNSClass::CH);
    });
    assert_eq!(code(&chaos), Some(ResponseCode::Refused));
    let none = bytes(&|message| message.queries.clear());
    assert_eq!(code(&none), Some(ResponseCode::FormErr));
    let two = bytes(&|message| message.queries.push(message.queries[0].clone()));
    assert_eq!(code(&two), Some(ResponseCode::FormErr));
    for kind in [RecordType::AXFR, RecordType::IXFR, RecordType::OPT] {
        let transfer = bytes(&|message| {
            message.queries[0].set_query_type(kind);
        });
        assert_eq!(code(&transfer), Some(ResponseCode::NotImp), "{kind}");
    }
    let version = bytes(&|message| {
        message.set_edns(edns(1_232).set_version(1).clone());
    });
    // Read back, 16 has another name.
    assert_eq!(code(&version).map(u16::from), Some(16));
    assert_eq!(code(&status[..14]), Some(ResponseCode::FormErr));
    let response = Message::response(9, OpCode::Query).to_vec().unwrap();
    assert!(matches!(read_query(&response), Parsed::Ignored));
    assert!(matches!(read_query(&[0; 11]), Parsed::Ignored));
    assert!(matches!(read_query(&[0; MAX_QUERY + 1]), Parsed::Ignored));
}

#[test]
fn compression_loops_and_names_that_are_too_long_are_malformed() {
    let mut header = query("a.test.", RecordType::A).to_vec().unwrap();
    header.truncate(12);
    let tail = [0, 1, 0, 1];
    let itself = [&header[..], &[0xc0, 12], &tail].concat();
    let forward = [&header[..], &[0xc0, 18], &tail].concat();
    let labels: Vec<u8> = (0..5)
        .flat_map(|_| [&[63][..], &[b'x'; 63]].concat())
        .collect();
    let long = [&header[..], &labels, &[0], &tail].concat();
    for bytes in [itself, forward, long] {
        assert_eq!(code(&bytes), Some(ResponseCode::FormErr));
    }
}

#[test]
fn a_refusal_needs_no_more_than_a_header() {
    let bytes = query("a.test.", RecordType::A).to_vec().unwrap();
    let refused = Message::from_vec(&refusal(&bytes).unwrap()).unwrap();
    assert_eq!(refused.metadata.id, 9);
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    let response = Message::response(9, OpCode::Query).to_vec().unwrap();
    assert_eq!(refusal(&response), None);
    assert_eq!(refusal(&bytes[..11]), None);
}

#[test]
fn datagrams_are_as_large_as_the_guest_says_and_the_link_allows() {
    let link = 65_472;
    for (payload, most, limit) in [
        (None, link, 512),
        (Some(100), link, 512),
        (Some(540), link, 540),
        (Some(1_232), link, 1_232),
        (Some(1_400), link, 1_400),
        (Some(65_535), link, 4_096),
        (Some(4_096), 1_232, 1_232),
    ] {
        let mut message = query("many.test.", RecordType::A);
        message.edns = payload.map(edns);
        assert_eq!(read(&message).datagram_limit(most), limit);
    }
}

#[test]
fn answers_are_truncated_to_what_the_guest_takes() {
    for (payload, truncated) in [(None, true), (Some(540), true), (Some(1_232), false)] {
        let mut message = query("many.test.", RecordType::A);
        message.edns = payload.map(edns);
        let query = read(&message);
        let addresses = (0..32).map(|n| IpAddr::from([192, 0, 2, n]));
        let reply = Answer::of_addresses(&query.question, addresses, Duration::from_secs(5));
        let limit = query.datagram_limit(65_472);
        let bytes = query.answer(&Ok(reply), limit).unwrap();
        assert!(bytes.len() <= usize::from(payload.unwrap_or(512)));
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.truncation, truncated);
        assert_eq!(answer.answers.is_empty(), truncated);
        assert_eq!(
            answer.edns.map(|edns| edns.max_payload()),
            payload.map(|_| OUR_PAYLOAD)
        );
    }
}

#[test]
fn failures_have_their_codes() {
    let query = read(&query("a.test.", RecordType::A));
    for (reply, expected) in [
        (Ok(Answer::no_such_name()), ResponseCode::NXDomain),
        (Err(DnsFailure::ServerFailure), ResponseCode::ServFail),
        (Err(DnsFailure::Refused), ResponseCode::Refused),
    ] {
        let answer = answered(&query, reply);
        assert_eq!(answer.metadata.response_code, expected);
        assert!(answer.metadata.recursion_available);
    }
}

#[test]
fn only_negative_answers_have_an_soa_and_it_says_how_long_they_count() {
    let query = read(&query("a.test.", RecordType::A));
    let mut reply = Answer::no_such_name();
    reply.soa = Some(Box::new(soa(600, 60)));
    let answer = answered(&query, Ok(reply.clone()));
    assert_eq!(answer.authorities.len(), 1);
    assert_eq!(answer.authorities[0].ttl, 60);
    reply.existence = Existence::Exists;
    reply.records = vec![record("a.test.", 5, a(1))];
    assert!(answered(&query, Ok(reply)).authorities.is_empty());
}

#[test]
fn verified_is_told_only_to_those_who_ask() {
    let verified = |message: &Message| {
        let query = read(message);
        let mut reply = Answer::of(vec![record("a.test.", 5, a(1))]);
        reply.authentic = true;
        answered(&query, Ok(reply)).metadata.authentic_data
    };
    let mut message = query("a.test.", RecordType::A);
    assert!(!verified(&message));
    message.metadata.authentic_data = true;
    assert!(verified(&message));
    message.metadata.authentic_data = false;
    message.set_edns(edns(1_232).set_dnssec_ok(true).clone());
    assert!(verified(&message));
}

#[test]
fn what_the_guest_says_in_edns_goes_nowhere() {
    use hickory_proto::rr::rdata::opt::EdnsOption;
    let mut message = query("a.test.", RecordType::A);
    let mut options = edns(1_232);
    options
        .options_mut()
        .insert(EdnsOption::Unknown(10, vec![7; 8]));
    message.set_edns(options);
    let bytes = message.to_vec().unwrap();
    assert!(bytes.windows(8).any(|part| part == [7; 8]));
    let answer = answered(&read(&message), Err(DnsFailure::ServerFailure));
    assert!(
        !answer
            .to_vec()
            .unwrap()
            .windows(8)
            .any(|part| part == [7; 8])
    );
}

#[test]
fn the_judged_name_is_the_hosts() {
    use super::super::resolver::judged_name;
    let judged = |labels: &[&[u8]], kind| {
        let name = Name::from_labels(labels.iter().copied()).unwrap();
        judged_name(&Question::new(&name, kind))
    };
    let srv = RecordType::SRV;
    assert_eq!(judged(&[b"_sip", b"_TCP", b"A", b"test"], srv), "a.test");
    assert_eq!(
        judged(&[b"s1", b"_domainkey", b"a", b"test"], srv),
        "a.test"
    );
    assert_eq!(
        judged(&[b"My Printer", b"_ipp", b"a", b"test"], srv),
        "a.test"
    );
    assert_eq!(judged(&[b"a.b", b"test"], srv), "test");
    assert_eq!(judged(&[b"a_b", b"test"], srv), "a_b.test");
    assert_eq!(judged(&[b"_x", b"a", b"test"], RecordType::A), "_x.a.test");
    assert_eq!(judged(&[b"_x"], srv), "");
    assert_eq!(judged_name(&Question::new(&Name::root(), srv)), "");
    assert_eq!(judged_name(&Question::new(&name("a.test."), srv)), "a.test");
}

proptest! {
    #[test]
    fn no_query_brings_the_server_down(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        crate::fuzz_dns_query(&bytes);
    }

    #[test]
    fn no_damage_to_a_query_brings_the_server_down(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
    ) {
        let mut message = query("www.example.test.", RecordType::A);
        message.set_edns(edns(1_232));
        let mut query = message.to_vec().unwrap();
        for (at, value) in changes {
            let at = at.index(query.len());
            query[at] = value;
        }
        crate::fuzz_dns_query(&query);
    }

    #[test]
    fn every_host_name_survives_the_way_in(name in "[a-z0-9_-]{1,20}(\\.[a-z0-9_-]{1,20}){0,4}") {
        let mut message = query("x.test.", RecordType::A);
        message.queries[0].set_name(Name::from_labels(name.split('.').map(str::as_bytes)).unwrap());
        let query = read(&message);
        prop_assert_eq!(query.question.host(), Some(name));
    }
}

#[test]
fn data_of_every_kind_passes_through() {
    let query = read(&query("a.test.", RecordType::TXT));
    let data = RData::TXT(hickory_proto::rr::rdata::TXT::new(vec![
        "x".repeat(255);
        20
    ]));
    let reply = Answer::of(vec![record("a.test.", 5, data.clone())]);
    assert_eq!(answered(&query, Ok(reply)).answers[0].data, data);
}
