//! The name that was resolved, the TLS server name and the authority of each request are one host, however it is
//! written, and no protocol leads out of that.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::denials::denied;
use crate::rig::{API, OAUTH_SECRET, OTHER, Rig, get, outcome, with_rig};
use crate::upstream::Behaviour;

/// Sends these bytes and answers with all that comes back.
pub(crate) async fn raw(rig: &Rig, request: &[u8]) -> String {
    let mut stream = rig.tls(API, &["http/1.1"]).await;
    let _closed_early = stream.write_all(request).await;
    let _closed_early = stream.flush().await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ended = tokio::time::timeout(std::time::Duration::from_secs(2), read).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request with this field, over HTTP/1.1.
async fn with_field(rig: &Rig, field: &[u8]) -> String {
    let token = format!(
        "authorization: Bearer {}\r\nconnection: close\r\n\r\n",
        rig.oauth
    );
    let request = [b"GET / HTTP/1.1\r\n", field, b"\r\n", token.as_bytes()].concat();
    raw(rig, &request).await
}

#[test]
fn a_host_in_any_spelling_is_sent_as_it_was_judged() {
    with_rig(Behaviour::default(), async |rig| {
        for (written, sent) in [
            ("API.Bound.TEST", API),
            ("api.bound.test.", API),
            ("api.bound.test:443", "api.bound.test:443"),
            ("api.bound.test.:00443", "api.bound.test:443"),
        ] {
            let answer = with_field(&rig, format!("host: {written}").as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{written}: {answer}");
            let seen = rig.upstream.seen.borrow_mut().pop().unwrap();
            assert_eq!(seen.header("host"), Some(sent), "{written}");
            let real = format!("Bearer {OAUTH_SECRET}");
            assert_eq!(seen.header("authorization"), Some(real.as_str()));
        }
    });
}

#[test]
fn denies_a_request_whose_host_is_another_one_in_disguise() {
    with_rig(Behaviour::default(), async |rig| {
        for host in [
            OTHER,
            "api.bound.test..",
            ".api.bound.test",
            "api.bound.test:80",
            "api.bound.test:",
            "api.bound.test:443:443",
            "api.bound.test:65979",
            "api.bound.test@evil.test",
            "evil.test@api.bound.test",
            "api.bound.test,evil.test",
            "api.bound.test evil.test",
            "api.bound.test/evil.test",
            "evil.test#api.bound.test",
            "api.bound.test%00.evil.test",
            "api\u{3002}bound.test",
            "\u{430}pi.bound.test",
            "xn--pi-6kc.bound.test",
            "127.0.0.1",
            "[::1]",
            "0x7f000001",
            "",
        ] {
            let answer = with_field(&rig, format!("host: {host}").as_bytes()).await;
            let refused = answer.contains("authority-mismatch") || answer.contains(" 400 ");
            assert!(refused, "{host}: {answer}");
        }
        for fields in [
            "x-host: api.bound.test",
            "host: api.bound.test\r\nhost: evil.test",
            "host: api.bound.test\r\nhost: api.bound.test",
        ] {
            let answer = with_field(&rig, fields.as_bytes()).await;
            assert!(answer.contains("authority-mismatch"), "{fields}: {answer}");
        }
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn headers_that_name_another_host_do_not_move_the_request() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let bearer = format!("Bearer {}", rig.oauth);
        let fields = [
            ("authorization", bearer.as_str()),
            ("x-forwarded-host", "evil.test"),
            ("forwarded", "host=evil.test"),
            ("x-original-url", "https://evil.test/"),
        ];
        let response = client.send_request(get("/", &fields)).await.unwrap();
        assert_eq!(outcome(response).await.0, 200);
        assert_eq!(rig.upstream.only_request().header("host"), Some(API));
    });
}

#[test]
fn denies_an_absolute_target_with_another_host_user_port_or_scheme() {
    with_rig(Behaviour::default(), async |rig| {
        for target in [
            "https://evil.test/",
            "http://api.bound.test/",
            "https://u:p@api.bound.test/",
            "https://api.bound.test:8443/",
            "https://api.bound.test.evil.test/",
            "ftp://api.bound.test/",
            "https://evil.test\\@api.bound.test/",
            "evil.test:443",
        ] {
            let request = format!(
                "GET {target} HTTP/1.1\r\nhost: {API}\r\nauthorization: Bearer {}\r\n\
                 connection: close\r\n\r\n",
                rig.oauth
            );
            let answer = raw(&rig, request.as_bytes()).await;
            let refused = answer.contains("authority-mismatch") || answer.contains(" 400 ");
            assert!(refused, "{target}: {answer}");
        }
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn denies_connect_over_both_versions() {
    with_rig(Behaviour::default(), async |rig| {
        for target in ["api.bound.test:443", "evil.test:443", "127.0.0.1:22"] {
            let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
            let answer = raw(&rig, request.as_bytes()).await;
            assert!(answer.contains("connect-method"), "{answer}");
        }
        let mut client = rig.http2(API).await;
        let mut request = get("api.bound.test:443", &[("host", API)]);
        request.headers_mut().remove("host");
        *request.method_mut() = http::Method::CONNECT;
        let response = client.send_request(request).await.unwrap();
        assert_eq!(outcome(response).await.1.as_deref(), Some("connect-method"));
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn a_redirect_is_not_followed_and_its_target_gets_no_token() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let bearer = format!("Bearer {}", rig.oauth);
        let fields = [("authorization", bearer.as_str()), ("x-echo", "head")];
        let response = client.send_request(get("/", &fields)).await.unwrap();
        assert_eq!(response.status(), 302);
        assert_eq!(rig.upstream.seen.borrow().len(), 1);
        rig.upstream.seen.borrow_mut().clear();
        // What a client does that takes its login along: to a host of another credential, with the placeholder.
        let mut other = crate::rig::http1(rig.tls(OTHER, &["http/1.1"]).await).await;
        let fields = [("host", OTHER), ("authorization", bearer.as_str())];
        let response = other.send_request(get("/", &fields)).await.unwrap();
        assert_eq!(
            outcome(response).await.1.as_deref(),
            Some("placeholder-other-host")
        );
        denied(
            &rig,
            &format!("/?t={}", rig.oauth),
            &[],
            "placeholder-outside-credential",
        )
        .await;
    });
}
