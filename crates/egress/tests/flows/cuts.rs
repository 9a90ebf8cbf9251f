//! However the guest's bytes are cut into writes, what becomes of them is the same: the verdict, and every byte of what
//! the upstream gets.

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::{spawn_local, yield_now};

use crate::rig::{
    API, FREE, LOGIN, OAUTH_SECRET, OTHER, Rig, connect, get, http1, outcome, with_rig,
};
use crate::upstream::{Behaviour, Seen};

/// A request as bytes, with `{oauth}` for a placeholder, and what becomes of it: the deny reason, if it is denied.
const REQUESTS: [(&str, Option<&str>); 9] = [
    (
        "POST /v1 HTTP/1.1\r\nhost: {api}\r\nauthorization: Bearer {oauth}\r\ncontent-length: 60\r\n\
         connection: close\r\n\r\n{body}",
        None,
    ),
    (
        "POST /v1 HTTP/1.1\r\nhost: {api}\r\nauthorization: Bearer {oauth}\r\n\
         transfer-encoding: chunked\r\nconnection: close\r\n\r\n3c\r\n{body}\r\n0\r\n\r\n",
        None,
    ),
    (
        "GET /?t={oauth} HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\n\r\n",
        Some("placeholder-outside-credential"),
    ),
    (
        "GET / HTTP/1.1\r\nhost: {api}\r\nx-copy: {oauth}\r\nconnection: close\r\n\r\n",
        Some("placeholder-outside-credential"),
    ),
    (
        "GET / HTTP/1.1\r\nhost: {other}\r\nauthorization: Bearer {oauth}\r\nconnection: close\r\n\r\n",
        Some("authority-mismatch"),
    ),
    (
        "GET https://{other}/ HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\n\r\n",
        Some("authority-mismatch"),
    ),
    (
        "GET / HTTP/1.1\r\nhost: {api}\r\nx-api-key: sk-ant-api03-strangers-own-key\r\nconnection: close\r\n\r\n",
        Some("foreign-credential"),
    ),
    (
        "CONNECT {api}:443 HTTP/1.1\r\nhost: {api}:443\r\nconnection: close\r\n\r\n",
        Some("connect-method"),
    ),
    (
        "DELETE /a HTTP/1.1\r\nhost: {api}\r\nauthorization: Bearer {oauth}\r\nconnection: close\r\n\r\n",
        None,
    ),
];

/// Sixty bytes of a body.
const BODY: &str = "0123456789abcdefghij0123456789ABCDEFGHIJ0123456789abcdefghij";

/// Writes the bytes in pieces of these lengths, the rest at once, and reads the answer to its end.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    bytes: &[u8],
    cuts: &[usize],
) -> String {
    let mut rest = bytes;
    for cut in cuts {
        let (piece, after) = rest.split_at((*cut).min(rest.len()));
        // A denied connection may be closed before all was written.
        let _closed = stream.write_all(piece).await;
        let _closed = stream.flush().await;
        // Whoever reads sees the piece alone.
        yield_now().await;
        yield_now().await;
        rest = after;
    }
    let _closed = stream.write_all(rest).await;
    let _closed = stream.flush().await;
    let mut answer = Vec::new();
    let _ended = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn written(rig: &Rig, template: &str) -> String {
    template
        .replace("{oauth}", rig.oauth.as_str())
        .replace("{api}", API)
        .replace("{other}", OTHER)
        .replace("{body}", BODY)
}

/// What the upstream got of an allowed request.
fn assert_whole(seen: &Seen, template: &str) {
    let token = format!("Bearer {OAUTH_SECRET}");
    assert_eq!(seen.header("authorization"), Some(token.as_str()));
    let body = if template.contains("{body}") {
        BODY
    } else {
        ""
    };
    assert_eq!(seen.body, body);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn cutting_a_request_changes_neither_its_verdict_nor_what_is_sent(
        which in 0..REQUESTS.len(),
        cuts in prop::collection::vec(1..48_usize, 0..24),
    ) {
        let (template, reason) = REQUESTS[which];
        with_rig(Behaviour::default(), async |rig| {
            let stream = rig.tls(API, &["http/1.1"]).await;
            let answer = exchange(stream, written(&rig, template).as_bytes(), &cuts).await;
            match reason {
                Some(reason) => {
                    let header = format!("x-agent-vm-deny: {reason}\r\n");
                    assert!(answer.contains(&header), "{answer}");
                    assert!(rig.upstream.seen.borrow().is_empty());
                }
                None => {
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    assert_whole(&rig.upstream.only_request(), template);
                }
            }
        });
    }

    #[test]
    fn cutting_what_is_said_without_tls_never_lets_a_placeholder_pass(
        host in prop::sample::select(vec![API, FREE, LOGIN]),
        cuts in prop::collection::vec(1..48_usize, 0..24),
    ) {
        let plain = Behaviour { tls: false, ..Behaviour::default() };
        with_rig(plain, async |rig| {
            let (guest, flow) = rig.open(host, 80).await;
            let request = format!(
                "GET / HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
                rig.oauth
            );
            let answer = exchange(guest, request.as_bytes(), &cuts).await;
            assert!(!answer.contains("200 OK"), "{answer}");
            let _ended = flow.await;
            assert!(rig.upstream.seen.borrow().is_empty());
        });
    }

    #[test]
    fn a_hello_in_segments_of_any_size_is_read_whole(
        // Less than what TLS says from both sides at once would stop both.
        segment in 16..700_usize,
        offers in 0..40_usize,
    ) {
        with_rig(Behaviour::default(), async |rig| {
            // As large as one with keys for a key exchange that withstands quantum computers.
            let names: Vec<String> = (0..offers).map(|n| format!("protocol-{n:040}")).collect();
            let mut alpn: Vec<&str> = names.iter().map(String::as_str).collect();
            alpn.push("http/1.1");
            let flow = rig.try_open(Some(API), "198.18.0.9", 443).await.unwrap();
            let (guest, near) = tokio::io::duplex(segment);
            spawn_local(async move { flow.serve(near).await });
            let stream = connect(guest, rig.egress().ca_pem(), API, &alpn).await;
            let stream = stream.unwrap_or_else(|error| panic!("{error}: {:?}", rig.audit()));
            let mut client = http1(stream).await;
            let bearer = format!("Bearer {}", rig.oauth);
            let request = get("/", &[("authorization", &bearer)]);
            let request = request.map(|_| http_body_util::Full::new(Bytes::from_static(BODY.as_bytes())));
            let response = client.send_request(request).await.unwrap();
            assert_eq!(outcome(response).await.0, 200);
            assert_whole(&rig.upstream.only_request(), "{body}");
        });
    }
}
