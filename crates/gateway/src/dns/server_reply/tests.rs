use hickory_proto::rr::rdata::{CAA, MX, PTR, SRV, TXT};
use proptest::prelude::*;

use super::super::test_server::{a, alias, answer, name, record, response, soa};
use super::*;

fn own(kind: RecordType) -> OwnQuestion {
    let question = Question::new(&name("a.test."), kind);
    OwnQuestion::new(&question, 0x1234, EdnsUse::Offered, Trust::Nothing)
}

fn query(question: &OwnQuestion) -> Message {
    Message::from_vec(&question.to_bytes().unwrap()).unwrap()
}

fn read(question: &OwnQuestion, message: &Message) -> Option<ServerReply> {
    question.read_reply(&message.to_vec().unwrap())
}

fn full(question: &OwnQuestion, message: &Message) -> Answer {
    match read(question, message) {
        Some(ServerReply::Full(answer)) => answer,
        other => panic!("an answer, not {other:?}"),
    }
}

fn data(answer: &Answer) -> Vec<String> {
    let data = answer.records.iter();
    data.map(|record| format!("{} {}", record.name, record.data))
        .collect()
}

#[test]
fn questions_ask_for_recursion_and_offer_a_safe_datagram() {
    let query = query(&own(RecordType::A));
    assert!(query.metadata.recursion_desired && !query.metadata.authentic_data);
    assert_eq!(query.edns.unwrap().max_payload(), 1_232);
}

#[test]
fn aliases_are_followed_in_any_order_and_what_is_beside_them_is_left_out() {
    let question = own(RecordType::A);
    let records = [
        record("c.test.", 90, a(1)),
        record("other.test.", 1, a(2)),
        record("B.test.", 40, alias("c.test.")),
        record("a.test.", 60, alias("b.test.")),
        record("a.test.", 60, a(9)),
    ];
    let mut message = answer(&query(&question), records);
    message.add_additional(record("c.test.", 90, a(3)));
    let expected = ["a.test. b.test.", "B.test. c.test.", "c.test. 192.0.2.1"];
    let read = full(&question, &message);
    assert_eq!(data(&read), expected);
    assert_eq!(read.lifetime(RecordType::A).as_secs(), 40);
}

#[test]
fn alias_loops_end() {
    let question = own(RecordType::A);
    for records in [
        vec![record("a.test.", 60, alias("a.test."))],
        vec![
            record("a.test.", 60, alias("b.test.")),
            record("b.test.", 60, alias("a.test.")),
        ],
    ] {
        let read = full(&question, &answer(&query(&question), records));
        assert!(!read.has_data(RecordType::A));
        assert!(read.records.len() <= MAX_ALIASES);
        assert_eq!(
            unfollowed(&Question::new(&name("a.test."), RecordType::A), &read),
            None
        );
    }
}

#[test]
fn an_alias_without_its_end_is_to_be_asked_for() {
    let asked = Question::new(&name("a.test."), RecordType::A);
    let question = own(RecordType::A);
    let open = answer(&query(&question), [record("a.test.", 60, alias("b.test."))]);
    let next = unfollowed(&asked, &full(&question, &open)).unwrap();
    assert_eq!(next, Question::new(&name("b.test."), RecordType::A));
    let mut ended = open.clone();
    ended.add_authority(soa(60, 60));
    assert_eq!(
        unfollowed(&asked, &full(&question, &ended)),
        None,
        "it has no address"
    );
    let mut gone = open;
    gone.metadata.response_code = ResponseCode::NXDomain;
    assert_eq!(unfollowed(&asked, &full(&question, &gone)), None);
}

#[test]
fn records_of_every_type_are_taken_as_they_are() {
    let text = TXT::new(vec!["v=spf1 -all".to_owned(), "x".repeat(255)]);
    let unknown = RecordType::from(65_280);
    for (kind, data) in [
        (RecordType::MX, RData::MX(MX::new(10, name("mx.test.")))),
        (RecordType::TXT, RData::TXT(text)),
        (
            RecordType::SRV,
            RData::SRV(SRV::new(1, 2, 443, name("b.test."))),
        ),
        (RecordType::PTR, RData::PTR(PTR(name("b.test.")))),
        (
            RecordType::NS,
            RData::NS(hickory_proto::rr::rdata::NS(name("ns.test."))),
        ),
        (RecordType::SOA, soa(1, 2).data),
        (
            RecordType::CAA,
            RData::CAA(CAA::new_issue(false, Some(name("ca.test.")), vec![])),
        ),
        (RecordType::CNAME, alias("b.test.")),
        (
            unknown,
            RData::Unknown {
                code: unknown,
                rdata: hickory_proto::rr::rdata::NULL::with(vec![1, 2, 3]),
            },
        ),
    ] {
        let question = own(kind);
        let message = answer(&query(&question), [record("a.test.", 60, data.clone())]);
        let read = full(&question, &message);
        assert_eq!(read.records.len(), 1, "{kind}");
        assert_eq!(read.records[0].data, data);
    }
}

#[test]
fn a_negative_answer_is_kept_as_its_soa_says() {
    let question = own(RecordType::A);
    for (soa_record, seconds) in [
        (Some(soa(600, 60)), 60),
        (Some(soa(30, 60)), 30),
        (Some(soa(u32::MAX, 60)), 0),
        (Some(soa(86_400, 86_400)), 900),
        (None, 0),
    ] {
        for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
            let mut message = response(&query(&question));
            message.metadata.response_code = code;
            message.add_authorities(soa_record.clone());
            let read = full(&question, &message);
            assert_eq!(
                read.existence == Existence::NoSuchName,
                code == ResponseCode::NXDomain
            );
            assert_eq!(read.lifetime(RecordType::A).as_secs(), seconds);
        }
    }
}

#[test]
fn replies_to_something_else_are_not_taken() {
    let question = own(RecordType::A);
    let good = response(&query(&question));
    assert!(read(&question, &good).is_some());
    let wrong = |change: &dyn Fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        assert_eq!(read(&question, &message), None);
    };
    wrong(&|message| message.metadata.id ^= 1);
    wrong(&|message| {
        message.queries[0].set_query_type(RecordType::AAAA);
    });
    wrong(&|message| {
        message.queries[0].set_query_class(DNSClass::CH);
    });
    wrong(&|message| {
        message.queries[0].set_name(name("b.test."));
    });
    wrong(&|message| message.queries.clear());
    wrong(&|message| message.queries.push(message.queries[0].clone()));
    wrong(&|message| message.metadata.message_type = MessageType::Query);
    wrong(&|message| message.metadata.op_code = OpCode::Status);
    let mut shouted = good.clone();
    shouted.queries[0].set_name(name("A.TEST."));
    assert!(read(&question, &shouted).is_some(), "case means nothing");
}

#[test]
fn a_server_that_fails_or_looks_no_further_is_no_answer() {
    let question = own(RecordType::A);
    for code in [
        ResponseCode::ServFail,
        ResponseCode::Refused,
        ResponseCode::YXDomain,
    ] {
        let mut message = response(&query(&question));
        message.metadata.response_code = code;
        assert_eq!(read(&question, &message), Some(ServerReply::Failed));
    }
    let mut referral = response(&query(&question));
    referral.metadata.recursion_available = false;
    assert_eq!(read(&question, &referral), Some(ServerReply::Failed));
    let mut junk = query(&question).to_vec().unwrap()[..14].to_vec();
    junk[2] |= 0x80;
    assert_eq!(question.read_reply(&junk), Some(ServerReply::Failed));
}

#[test]
fn truncation_and_refused_edns_are_seen() {
    let question = own(RecordType::A);
    let mut cut = response(&query(&question));
    cut.metadata.truncation = true;
    assert_eq!(read(&question, &cut), Some(ServerReply::Truncated));
    let mut old = response(&query(&question));
    old.metadata.response_code = ResponseCode::FormErr;
    old.queries.clear();
    old.edns = None;
    assert_eq!(read(&question, &old), Some(ServerReply::WithoutEdns));
    let asked = Question::new(&name("a.test."), RecordType::A);
    let plain = OwnQuestion::new(&asked, 0x1234, EdnsUse::Left, Trust::Nothing);
    assert!(query(&plain).edns.is_none());
    assert_eq!(read(&plain, &old), None, "it repeats no question");
}

#[test]
fn a_server_is_believed_about_verification_only_if_the_host_says_so() {
    let asked = Question::new(&name("a.test."), RecordType::A);
    for (trust, believed) in [(Trust::Nothing, false), (Trust::VerifiedAnswers, true)] {
        let question = OwnQuestion::new(&asked, 1, EdnsUse::Offered, trust);
        assert_eq!(query(&question).metadata.authentic_data, believed);
        let mut message = answer(&query(&question), [record("a.test.", 60, a(1))]);
        message.metadata.authentic_data = true;
        assert_eq!(full(&question, &message).authentic, believed);
    }
}

#[test]
fn times_are_kept_within_reason() {
    let question = own(RecordType::A);
    for (said, kept) in [(5, 5), (1_000_000, 3_600), (1 << 31, 0)] {
        let message = answer(&query(&question), [record("a.test.", said, a(1))]);
        assert_eq!(full(&question, &message).records[0].ttl, kept);
    }
}

proptest! {
    #[test]
    fn no_reply_brings_us_down(bytes in prop::collection::vec(any::<u8>(), 0..160)) {
        crate::fuzz_dns_reply(&bytes);
    }

    #[test]
    fn no_damage_to_a_reply_brings_us_down(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
    ) {
        let question = own(RecordType::A);
        let records = [record("a.test.", 40, alias("c.test.")), record("c.test.", 90, a(1))];
        let mut bytes = answer(&query(&question), records).to_vec().unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        crate::fuzz_dns_reply(&bytes);
    }
}
