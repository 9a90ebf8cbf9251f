//! Requests that one parser takes for another request than the next: whatever is made of them here, the upstream sees
//! only whole requests that were judged, each with one framing.

use crate::binding::raw;
use crate::rig::{API, Rig, with_rig};
use crate::upstream::Behaviour;

/// What is to be smuggled: denied when it is judged, so that the upstream may never see it.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nhost: evil.test\r\n\r\n";

/// A POST with these fields before a body.
fn post(rig: &Rig, fields: &str, body: &str) -> Vec<u8> {
    format!(
        "POST / HTTP/1.1\r\nhost: {API}\r\nauthorization: Bearer {}\r\n{fields}\r\n\r\n{body}",
        rig.oauth
    )
    .into_bytes()
}

/// Sends it; the upstream may see requests to `/` only.
async fn nothing_hidden(rig: &Rig, request: &[u8]) -> String {
    let answer = raw(rig, request).await;
    for seen in rig.upstream.seen.borrow().iter() {
        assert_eq!(
            seen.target,
            "/",
            "{}: {seen:?}",
            String::from_utf8_lossy(request)
        );
    }
    answer
}

#[test]
fn two_framings_never_hide_a_request() {
    with_rig(Behaviour::default(), async |rig| {
        let length = HIDDEN.len();
        let ended = format!("0\r\n\r\n{HIDDEN}");
        for (fields, body) in [
            ("content-length: 4\r\ntransfer-encoding: chunked", &ended),
            ("transfer-encoding: chunked\r\ncontent-length: 4", &ended),
            (
                "content-length: 0\r\ntransfer-encoding: identity, chunked",
                &ended,
            ),
            (
                "content-length: 0\r\ntransfer-encoding: chunked, identity",
                &ended,
            ),
            ("content-length: 0\r\ntransfer-encoding: xchunked", &ended),
            (
                "content-length: 0\r\ntransfer-encoding: \"chunked\"",
                &ended,
            ),
            ("content-length: 0\r\ntransfer-encoding:\tchunked", &ended),
            (
                "content-length: 0\r\ntransfer-encoding: chunked\r\ntransfer-encoding: x",
                &ended,
            ),
            ("content-length: 0\r\ntransfer-encoding : chunked", &ended),
            ("content-length: 0\r\ntransfer-encoding:\x0bchunked", &ended),
            (
                "content-length: 0\r\nx: y\r\n transfer-encoding: chunked",
                &ended,
            ),
            ("content-length: 0\ntransfer-encoding: chunked", &ended),
        ] {
            nothing_hidden(&rig, &post(&rig, fields, body)).await;
        }
        for fields in [
            format!("content-length: 0\r\ncontent-length: {length}"),
            format!("content-length: {length}\r\ncontent-length: 0"),
            format!("content-length: 0, {length}"),
            format!("content-length: {length}, 0"),
            "content-length: +0".into(),
            "content-length: -1".into(),
            "content-length: 0x0".into(),
            "content-length: 0 0".into(),
            "content-length: 99999999999999999999".into(),
            "content-length:".into(),
            format!("content_length: {length}"),
        ] {
            nothing_hidden(&rig, &post(&rig, &fields, HIDDEN)).await;
        }
    });
}

#[test]
fn odd_chunks_never_hide_a_request() {
    with_rig(Behaviour::default(), async |rig| {
        for body in [
            format!("0;x=\"\n\"\r\n\r\n{HIDDEN}"),
            format!("0;{HIDDEN}\r\n\r\n"),
            format!("0\n\n{HIDDEN}"),
            format!("0 \r\n\r\n{HIDDEN}"),
            format!("-1\r\n\r\n{HIDDEN}"),
            format!("0x0\r\n\r\n{HIDDEN}"),
            format!("ffffffffffffffff0\r\n\r\n{HIDDEN}"),
            format!("1\r\naX0\r\n\r\n{HIDDEN}"),
            format!("0\r\nhost: evil.test\r\n{HIDDEN}"),
            format!("0\r\nx: {}\r\n\r\n{HIDDEN}", "y".repeat(20_000)),
            format!("1;{}\r\na\r\n0\r\n\r\n{HIDDEN}", "e".repeat(20_000)),
        ] {
            nothing_hidden(&rig, &post(&rig, "transfer-encoding: chunked", &body)).await;
        }
    });
}

#[test]
fn heads_that_are_no_http_are_refused() {
    with_rig(Behaviour::default(), async |rig| {
        let token = rig.oauth.to_string();
        let head = |line: &str, fields: &str| {
            format!("{line}\r\nhost: {API}\r\n{fields}\r\n\r\n").into_bytes()
        };
        for request in [
            head("GET / HTTP/1.1", "x: a\0b"),
            head("GET / HTTP/1.1", "x\0y: ab"),
            head("GET / HTTP/1.1", &format!("authorization : Bearer {token}")),
            head("GET / HTTP/1.1", &format!("au thorization: Bearer {token}")),
            head(
                "GET / HTTP/1.1",
                &format!("authorization: Bearer\r\n {token}"),
            ),
            head("GET / HTTP/1.1", ": no name"),
            head("GET / HTTP/1.1", "x: a\rb"),
            head("GET  HTTP/1.1", ""),
            head("GET /a b HTTP/1.1", ""),
            head("GET / HTTP/1.1 ", ""),
            head("GET / HTTP/9.9", ""),
            head("G\0T / HTTP/1.1", ""),
            head("GET /\0 HTTP/1.1", ""),
            b"GET /smuggled\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            vec![b'\n'; 100_000],
        ] {
            let answer = nothing_hidden(&rig, &request).await;
            assert!(
                !answer.contains("200 OK"),
                "{}: {answer}",
                String::from_utf8_lossy(&request)
            );
        }
        let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
        let answer = nothing_hidden(&rig, &head("GET / HTTP/1.1", many.trim_end())).await;
        assert!(!answer.contains("200 OK"), "{answer}");
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn bare_line_feeds_make_no_other_request_of_it() {
    with_rig(Behaviour::default(), async |rig| {
        let request = format!(
            "GET / HTTP/1.1\nhost: {API}\nauthorization: Bearer {}\nconnection: close\n\n",
            rig.oauth
        );
        let answer = nothing_hidden(&rig, request.as_bytes()).await;
        // Read leniently (RFC 9112 §2.2), written strictly.
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(rig.upstream.seen.borrow().len(), 1);
    });
}

#[test]
fn a_second_request_in_the_same_bytes_is_judged_by_itself() {
    with_rig(Behaviour::default(), async |rig| {
        let first = format!("GET / HTTP/1.1\r\nhost: {API}\r\n\r\n");
        let leak = format!(
            "GET /leak?t={} HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n",
            rig.oauth
        );
        let both = format!("{first}{HIDDEN}{leak}");
        let answer = nothing_hidden(&rig, both.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
        assert!(answer.contains("authority-mismatch"), "{answer}");
        assert!(
            answer.contains("placeholder-outside-credential"),
            "{answer}"
        );
        assert_eq!(rig.upstream.seen.borrow().len(), 1);
    });
}

#[test]
fn an_unknown_method_is_judged_like_any_other() {
    with_rig(Behaviour::default(), async |rig| {
        for method in ["BREW", "get", "PROPFIND", "TRACE", "M-SEARCH"] {
            let request = format!(
                "{method} /?t={} HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n",
                rig.oauth
            );
            let answer = nothing_hidden(&rig, request.as_bytes()).await;
            assert!(
                answer.contains("placeholder-outside-credential"),
                "{answer}"
            );
        }
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}
