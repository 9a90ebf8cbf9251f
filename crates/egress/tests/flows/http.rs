//! Allowed requests: the credential arrives where it belongs and nowhere else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Version;

use crate::rig::{API, KEY_SECRET, OAUTH_SECRET, get, outcome, with_rig};
use crate::upstream::Behaviour;

#[test]
fn the_upstream_gets_the_token_in_the_credentials_header_over_http1() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let bearer = format!("Bearer {}", rig.oauth);
        let request = get(
            "/v1/messages?beta=true",
            &[("authorization", &bearer), ("x-a", "b")],
        );
        let answer = outcome(client.send_request(request).await.unwrap()).await;
        assert_eq!(answer, (200, None, "hello".into()));
        let seen = rig.upstream.only_request();
        assert_eq!(
            seen.header("authorization"),
            Some(format!("Bearer {OAUTH_SECRET}").as_str())
        );
        assert_eq!(
            (seen.version, seen.target.as_str()),
            (Version::HTTP_11, "/v1/messages?beta=true")
        );
        assert_eq!(
            (seen.header("x-a"), seen.header("host")),
            (Some("b"), Some(API))
        );
        let line = rig.last_audit();
        assert_eq!(
            (&line["kind"], &line["verdict"]),
            (&"request".into(), &"allow".into())
        );
        assert_eq!(
            (&line["host"], &line["credential"]),
            (&API.into(), &"oauth".into())
        );
        assert_eq!(
            (&line["path"], &line["status"]),
            (&"/v1/messages".into(), &200.into())
        );
        assert_eq!(
            (&line["method"], &line["bytes_down"]),
            (&"GET".into(), &5.into())
        );
        assert_eq!(
            (&line["address"], &line["port"]),
            (&"127.0.0.1".into(), &443.into())
        );
    });
}

#[test]
fn the_upstream_gets_the_token_over_http2() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http2(API).await;
        for _ in 0..3 {
            let target = format!("https://{API}/v1");
            let request = get(&target, &[("x-api-key", rig.api_key.as_str())]);
            let answer = outcome(client.send_request(request).await.unwrap()).await;
            assert_eq!(answer, (200, None, "hello".into()));
        }
        let seen = rig.upstream.seen.borrow();
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|seen| seen.version == Version::HTTP_2));
        assert!(
            seen.iter()
                .all(|seen| seen.header("x-api-key") == Some(KEY_SECRET))
        );
        assert_eq!(*rig.upstream.connections.borrow(), 1);
    });
}

#[test]
fn the_guest_is_offered_what_the_upstream_speaks() {
    let behaviour = Behaviour {
        alpn: vec!["http/1.1"],
        ..Behaviour::default()
    };
    with_rig(behaviour, async |rig| {
        let stream = rig.tls(API, &["h2", "http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    });
}

#[test]
fn a_client_without_alpn_is_served() {
    with_rig(Behaviour::default(), async |rig| {
        let stream = rig.tls(API, &[]).await;
        let mut client = crate::rig::http1(stream).await;
        let answer = outcome(client.send_request(get("/", &[])).await.unwrap()).await;
        assert_eq!(answer.0, 200);
        assert_eq!(rig.upstream.only_request().version, Version::HTTP_11);
    });
}

#[test]
fn basic_credentials_are_encoded_again() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let basic = format!("Basic {}", STANDARD.encode(format!("git:{}", rig.oauth)));
        let request = get("/repo.git", &[("authorization", &basic)]);
        assert_eq!(
            outcome(client.send_request(request).await.unwrap()).await.0,
            200
        );
        let expected = format!("Basic {}", STANDARD.encode(format!("git:{OAUTH_SECRET}")));
        assert_eq!(
            rig.upstream.only_request().header("authorization"),
            Some(expected.as_str())
        );
    });
}

#[test]
fn each_request_of_a_connection_is_judged_by_itself() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let bearer = format!("Bearer {}", rig.oauth);
        let first = client
            .send_request(get("/1", &[("authorization", &bearer)]))
            .await
            .unwrap();
        assert_eq!(outcome(first).await.0, 200);
        client.ready().await.unwrap();
        let second = client
            .send_request(get("/2", &[("x-wrong", &bearer)]))
            .await
            .unwrap();
        assert_eq!(outcome(second).await.0, 403);
        client.ready().await.unwrap();
        let third = client.send_request(get("/3", &[])).await.unwrap();
        assert_eq!(outcome(third).await.0, 200);
        let seen = rig.upstream.seen.borrow();
        let targets: Vec<_> = seen.iter().map(|seen| seen.target.as_str()).collect();
        assert_eq!(targets, ["/1", "/3"]);
        assert_eq!(seen[1].header("authorization"), None);
        assert_eq!(*rig.upstream.connections.borrow(), 1);
    });
}

#[test]
fn a_request_without_a_placeholder_passes_as_it_is() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let request = get(
            "/",
            &[
                ("authorization", ""),
                ("connection", "x-hop"),
                ("x-hop", "1"),
            ],
        );
        assert_eq!(
            outcome(client.send_request(request).await.unwrap()).await.0,
            200
        );
        let seen = rig.upstream.only_request();
        assert_eq!(seen.header("authorization"), Some(""));
        assert_eq!(seen.header("x-hop"), None);
        assert_eq!(rig.last_audit()["credential"], serde_json::Value::Null);
    });
}

#[test]
fn http3_is_not_advertised_to_the_guest() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let response = client.send_request(get("/hints", &[])).await.unwrap();
        assert_eq!(response.headers().get("alt-svc"), None);
    });
}

#[test]
fn the_guests_connection_ends_when_the_upstreams_does() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let response = client.send_request(get("/close", &[])).await.unwrap();
        assert_eq!(outcome(response).await.2, "bye");
        assert!(
            client.ready().await.is_err(),
            "the connection is still open"
        );
    });
}

#[test]
fn a_secret_that_cannot_be_had_is_503_and_nothing_is_sent() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let request = get("/", &[("x-broken", rig.broken.as_str())]);
        let (status, reason, text) = outcome(client.send_request(request).await.unwrap()).await;
        assert_eq!(
            (status, reason.as_deref()),
            (503, Some("credential-unavailable"))
        );
        assert!(text.contains("credential broken"), "{text}");
        assert!(rig.upstream.seen.borrow().is_empty());
        assert_eq!(rig.last_audit()["verdict"], "failed");
    });
}
