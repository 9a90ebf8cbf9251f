//! Connections and requests that are held until the person says whether a host may be reached, and denied when nobody does.

use std::time::Duration;

use agent_vm_egress::{ConnectRequest, FlowEnd, MAX_PENDING, OpenError, OpenFlow, PendingQuestion};
use agent_vm_policy::{
    Action, Answer, DenyReason, HostName, HostPattern, HostRule, Policy, Preset, RuleName, Scope,
};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;

use crate::rig::{API, FREE, OTHER, Rig, connect, get, http1, outcome, with_rig};
use crate::upstream::Behaviour;

/// How long questions wait in tests where nobody answers.
const SHORT: Duration = Duration::from_millis(300);

fn asking() -> Policy {
    Policy::new(Scope {
        preset: Preset::Ask,
        ..Scope::default()
    })
}

fn pattern(text: &str) -> HostPattern {
    HostPattern::parse(text).unwrap()
}

type Opening = JoinHandle<Result<OpenFlow, OpenError>>;

/// A connection that the guest opens while the test goes on.
fn opening(rig: &Rig, names: &[&str]) -> Opening {
    let names = names.iter().map(|name| HostName::parse(name).unwrap());
    let request = ConnectRequest {
        names: names.collect(),
        address: "198.18.0.9".parse().unwrap(),
        port: 443,
    };
    let egress = rig.egress().clone();
    spawn_local(async move { egress.open(request).await })
}

/// The questions, once there are as many.
async fn pending(rig: &Rig, count: usize) -> Vec<PendingQuestion> {
    loop {
        let pending = rig.egress().pending();
        if pending.len() >= count {
            return pending;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn denied(opening: Opening) -> Option<DenyReason> {
    match opening.await.unwrap() {
        Err(OpenError::Denied { reason }) => Some(reason),
        Err(OpenError::Dial(_)) | Ok(_) => None,
    }
}

/// TLS with the free host itself over an opened flow, and one request.
async fn fetch(rig: &Rig, flow: OpenFlow, name: &str) -> u16 {
    let (guest, near) = tokio::io::duplex(64 * 1024);
    spawn_local(async move { flow.serve(near).await });
    let pem = &rig.upstream.ca_pem;
    let stream = connect(guest, pem, name, &["http/1.1"]).await.unwrap();
    let mut client = http1(stream).await;
    let request = get("/", &[("host", name)]);
    outcome(client.send_request(request).await.unwrap()).await.0
}

#[test]
fn a_held_connection_goes_on_when_it_is_allowed_and_later_ones_are_not_held() {
    with_rig(Behaviour::default(), async |rig| {
        let rig = rig.with_policy(asking());
        let mut questions = rig.egress().questions();
        assert_eq!(rig.egress().ask(FREE), Ok(()), "the name is answered");
        let held = [opening(&rig, &[FREE]), opening(&rig, &[FREE])];
        let asked = pending(&rig, 1).await;
        assert_eq!(asked.len(), 1, "two connections are one question");
        assert_eq!(asked[0].question.host.as_str(), FREE);
        assert!(asked[0].left > Duration::from_secs(50));
        assert_eq!(questions.recv().await.unwrap(), asked[0].question);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(held.iter().all(|held| !held.is_finished()));
        assert!(rig.upstream.seen.borrow().is_empty());
        assert_eq!(rig.egress().answer(&pattern(FREE), Answer::Allow), Ok(1));
        for held in held {
            let flow = held.await.unwrap().unwrap();
            assert_eq!(fetch(&rig, flow, FREE).await, 200);
        }
        let flow = opening(&rig, &[FREE]).await.unwrap().unwrap();
        assert_eq!(fetch(&rig, flow, FREE).await, 200);
        assert!(rig.egress().pending().is_empty());
        let asks: Vec<_> = rig
            .audit()
            .into_iter()
            .filter(|line| line["kind"] == "ask")
            .collect();
        assert_eq!(
            (&asks[0]["verdict"], &asks[0]["host"]),
            (&"ask".into(), &FREE.into())
        );
        let rule = format!("asked {FREE}");
        assert_eq!(
            (&asks[1]["verdict"], &asks[1]["rule"]),
            (&"allow".into(), &rule.as_str().into())
        );
        let passed = rig
            .audit()
            .into_iter()
            .find(|line| line["verdict"] == "tunnel");
        assert_eq!(passed.unwrap()["rule"], rule.as_str());
    });
}

#[test]
fn a_held_connection_is_denied_when_the_person_says_no_and_the_name_is_gone() {
    with_rig(Behaviour::default(), async |rig| {
        let rig = rig.with_policy(asking());
        let held = opening(&rig, &[FREE]);
        pending(&rig, 1).await;
        assert_eq!(rig.egress().answer(&pattern(FREE), Answer::Deny), Ok(1));
        assert_eq!(denied(held).await, Some(DenyReason::AnsweredNo));
        assert_eq!(rig.last_audit()["rule"], "asked free.test");
        assert_eq!(rig.egress().ask(FREE), Err(DenyReason::AnsweredNo));
        assert_eq!(rig.egress().answer(&pattern(FREE), Answer::Allow), Ok(0));
        assert!(
            opening(&rig, &[FREE]).await.unwrap().is_ok(),
            "the later answer counts"
        );
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn what_nobody_answers_is_refused_in_time_and_from_then_on_at_once() {
    with_rig(Behaviour::default(), async |rig| {
        let rig = rig.with_policy(asking());
        rig.egress().set_patience(SHORT);
        let begun = Instant::now();
        let held = [opening(&rig, &[FREE]), opening(&rig, &[FREE])];
        for held in held {
            assert_eq!(denied(held).await, Some(DenyReason::Unanswered));
        }
        assert!((SHORT..SHORT * 10).contains(&begun.elapsed()));
        let begun = Instant::now();
        assert_eq!(
            denied(opening(&rig, &[FREE])).await,
            Some(DenyReason::Unanswered)
        );
        assert!(begun.elapsed() < SHORT, "it is not asked again");
        assert_eq!(rig.egress().lapsed()[0].host.as_str(), FREE);
        assert_eq!(rig.last_audit()["reason"], "unanswered");
        rig.egress().answer(&pattern(FREE), Answer::Allow).unwrap();
        assert!(rig.egress().lapsed().is_empty());
        assert!(opening(&rig, &[FREE]).await.unwrap().is_ok());
    });
}

#[test]
fn a_question_outlives_a_client_that_gave_up_and_lapses_without_it() {
    with_rig(Behaviour::default(), async |rig| {
        let rig = rig.with_policy(asking());
        rig.egress().set_patience(SHORT);
        let held = opening(&rig, &[FREE]);
        pending(&rig, 1).await;
        held.abort();
        assert!(held.await.is_err());
        assert_eq!(rig.egress().pending().len(), 1);
        tokio::time::sleep(SHORT).await;
        assert_eq!(
            (rig.egress().pending().len(), rig.egress().lapsed().len()),
            (0, 1)
        );
    });
}

#[test]
fn each_name_of_a_shared_address_is_asked_about_when_it_is_meant() {
    with_rig(Behaviour::default(), async |rig| {
        // Both names stand for the one address of the free host's override.
        let rig = rig.with_policy(asking());
        rig.egress().answer(&pattern(FREE), Answer::Allow).unwrap();
        let flow = opening(&rig, &[FREE]).await.unwrap().unwrap();
        assert_eq!(fetch(&rig, flow, FREE).await, 200);
        let flow = opening(&rig, &[FREE]).await.unwrap().unwrap();
        let (guest, near) = tokio::io::duplex(64 * 1024);
        let flow = spawn_local(async move { flow.serve(near).await });
        let refused = connect(guest, &rig.upstream.ca_pem, "evil.test", &[]).await;
        assert!(refused.is_err());
        assert_eq!(flow.await.unwrap(), FlowEnd::Reset);
        assert_eq!(rig.last_audit()["reason"], "sni-mismatch");
    });
}

#[test]
fn questions_are_bounded_and_what_finds_no_room_is_denied() {
    with_rig(Behaviour::default(), async |rig| {
        let rig = rig.with_policy(asking());
        let names: Vec<String> = (0..=MAX_PENDING).map(|n| format!("h{n}.test")).collect();
        let request = |name: &str| ConnectRequest {
            names: vec![HostName::parse(name).unwrap()],
            address: "8.8.8.8".parse().unwrap(),
            port: 443,
        };
        for (count, name) in (1..=MAX_PENDING).zip(&names) {
            let (egress, request) = (rig.egress().clone(), request(name));
            spawn_local(async move { egress.open(request).await.is_ok() });
            assert_eq!(pending(&rig, count).await.len(), count);
        }
        let refused = rig.egress().open(request(&names[MAX_PENDING])).await;
        let reason = DenyReason::Unanswered;
        assert!(matches!(refused, Err(OpenError::Denied { reason: found }) if found == reason));
        rig.egress()
            .answer(&pattern("*.none.test"), Answer::Allow)
            .unwrap();
        assert_eq!(rig.egress().pending().len(), MAX_PENDING, "others wait on");
    });
}

#[test]
fn datagrams_and_addresses_without_a_name_are_not_asked_about() {
    with_rig(Behaviour::default(), async |rig| {
        let rig = rig.with_policy(asking());
        let request = |names: &[&str], address: &str| ConnectRequest {
            names: names
                .iter()
                .map(|name| HostName::parse(name).unwrap())
                .collect(),
            address: address.parse().unwrap(),
            port: 443,
        };
        let kind = agent_vm_egress::DatagramKind::Udp;
        let refused = rig
            .egress()
            .open_datagrams(kind, request(&["new.test"], "8.8.8.8"))
            .await;
        assert!(matches!(
            refused,
            Err(OpenError::Denied {
                reason: DenyReason::Unanswered
            })
        ));
        for (names, address) in [
            (&[][..], "8.8.8.8"),
            (&["new.test"], "10.0.0.1"),
            (&["new.test"], "169.254.169.254"),
        ] {
            let refused = rig.egress().open(request(names, address)).await;
            assert!(
                matches!(refused, Err(OpenError::Denied { .. })),
                "{address}"
            );
        }
        assert!(rig.egress().pending().is_empty() && rig.egress().lapsed().is_empty());
    });
}

#[test]
fn a_running_session_with_a_list_is_widened_without_a_question() {
    with_rig(Behaviour::default(), async |rig| {
        let scope = Scope {
            preset: Preset::Allowlist,
            ..Scope::default()
        };
        let rig = rig.with_policy(Policy::new(scope));
        assert_eq!(
            denied(opening(&rig, &[FREE])).await,
            Some(DenyReason::NotListed)
        );
        rig.egress().answer(&pattern(FREE), Answer::Allow).unwrap();
        let flow = opening(&rig, &[FREE]).await.unwrap().unwrap();
        assert_eq!(fetch(&rig, flow, FREE).await, 200);
        let offline = Scope {
            preset: Preset::Offline,
            ..Scope::default()
        };
        let rig = rig.with_policy(Policy::new(offline));
        let refused = rig
            .egress()
            .answer(&pattern(FREE), Answer::Allow)
            .unwrap_err();
        assert_eq!(refused.reason, DenyReason::Offline);
    });
}

fn rule(host: &str, method: &str, path: &str, action: Action) -> HostRule {
    HostRule {
        name: RuleName {
            file: "config.toml",
            number: 1,
            reason: Some("careful".to_owned()),
        },
        host: pattern(host),
        port: None,
        methods: vec![method.parse().unwrap()],
        path: Some(path.parse().unwrap()),
        action,
    }
}

#[test]
fn requests_are_judged_by_rules_in_the_spelling_that_is_sent() {
    with_rig(Behaviour::default(), async |rig| {
        let rules = vec![rule(FREE, "GET", "/open/**", Action::Allow)];
        let rig = rig.with_policy(Policy::public().with_rules(rules));
        let mut client = rig.http1(FREE).await;
        for (target, status, reason) in [
            ("/open/%61?q=%61/../b", 200, None),
            ("/closed", 403, Some("rule")),
            ("/open/../closed", 403, Some("path-unclear")),
            ("/open/%2e%2e/closed", 403, Some("path-unclear")),
            ("/open/%252e", 403, Some("path-unclear")),
            ("/open%2fx", 403, Some("path-unclear")),
            ("//open/x", 403, Some("path-unclear")),
        ] {
            let request = get(target, &[("host", FREE)]);
            let answer = outcome(client.send_request(request).await.unwrap()).await;
            assert_eq!(
                (answer.0, answer.1.as_deref()),
                (status, reason),
                "{target}"
            );
        }
        let seen = rig.upstream.only_request();
        assert_eq!(seen.target, "/open/a?q=%61/../b");
        let allowed = rig
            .audit()
            .into_iter()
            .find(|line| line["verdict"] == "allow");
        assert_eq!(allowed.unwrap()["rule"], "rule 1 of config.toml: careful");
    });
}

#[test]
fn nothing_but_http_is_spoken_to_a_host_whose_requests_are_judged() {
    let plain = Behaviour {
        tls: false,
        ..Behaviour::default()
    };
    with_rig(plain, async |rig| {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let rules = vec![rule(FREE, "GET", "/open", Action::Allow)];
        let rig = rig.with_policy(Policy::public().with_rules(rules));
        for (first, told) in [
            (&b"SSH-2.0-x\r\n"[..], "not-http"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "request-invalid"),
            (b"GET /closed HTTP/1.1\r\nhost: free.test\r\n\r\n", "rule"),
            (
                b"POST /open HTTP/1.1\r\nhost: free.test\r\ncontent-length: 0\r\n\r\n",
                "rule",
            ),
            (
                b"GET /open HTTP/1.1\r\nhost: other.test\r\n\r\n",
                "authority-mismatch",
            ),
        ] {
            let (mut guest, flow) = rig.open(FREE, 80).await;
            guest.write_all(first).await.unwrap();
            // An answer, or the reset.
            let _told = guest.read(&mut [0; 4096]).await;
            drop(guest);
            flow.await.unwrap();
            assert_eq!(
                rig.last_audit()["reason"],
                told,
                "{:?}",
                String::from_utf8_lossy(first)
            );
        }
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn a_request_is_held_where_a_rule_asks_about_it_and_its_credential_waits_too() {
    with_rig(Behaviour::default(), async |rig| {
        let rules = vec![
            rule(API, "GET", "/ask", Action::Ask),
            rule(API, "GET", "/**", Action::Allow),
        ];
        let rig = rig.with_policy(Policy::public().with_rules(rules));
        rig.egress().set_patience(SHORT);
        let bearer = format!("Bearer {}", rig.oauth);
        let mut client = rig.http1(API).await;
        let request = get("/ask", &[("authorization", &bearer)]);
        let answer = outcome(client.send_request(request).await.unwrap()).await;
        assert_eq!((answer.0, answer.1.as_deref()), (403, Some("unanswered")));
        let request = get("/other", &[("authorization", &bearer)]);
        assert_eq!(
            outcome(client.send_request(request).await.unwrap()).await.0,
            200
        );
        rig.egress().answer(&pattern(API), Answer::Allow).unwrap();
        let request = get("/ask", &[("authorization", &bearer)]);
        assert_eq!(
            outcome(client.send_request(request).await.unwrap()).await.0,
            200
        );
        rig.egress().answer(&pattern(API), Answer::Deny).unwrap();
        let request = get("/other", &[("authorization", &bearer)]);
        let answer = outcome(client.send_request(request).await.unwrap()).await;
        assert_eq!((answer.0, answer.1.as_deref()), (403, Some("answered-no")));
        let targets: Vec<_> = rig
            .upstream
            .seen
            .borrow()
            .iter()
            .map(|seen| seen.target.clone())
            .collect();
        assert_eq!(targets, ["/other", "/ask"]);
        assert!(
            rig.egress()
                .policy()
                .intercepts(&HostName::parse(OTHER).unwrap())
        );
    });
}
