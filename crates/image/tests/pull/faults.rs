//! Faults of the wire, one by one: what a pull survives, and what it says where it cannot.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_vm_image::PullOptions;

use crate::case::{OCI_GZIP, OCI_MANIFEST, OCI_TAR, Seen, TestStore, told};
use crate::memory::incompressible;
use crate::misbehaving::{Served, app, tunnel};
use crate::server::{Answer, Server};

/// Counts requests.
#[derive(Default)]
struct Turn(AtomicUsize);

impl Turn {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[test]
fn a_stalled_connection_is_left_and_resumed() {
    let served = Served::new(OCI_GZIP, &incompressible(2 << 20, 1));
    let turn = Turn::default();
    let server = Server::start(move |request, _| {
        let answer = served.answer(request);
        if served.is_layer(request) && turn.next() == 0 {
            return Answer {
                cut: Some(1_200_000),
                linger: Duration::from_secs(60),
                ..answer
            };
        }
        answer
    });
    let (store, seen) = (TestStore::new(), Seen::default());
    let options = PullOptions {
        stall_timeout: Duration::from_secs(1),
        ..PullOptions::default()
    };
    store.pull_with(&app(&server), &options, &seen).unwrap();
    assert!(seen.events().contains(&"retried 0".to_owned()));
    let resumed = server
        .requests()
        .iter()
        .any(|request| request.header("range") == Some("bytes=1200000-"));
    assert!(resumed, "{:?}", server.requests());
}

#[test]
fn five_failures_in_a_row_are_survived_and_a_sixth_is_told() {
    for (failures, survived) in [(5, true), (6, false)] {
        let served = Served::new(OCI_TAR, b"x");
        let turn = Turn::default();
        let server = Server::start(move |request, _| {
            if served.is_layer(request) && turn.next() < failures {
                return Answer::status("503 Service Unavailable").header("Retry-After", "0");
            }
            served.answer(request)
        });
        let result = TestStore::new().pull(&app(&server));
        match result {
            Ok(_) => assert!(survived),
            Err(error) => {
                let error = told(&error);
                assert!(!survived && error.contains("answers 503"), "{error}");
            }
        }
    }
}

#[test]
fn an_expired_storage_address_is_asked_for_anew() {
    // Each address the registry redirects to is good for one request.
    let served = Arc::new(Served::new(OCI_GZIP, &incompressible(3 << 20, 2)));
    let issued = Arc::new(AtomicUsize::new(0));
    let (inner, valid) = (Arc::clone(&served), Arc::clone(&issued));
    let turn = Turn::default();
    let storage = Server::start(move |request, _| {
        let Some((path, ticket)) = request.path.split_once("?ticket=") else {
            return Answer::status("400 Bad Request");
        };
        if ticket != valid.load(Ordering::SeqCst).to_string() {
            return Answer::status("403 Forbidden");
        }
        let mut plain = request.clone();
        plain.path = path.to_owned();
        let broken = inner.is_layer(&plain) && turn.next() < 2;
        if broken {
            valid.fetch_add(1, Ordering::SeqCst);
        }
        Answer {
            cut: broken.then_some(1_000_000),
            ..inner.answer(&plain)
        }
    });
    let target = storage.address;
    let server = Server::start(move |request, _| {
        if !served.is_layer(request) {
            return served.answer(request);
        }
        let ticket = issued.load(Ordering::SeqCst);
        let location = format!("http://{target}{}?ticket={ticket}", request.path);
        Answer::status("307 Temporary Redirect").header("Location", location)
    });
    TestStore::new().pull(&app(&server)).unwrap();
    let asked = server.requests();
    let ranges: Vec<_> = asked.iter().filter_map(|it| it.header("range")).collect();
    assert_eq!(
        ranges,
        ["bytes=1000000-", "bytes=2000000-"],
        "of the registry, not of the storage"
    );
}

#[test]
fn a_registry_without_the_asked_range_is_resumed_by_skipping() {
    let served = Served::new(OCI_TAR, &incompressible(2 << 20, 1));
    let turn = Turn::default();
    let server = Server::start(move |request, _| {
        let layer = served.is_layer(request);
        if layer && request.header("range").is_some() {
            return Answer::status("416 Range Not Satisfiable");
        }
        Answer {
            cut: (layer && turn.next() == 0).then_some(1_500_000),
            ..served.answer(request)
        }
    });
    TestStore::new().pull(&app(&server)).unwrap();
}

#[test]
fn a_token_that_ends_in_the_middle_is_renewed() {
    let served = Served::new(OCI_TAR, &incompressible(2 << 20, 1));
    let (tokens, turn) = (Turn::default(), Turn::default());
    let server = Server::start(move |request, own| {
        if request.path.starts_with("/token?") {
            return Answer::ok(format!(r#"{{"token":"t{}"}}"#, tokens.next()));
        }
        let wanted = if turn.0.load(Ordering::Relaxed) == 0 {
            "t0"
        } else {
            "t1"
        };
        if request.header("authorization") != Some(&format!("Bearer {wanted}")) {
            return Answer::status("401 Unauthorized").header(
                "WWW-Authenticate",
                format!("Bearer realm=\"http://{own}/token\""),
            );
        }
        let first = served.is_layer(request) && turn.next() == 0;
        Answer {
            cut: first.then_some(1_000_000),
            ..served.answer(request)
        }
    });
    TestStore::new().pull(&app(&server)).unwrap();
}

#[test]
fn a_step_down_from_tls_is_refused_with_the_address() {
    let served = Served::new(OCI_TAR, b"x");
    let (server, authority) = Server::start_tls("registry.localhost", move |request, _| {
        if served.is_layer(request) {
            return Answer::status("307 Temporary Redirect")
                .header("Location", "http://storage.invalid/blob");
        }
        served.answer(request)
    });
    let mut options = PullOptions {
        extra_ca_pem: vec![authority],
        ..PullOptions::default()
    };
    options.proxies.https = Some(format!("http://{}", tunnel(&server)));
    let name = format!("registry.localhost:{}/app:1", server.address.port());
    let error = TestStore::new()
        .pull_with(&name, &options, &())
        .unwrap_err();
    let error = told(&error);
    assert!(
        error.contains("redirects a request") && error.contains("`http://storage.invalid/blob`"),
        "{error}"
    );
}

#[test]
fn a_login_page_is_told_as_one() {
    let server = Server::start(|_, _| {
        Answer::ok("<html>Please log in</html>").header("Content-Type", "text/html; charset=utf-8")
    });
    let error = told(&TestStore::new().pull(&app(&server)).unwrap_err());
    assert!(error.contains("a web page instead of"), "{error}");
}

#[test]
fn an_encoding_on_the_way_is_no_way_around_the_digest() {
    let served = Served::new(OCI_TAR, b"x");
    let server = Server::start(move |request, _| {
        let answer = served.answer(request);
        if !served.is_layer(request) {
            return answer;
        }
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        let mut encoded = answer.body.clone();
        encoded.reverse();
        Answer {
            body: encoded,
            ..answer
        }
        .header("Content-Encoding", "gzip")
    });
    let error = told(&TestStore::new().pull(&app(&server)).unwrap_err());
    assert!(error.contains("its bytes have the digest"), "{error}");
}

#[test]
fn a_lying_length_is_no_layer() {
    for (more, said) in [(true, "sends more than"), (false, "the manifest says")] {
        let served = Served::new(OCI_TAR, &incompressible(1 << 20, 1));
        let server = Server::start(move |request, _| {
            let mut answer = served.answer(request);
            if served.is_layer(request) {
                match more {
                    true => answer.body.extend([0; 100_000]),
                    false => answer.body.truncate(1_000_000),
                }
            }
            answer
        });
        let store = TestStore::new();
        let error = told(&store.pull(&app(&server)).unwrap_err());
        assert!(error.contains(said), "{error}");
        assert_eq!(
            (store.files("layers"), store.files("tmp")),
            (vec![], vec![])
        );
    }
}

#[test]
fn an_answer_without_a_length_that_is_cut_is_resumed() {
    let served = Served::new(OCI_TAR, &incompressible(1 << 20, 1));
    let turn = Turn::default();
    let server = Server::start(move |request, _| {
        let answer = served.answer(request);
        if served.is_layer(request) && turn.next() == 0 {
            // No length is announced, so the end of the connection looks like the end of the answer.
            return Answer {
                body: answer.body[..700_000].to_vec(),
                endless: Some(1),
                ..answer
            };
        }
        answer
    });
    TestStore::new().pull(&app(&server)).unwrap();
}

#[test]
fn a_manifest_under_a_wrong_type_is_refused() {
    let served = Served::new(OCI_TAR, b"x");
    let server = Server::start(move |request, _| {
        let mut answer = served.answer(request);
        for (name, value) in &mut answer.headers {
            if *name == "Content-Type" && value == OCI_MANIFEST {
                *value = "application/vnd.oci.image.index.v1+json".to_owned();
            }
        }
        answer
    });
    let error = told(&TestStore::new().pull(&app(&server)).unwrap_err());
    assert!(error.contains("its manifest is refused"), "{error}");
}
