//! What fuzzing has found interesting is tried again at each test run, and the corpus is what fuzzing begins with.

use agent_vm_test_support::fuzz_corpus;
use hickory_proto::op::{Edns, OpCode, Query as WireQuery, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, IpHint, SvcParamKey, Unknown};
use hickory_proto::rr::rdata::{A, AAAA, HTTPS, MX, NULL, PTR, SRV, TXT};

use super::super::test_server::{a, alias, answer, name, record, response, soa};
use super::*;

#[test]
fn questions_found_by_fuzzing_do_not_panic() {
    fuzz_corpus::replay("dns_query", fuzz_dns_query);
}

#[test]
fn replies_found_by_fuzzing_do_not_panic_and_let_nothing_through() {
    fuzz_corpus::replay("dns_reply", fuzz_dns_reply);
}

#[test]
fn seeds_are_what_they_stand_for() {
    for (kind, reply) in replies() {
        let seed = seed(kind, &reply);
        let question = Question::new(&name("a.test."), kind);
        let own = OwnQuestion::new(&question, ID, EdnsUse::Left, Trust::VerifiedAnswers);
        let read = own.read_reply(&reply.to_vec().unwrap());
        assert!(
            matches!(read, Some(ServerReply::Full(_))),
            "{kind}: {read:?}"
        );
        let chosen = KINDS[usize::from(seed[0])];
        assert_eq!(chosen, u16::from(kind));
        fuzz_dns_reply(&seed);
    }
}

fn service() -> RData {
    let v4 = IpHint(vec![A::new(192, 0, 2, 1), A::new(192, 0, 2, 2)]);
    let v6 = IpHint(vec![
        AAAA::new(1, 2, 3, 4, 5, 6, 7, 8),
        AAAA::new(1, 2, 3, 4, 5, 6, 7, 9),
    ]);
    let key = EchConfigList(vec![1, 2, 3, 4]);
    let params = vec![
        (
            SvcParamKey::Alpn,
            SvcParamValue::Alpn(Alpn(vec!["h2".to_owned()])),
        ),
        (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(v4)),
        (
            SvcParamKey::EchConfigList,
            SvcParamValue::EchConfigList(key),
        ),
        (SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(v6)),
        (
            SvcParamKey::Key(7),
            SvcParamValue::Unknown(Unknown(vec![7])),
        ),
    ];
    RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), params)))
}

/// Replies of every kind.
fn replies() -> Vec<(RecordType, Message)> {
    let locator = RecordType::from(42);
    let data = [
        a(1),
        RData::AAAA(AAAA::new(1, 2, 3, 4, 5, 6, 7, 8)),
        RData::MX(MX::new(1, name("b.test."))),
        RData::TXT(TXT::new(vec!["text".to_owned()])),
        RData::SRV(SRV::new(1, 2, 3, name("b.test."))),
        RData::PTR(PTR(name("b.test."))),
        soa(1, 2).data,
        service(),
        alias("b.test."),
        RData::Unknown {
            code: locator,
            rdata: NULL::with(vec![127, 0, 0, 1]),
        },
    ];
    let query = |kind| {
        let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
        message.add_query(WireQuery::query(name("a.test."), kind));
        message
    };
    let mut all: Vec<_> = data
        .into_iter()
        .map(|data| {
            let kind = data.record_type();
            (kind, answer(&query(kind), [record("a.test.", 60, data)]))
        })
        .collect();
    let mut gone = response(&query(RecordType::A));
    gone.metadata.response_code = ResponseCode::NXDomain;
    gone.add_authority(soa(60, 5));
    all.push((RecordType::A, gone));
    let chain: [Record; 3] = [
        record("a.test.", 60, alias("b.test.")),
        record("b.test.", 60, alias("c.test.")),
        record("c.test.", 60, a(3)),
    ];
    all.push((RecordType::A, answer(&query(RecordType::A), chain)));
    all
}

/// As [`fuzz_dns_reply`] takes a reply apart.
fn seed(kind: RecordType, reply: &Message) -> Vec<u8> {
    let bytes = reply.to_vec().unwrap();
    let choice = KINDS
        .iter()
        .position(|known| *known == u16::from(kind))
        .unwrap();
    let question = HEADER_LEN + reply.queries[0].name().len() + 4;
    [
        &[choice as u8],
        &bytes[2..4],
        &bytes[6..12],
        &bytes[question..],
    ]
    .concat()
}

#[test]
#[ignore = "writes seeds into fuzz/corpus"]
fn write_fuzz_seeds() {
    let write = |target: &str, number: usize, bytes: &[u8]| {
        fs_err::create_dir_all(fuzz_corpus::directory(target)).unwrap();
        fs_err::write(
            fuzz_corpus::directory(target).join(format!("seed-{number}")),
            bytes,
        )
        .unwrap();
    };
    for (number, (kind, reply)) in replies().iter().enumerate() {
        write("dns_reply", number, &seed(*kind, reply));
    }
    for (number, kind) in KINDS.iter().enumerate() {
        let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
        message.add_query(WireQuery::query(
            name("_x._tcp.a.test."),
            RecordType::from(*kind),
        ));
        if number % 2 == 0 {
            let mut edns = Edns::new();
            edns.set_max_payload(1_232);
            message.set_edns(edns);
        }
        write("dns_query", number, &message.to_vec().unwrap());
    }
}
