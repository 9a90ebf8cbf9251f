//! DNS as the guest sees it.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use super::guest::{Guest, GuestOptions};
use super::handlers::ECHO;
use super::refusals::udp;
use super::with_guest;
use crate::DenyReason;
use crate::config::LinkAddresses;

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn ask(guest: &Guest, server: IpAddr, name: &str, kind: RecordType) -> Message {
    guest.send_raw(&udp(server.into(), 53, &question(name, kind)));
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
async fn addresses_that_are_not_allowed_are_left_out_and_reported() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let good: IpAddr = "2001:db8::1".parse().unwrap();
        let bad = ["::ffff:127.0.0.1", "::1", "::ffff:198.18.0.1"];
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

#[tokio::test(start_paused = true)]
async fn other_types_have_no_data_and_unknown_names_do_not_exist() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        for kind in [
            RecordType::HTTPS,
            RecordType::SVCB,
            RecordType::TXT,
            RecordType::ANY,
        ] {
            let answer = ask(&guest, gateway()[0], "a.test.", kind).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert!(answer.answers.is_empty());
        }
        assert!(handler.asked.borrow().is_empty());
        let answer = ask(&guest, gateway()[0], "gone.test.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    })
    .await;
}
