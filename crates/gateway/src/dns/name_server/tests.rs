use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

use super::super::test_server::{Act, TestServer, Via, a, answer, name, record, response};
use super::*;

fn question() -> Question {
    Question::new(&name("a.test."), RecordType::A)
}

fn settings(options: &str) -> ResolvConf {
    let mut settings = ResolvConf::parse(&format!("options {options}\n"), |_| None);
    settings.timeout = Duration::from_millis(300);
    settings
}

fn good(query: &Message) -> Message {
    answer(query, [record("a.test.", 30, a(5))])
}

fn forged(query: &Message, change: impl Fn(&mut Message)) -> Message {
    let mut message = answer(query, [record("a.test.", 30, a(66))]);
    change(&mut message);
    message
}

fn addresses(outcome: &Outcome) -> Vec<String> {
    match outcome {
        Outcome::Answered(answer) => answer
            .records
            .iter()
            .map(|record| record.data.to_string())
            .collect(),
        other => panic!("an answer, not {other:?}"),
    }
}

#[tokio::test]
async fn ids_and_ports_are_new_for_each_question() {
    let server = TestServer::start(|query, _| vec![Act::Say(good(query))]).await;
    for _ in 0..8 {
        let outcome = ask(server.address, &question(), &settings("")).await;
        assert_eq!(addresses(&outcome), ["192.0.2.5"]);
    }
    let asked = server.asked();
    let mut ids: Vec<u16> = asked.iter().map(|(query, _)| query.metadata.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() >= 7, "{ids:?}");
    let mut ports = server.peers();
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() >= 4, "{ports:?}");
}

#[tokio::test]
async fn replies_with_another_id_question_or_source_are_passed_over() {
    let server = TestServer::start(|query, _| {
        vec![
            Act::Say(forged(query, |message| message.metadata.id ^= 0x5555)),
            Act::Say(forged(query, |message| {
                message.queries[0].set_name(name("b.test."));
            })),
            Act::Say(forged(query, |message| {
                message.queries[0].set_query_type(RecordType::AAAA);
            })),
            Act::SayFromElsewhere(forged(query, |_| {})),
            Act::SayBytes(b"junk".to_vec()),
            Act::Say(good(query)),
        ]
    })
    .await;
    let outcome = ask(server.address, &question(), &settings("")).await;
    assert_eq!(addresses(&outcome), ["192.0.2.5"]);
}

#[tokio::test]
async fn a_reply_from_elsewhere_alone_is_no_reply() {
    let server =
        TestServer::start(|query, _| vec![Act::SayFromElsewhere(forged(query, |_| {}))]).await;
    let outcome = ask(server.address, &question(), &settings("")).await;
    assert!(matches!(outcome, Outcome::Silent), "{outcome:?}");
}

#[tokio::test]
async fn a_server_that_is_guessed_for_is_given_up() {
    let server = TestServer::start(|query, _| {
        let wrong = Act::Say(forged(query, |message| message.metadata.id ^= 1));
        let mut acts = vec![wrong; MAX_STRAYS];
        acts.push(Act::Say(good(query)));
        acts
    })
    .await;
    let outcome = ask(server.address, &question(), &settings("")).await;
    assert!(matches!(outcome, Outcome::Failed), "{outcome:?}");
}

#[tokio::test]
async fn asks_again_over_tcp_when_the_answer_was_cut() {
    let server = TestServer::start(|query, via| {
        let mut message = good(query);
        if via == Via::Datagram {
            message.metadata.truncation = true;
        } else {
            let more = (0..200).map(|n| record("a.test.", 30, a(n)));
            message.answers = more.collect();
        }
        vec![Act::Say(message)]
    })
    .await;
    let outcome = ask(server.address, &question(), &settings("")).await;
    assert_eq!(addresses(&outcome).len(), 200);
    let ways: Vec<Via> = server.asked().iter().map(|(_, via)| *via).collect();
    assert_eq!(ways, [Via::Datagram, Via::Stream]);
}

#[tokio::test]
async fn use_vc_asks_over_tcp_only() {
    let server = TestServer::start(|query, _| vec![Act::Say(good(query))]).await;
    let outcome = ask(server.address, &question(), &settings("use-vc")).await;
    assert_eq!(addresses(&outcome), ["192.0.2.5"]);
    assert_eq!(server.asked()[0].1, Via::Stream);
}

#[tokio::test]
async fn asks_again_without_edns_a_server_that_refuses_it() {
    let server = TestServer::start(|query, _| {
        let mut message = good(query);
        if query.edns.is_some() {
            message = response(query);
            message.metadata.response_code = ResponseCode::FormErr;
            message.edns = None;
            message.queries.clear();
        }
        vec![Act::Say(message)]
    })
    .await;
    let outcome = ask(server.address, &question(), &settings("")).await;
    assert_eq!(addresses(&outcome), ["192.0.2.5"]);
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn silence_and_absence_are_told_apart_and_bounded_in_time() {
    let server = TestServer::start(|_, _| Vec::new()).await;
    let started = std::time::Instant::now();
    let silent = ask(server.address, &question(), &settings("")).await;
    assert!(matches!(silent, Outcome::Silent), "{silent:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    let address = server.address;
    drop(server);
    let mut gone = ask(address, &question(), &settings("")).await;
    while matches!(gone, Outcome::Silent) && started.elapsed() < Duration::from_secs(20) {
        // The dropped server's task holds the socket until it has run once more.
        gone = ask(address, &question(), &settings("")).await;
    }
    assert!(matches!(gone, Outcome::Gone), "{gone:?}");
}

#[tokio::test]
async fn an_answer_that_is_cut_over_tcp_too_is_a_failure() {
    let server = TestServer::start(|query, _| {
        let mut message = good(query);
        message.metadata.truncation = true;
        vec![Act::Say(message)]
    })
    .await;
    let outcome = ask(server.address, &question(), &settings("")).await;
    assert!(matches!(outcome, Outcome::Failed), "{outcome:?}");
}
