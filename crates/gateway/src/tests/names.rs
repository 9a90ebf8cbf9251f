//! DNS as the guest sees it.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::svcb::{EchConfigList, IpHint, SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, HTTPS, MX, PTR, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::guest::{Guest, GuestOptions};
use super::handlers::{ECHO, TestHandler};
use super::refusals::udp;
use super::with_guest;
use crate::config::LinkAddresses;
use crate::{Answer, DenyReason, NameTreatment};

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn ask(guest: &Guest, server: IpAddr, name: &str, kind: RecordType) -> Message {
    ask_bytes(guest, server, &question(name, kind)).await
}

async fn ask_bytes(guest: &Guest, server: IpAddr, question: &[u8]) -> Message {
    guest.send_raw(&udp(server.into(), 53, question));
    let payload_at = if server.is_ipv4() { 42 } else { 62 };
    guest
        .wire(|wire| {
            let found = wire.kept.iter().position(|frame| {
                let protocol = if server.is_ipv4() {
                    frame[23]
                } else {
                    frame[20]
                };
                protocol == 17
            })?;
            let frame = wire.kept.remove(found);
            Some(Message::from_vec(&frame[payload_at..]).unwrap())
        })
        .await
}

/// Has the gateway remember the name with the addresses the test's table gives it.
pub(crate) async fn learn(guest: &Guest, name: &str) {
    let [server, _] = gateway();
    for kind in [RecordType::A, RecordType::AAAA] {
        ask(guest, server, name, kind).await;
    }
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let of = |data: &RData| match data {
        RData::A(a) => IpAddr::V4(a.0),
        RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
        other => panic!("unexpected {other:?}"),
    };
    message
        .answers
        .iter()
        .map(|record| of(&record.data))
        .collect()
}

fn gateway() -> [IpAddr; 2] {
    let addresses = LinkAddresses::default();
    [addresses.gateway_v4.into(), addresses.gateway_v6.into()]
}

#[tokio::test(start_paused = true)]
async fn answers_addresses_on_both_families_and_names_the_flow() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let v4: IpAddr = [192, 0, 2, 7].into();
        for name in ["a.test", "b.test"] {
            handler.names.borrow_mut().insert(name.to_owned(), vec![v4]);
        }
        for (server, name) in gateway().into_iter().zip(["A.Test.", "b.test."]) {
            let answer = ask(&guest, server, name, RecordType::A).await;
            assert_eq!(addresses(&answer), [v4]);
            assert_eq!(answer.answers[0].ttl, 30);
            assert_eq!(answer.metadata.id, 77);
        }
        guest.connect(v4, ECHO).await.unwrap();
        assert_eq!(handler.requests.borrow()[0].names, ["b.test", "a.test"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn answers_over_tcp_one_question_after_the_other() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let many: Vec<IpAddr> = (0..40).map(|n| [192, 0, 2, n].into()).collect();
        handler
            .names
            .borrow_mut()
            .insert("many.test".to_owned(), many);
        let truncated = ask(&guest, gateway()[0], "many.test.", RecordType::A).await;
        assert!(truncated.metadata.truncation);
        assert!(truncated.answers.is_empty());
        let connection = guest.connect(gateway()[1], 53).await.unwrap();
        for _ in 0..2 {
            let question = question("many.test.", RecordType::A);
            let mut framed = (question.len() as u16).to_be_bytes().to_vec();
            framed.extend_from_slice(&question);
            assert!(connection.send(&framed).await);
            let reply = connection.receive(4_096).await.unwrap();
            let answer = Message::from_vec(&reply[2..]).unwrap();
            assert_eq!(addresses(&answer).len(), crate::MAX_ANSWER_ADDRESSES);
        }
        assert!(
            handler.requests.borrow().is_empty(),
            "not a flow of the handler's"
        );
        connection.close();
        assert_eq!(connection.receive_all().await.unwrap(), b"");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn overridden_names_get_their_own_address_and_keep_their_name() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let answer = ask(&guest, gateway()[0], "override.TEST.", RecordType::A).await;
        let synthetic: IpAddr = [198, 18, 0, 1].into();
        assert_eq!(addresses(&answer), [synthetic]);
        let answer = ask(&guest, gateway()[0], "override.test.", RecordType::AAAA).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
        assert!(handler.asked.borrow().is_empty(), "never asked outside");
        guest.connect(synthetic, ECHO).await.unwrap();
        assert_eq!(handler.requests.borrow()[0].names, ["override.test"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn names_that_nobody_answers_get_a_stand_in_where_they_are_connected_to_by_name() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let [server, _] = gateway();
        *handler.by_name.borrow_mut() = ["dead.test", "silent.test", "no.test", "a.test"]
            .map(str::to_owned)
            .to_vec();
        let real: IpAddr = [192, 0, 2, 7].into();
        handler
            .names
            .borrow_mut()
            .insert("a.test".to_owned(), vec![real]);
        for (name, expected) in [
            ("a.test.", Some(real)),
            ("dead.test.", Some([198, 19, 0, 1].into())),
            ("silent.test.", Some([198, 19, 0, 2].into())),
            ("Dead.Test.", Some([198, 19, 0, 1].into())),
            ("no.test.", None),
            ("dead.elsewhere.test.", None),
        ] {
            let answer = ask(&guest, server, name, RecordType::A).await;
            assert_eq!(addresses(&answer), Vec::from_iter(expected), "{name}");
        }
        let answer = ask(&guest, server, "dead.test.", RecordType::AAAA).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
        let asked = handler
            .asked
            .borrow()
            .iter()
            .filter(|name| *name == "dead.test")
            .count();
        assert_eq!(asked, 1, "who failed is not asked again at once");
        for number in [1, 3] {
            guest.connect([198, 19, 0, number], ECHO).await.unwrap();
        }
        let requests = handler.requests.borrow();
        assert_eq!(requests[0].names, ["dead.test"]);
        assert!(requests[1].names.is_empty(), "bound to no name");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn addresses_that_are_not_allowed_are_left_out_and_reported() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let good: IpAddr = "2001:db8::1".parse().unwrap();
        let bad = [
            "::ffff:127.0.0.1",
            "::1",
            "::ffff:198.18.0.1",
            "::ffff:198.19.0.1",
        ];
        let mut all: Vec<IpAddr> = bad.iter().map(|text| text.parse().unwrap()).collect();
        all.push(good);
        handler
            .names
            .borrow_mut()
            .insert("evil.test".to_owned(), all);
        let answer = ask(&guest, gateway()[0], "evil.test.", RecordType::AAAA).await;
        assert_eq!(addresses(&answer), [good]);
        let denied = handler.denied.borrow();
        assert_eq!(denied.len(), bad.len());
        assert!(denied.iter().all(|d| d.reason == DenyReason::Rebinding));
        assert_eq!(denied[0].name.as_deref(), Some("evil.test"));
    })
    .await;
}

/// What a server says of `name`.
fn answers(handler: &TestHandler, name: &str, data: impl IntoIterator<Item = RData>) {
    let owner = Name::from_ascii(format!("{name}.")).unwrap();
    let records = data.into_iter();
    let records = records.map(|data| Record::from_rdata(owner.clone(), 60, data));
    let answer = Answer::of(records.collect());
    handler.answers.borrow_mut().insert(name.to_owned(), answer);
}

#[tokio::test(start_paused = true)]
async fn records_of_every_type_are_passed_on_and_unknown_names_do_not_exist() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let target = Name::from_ascii("b.test.").unwrap();
        for (name, data) in [
            (
                "txt.test",
                RData::TXT(TXT::new(vec!["v=spf1 -all".to_owned()])),
            ),
            ("mx.test", RData::MX(MX::new(10, target.clone()))),
            (
                "_sip._tcp.srv.test",
                RData::SRV(SRV::new(1, 2, 5_060, target.clone())),
            ),
            ("8.8.8.8.in-addr.arpa", RData::PTR(PTR(target))),
        ] {
            answers(&handler, name, [data.clone()]);
            let kind = data.record_type();
            let answer = ask(&guest, gateway()[1], &format!("{name}."), kind).await;
            assert_eq!(answer.answers[0].data, data);
        }
        let answer = ask(&guest, gateway()[0], "gone.test.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        let asked = handler.asked.borrow().len();
        let any = ask(&guest, gateway()[0], "a.test.", RecordType::ANY).await;
        assert_eq!(any.answers[0].record_type(), RecordType::HINFO);
        let own = ask(&guest, gateway()[0], "localhost.", RecordType::A).await;
        assert_eq!(addresses(&own), [IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(handler.asked.borrow().len(), asked, "answered here");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn denied_names_do_not_exist_and_are_not_asked() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let names = ["secret.test", "override.test"];
        let treatments = names.map(|name| (name.to_owned(), NameTreatment::Denied));
        handler.treatments.replace(treatments.into());
        for (name, kind) in [
            ("Secret.test.", RecordType::A),
            ("_https._tcp.secret.test.", RecordType::SRV),
            ("secret.test.", RecordType::TXT),
            ("override.test.", RecordType::A),
        ] {
            let answer = ask(&guest, gateway()[0], name, kind).await;
            assert_eq!(
                answer.metadata.response_code,
                ResponseCode::NXDomain,
                "{name}"
            );
            assert!(answer.answers.is_empty());
        }
        assert!(handler.asked.borrow().is_empty());
        let judged = handler.judged.borrow();
        let expected = ["secret.test", "secret.test", "secret.test", "override.test"];
        assert_eq!(*judged, expected);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn addresses_that_are_not_allowed_have_no_names() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let mapped = format!("{}{}", "1.0.0.0.0.0.f.7.f.f.f.f.", "0.".repeat(20));
        for name in [
            "1.0.0.127.in-addr.arpa.".to_owned(),
            "b._dns-sd._udp.0.0.127.in-addr.arpa.".to_owned(),
            format!("1.{}ip6.arpa.", "0.".repeat(31)),
            format!("{mapped}ip6.arpa."),
            "1.0.18.198.in-addr.arpa.".to_owned(),
        ] {
            let answer = ask(&guest, gateway()[0], &name, RecordType::PTR).await;
            assert_eq!(
                answer.metadata.response_code,
                ResponseCode::NXDomain,
                "{name}"
            );
        }
        assert!(handler.asked.borrow().is_empty());
        let denied = handler.denied.borrow();
        assert_eq!(denied.len(), 5);
        assert!(
            denied
                .iter()
                .all(|denied| denied.reason == DenyReason::Rebinding)
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn hints_of_services_are_judged_remembered_and_kept_from_intercepted_names() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let ech = SvcParamValue::EchConfigList(EchConfigList(vec![7; 9]));
        let hints = IpHint(vec![A([127, 0, 0, 1].into()), A([192, 0, 2, 9].into())]);
        let params = vec![
            (SvcParamKey::Port, SvcParamValue::Port(8_443)),
            (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(hints)),
            (SvcParamKey::EchConfigList, ech),
        ];
        let service = |params| RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), params)));
        for name in ["plain.test", "_8443._https.api.test"] {
            answers(&handler, name, [service(params.clone())]);
        }
        let treatment = NameTreatment::Intercepted;
        handler
            .treatments
            .borrow_mut()
            .insert("api.test".to_owned(), treatment);
        let plain = ask(&guest, gateway()[0], "plain.test.", RecordType::HTTPS).await;
        let mut told = params.clone();
        let allowed = IpHint(vec![A([192, 0, 2, 9].into())]);
        told[1].1 = SvcParamValue::Ipv4Hint(allowed);
        assert_eq!(plain.answers[0].data, service(told));
        let name = "_8443._https.api.test.";
        let intercepted = ask(&guest, gateway()[0], name, RecordType::HTTPS).await;
        assert_eq!(intercepted.answers[0].data, service(params[..1].to_vec()));
        let hinted: IpAddr = [192, 0, 2, 9].into();
        guest.connect(hinted, ECHO).await.unwrap();
        assert_eq!(handler.requests.borrow()[0].names, ["plain.test"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn answers_keep_to_the_size_the_guest_gives() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let many: Vec<IpAddr> = (0..32).map(|n| [192, 0, 2, n].into()).collect();
        handler
            .names
            .borrow_mut()
            .insert("many.test".to_owned(), many);
        for (payload, truncated) in [(512, true), (1_232, false)] {
            let mut message = Message::from_vec(&question("many.test.", RecordType::A)).unwrap();
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
            let answer = ask_bytes(&guest, gateway()[0], &message.to_vec().unwrap()).await;
            assert_eq!(answer.metadata.truncation, truncated);
            assert!(answer.edns.is_some());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_questions_is_refused_not_answered() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        handler
            .names
            .borrow_mut()
            .insert("a.test".to_owned(), vec![[192, 0, 2, 1].into()]);
        let bytes = question("a.test.", RecordType::A);
        let mut refused = 0;
        for _ in 0..2_500 {
            let answer = ask_bytes(&guest, gateway()[0], &bytes).await;
            refused += usize::from(answer.metadata.response_code == ResponseCode::Refused);
        }
        assert!(
            refused > 0 && handler.asked.borrow().len() <= 2_500 - refused,
            "{refused}"
        );
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        let answer = ask_bytes(&guest, gateway()[0], &bytes).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    })
    .await;
}
