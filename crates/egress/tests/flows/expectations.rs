//! `Expect: 100-continue`: who says that the body is wanted, and when.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::rig::{API, OAUTH_SECRET, Rig, get, outcome, with_rig};
use crate::upstream::{Behaviour, Local, NEWER_SECRET};

const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Shorter than anybody's patience, longer than anything takes here.
const SOON: Duration = Duration::from_millis(700);

type Guest = TlsStream<tokio::io::DuplexStream>;

/// Sends the head of a request whose body of four bytes waits for the word.
async fn ask(rig: &Rig, target: &str, fields: &str) -> Guest {
    let mut stream = rig.tls(API, &["http/1.1"]).await;
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: {API}\r\nexpect: 100-continue\r\n{fields}content-length: 4\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Waits for the word, sends the body and reads the answer.
async fn go_on(mut stream: Guest) -> String {
    let mut interim = [0; INTERIM.len()];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(interim, INTERIM);
    stream.write_all(b"body").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let length = stream.read_buf(&mut answer).await.unwrap();
        assert!(length > 0, "the answer ends early");
    }
    String::from_utf8(answer).unwrap()
}

/// Reads all that comes without sending the body.
async fn stay_silent(mut stream: Guest) -> String {
    let mut answer = String::new();
    let read = timeout(SOON, stream.read_to_string(&mut answer));
    read.await.expect("the connection closes").unwrap();
    answer
}

#[test]
fn the_upstream_says_that_the_body_is_wanted() {
    with_rig(Behaviour::default(), async |rig| {
        let bearer = format!("authorization: Bearer {}\r\n", rig.oauth);
        let mut stream = ask(&rig, "/slow", &bearer).await;
        let mut first = [0; 1];
        let early = timeout(SOON, stream.read(&mut first)).await;
        assert!(early.is_err(), "told before the upstream said anything");
        rig.upstream.release.notify_one();
        let answer = go_on(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let seen = rig.upstream.only_request();
        assert_eq!(seen.body, "body");
        assert_eq!(seen.header("expect"), Some("100-continue"));
        let token = format!("Bearer {OAUTH_SECRET}");
        assert_eq!(seen.header("authorization"), Some(token.as_str()));
    });
}

#[test]
fn an_upstream_that_wants_the_body_is_heard_at_once() {
    with_rig(Behaviour::default(), async |rig| {
        let started = Instant::now();
        go_on(ask(&rig, "/", "").await).await;
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    });
}

#[test]
fn a_final_answer_comes_before_the_body_and_ends_the_connection() {
    with_rig(Behaviour::default(), async |rig| {
        for status in [200, 401, 413, 417] {
            let stream = ask(&rig, &format!("/early/{status}"), "").await;
            let answer = stay_silent(stream).await;
            let line = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&line), "{answer}");
            assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
            assert!(answer.ends_with("early"), "{answer}");
        }
        assert_eq!(rig.audit().len(), 4);
        assert_eq!(rig.last_audit()["bytes_up"], 0);
    });
}

#[test]
fn nobody_waits_long_for_an_upstream_that_says_nothing() {
    with_rig(Behaviour::default(), async |rig| {
        let started = Instant::now();
        let mut stream = ask(&rig, "/slow", "").await;
        let mut interim = [0; INTERIM.len()];
        let word = timeout(Duration::from_secs(5), stream.read_exact(&mut interim));
        word.await.expect("the wait is bounded").unwrap();
        assert_eq!(interim, INTERIM);
        assert!(started.elapsed() > SOON, "{:?}", started.elapsed());
        stream.write_all(b"body").await.unwrap();
        rig.upstream.release.notify_one();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            let length = stream.read_buf(&mut answer).await.unwrap();
            assert!(length > 0, "the answer ends early");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
        assert_eq!(rig.upstream.only_request().body, "body");
    });
}

#[test]
fn a_rejected_token_is_replaced_before_the_body_is_asked_for() {
    with_rig(Behaviour::default(), async |rig| {
        *rig.secrets.newer.borrow_mut() = Some(NEWER_SECRET);
        let bearer = format!("authorization: Bearer {}\r\n", rig.oauth);
        let stream = ask(&rig, "/early/401", &bearer).await;
        let answer = go_on(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let seen = rig.upstream.seen.borrow();
        let bodies: Vec<_> = seen.iter().map(|seen| seen.body.clone()).collect();
        assert_eq!(bodies, [&b""[..], b"body"]);
        let token = format!("Bearer {NEWER_SECRET}");
        assert_eq!(seen[1].header("authorization"), Some(token.as_str()));
    });
}

#[test]
fn an_expectation_without_a_body_goes_no_further() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let request = get("/", &[("expect", "100-continue")]);
        assert_eq!(client.send_request(request).await.unwrap().status(), 200);
        assert_eq!(rig.upstream.only_request().header("expect"), None);
    });
}

#[test]
fn over_http2_a_final_answer_comes_before_the_body_too() {
    with_rig(Behaviour::default(), async |rig| {
        let stream = rig.tls(API, &["h2"]).await;
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(Local, TokioIo::new(stream))
                .await
                .unwrap();
        spawn_local(connection);
        for (path, status) in [("/early/417", 417), ("/early/401", 401), ("/", 200)] {
            let (frames, body) = crate::upstream::channel();
            let target = format!("https://{API}{path}");
            let mut request = get(&target, &[("expect", "100-continue")]).map(|_| body);
            *request.method_mut() = Method::POST;
            let response = client.send_request(request);
            if status == 200 {
                let body = Frame::data(Bytes::from_static(b"body"));
                frames.send(Ok(body)).await.unwrap();
                drop(frames);
            }
            let response = timeout(SOON, response).await.expect("it comes first");
            assert_eq!(outcome(response.unwrap()).await.0, status);
        }
        let seen = rig.upstream.seen.borrow();
        assert!(
            seen.iter()
                .all(|seen| seen.header("expect") == Some("100-continue"))
        );
        assert_eq!(seen.last().unwrap().body, "body");
    });
}

/// Uploads two megabytes by curl, which waits for the word before it sends that much; status and bytes it sent.
async fn curl(rig: &Rig, path: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let guest = rig.clone();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let flow = guest.try_open(Some(API), "198.18.0.9", 443).await.unwrap();
            spawn_local(async move { flow.serve(stream).await });
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let (ca, body) = (dir.path().join("ca.pem"), dir.path().join("body"));
    fs_err::write(&ca, rig.egress().ca_pem()).unwrap();
    fs_err::write(&body, vec![b'u'; 2 << 20]).unwrap();
    let mut command = std::process::Command::new("curl");
    command
        .args(["-sS", "--http1.1", "--max-time", "15", "-o", "/dev/null"])
        .args(["-w", "%{http_code} %{size_upload}", "--noproxy", "*"])
        .args(["--connect-to", &format!("{API}:443:127.0.0.1:{port}")])
        .arg("--cacert")
        .arg(&ca)
        .arg("--upload-file")
        .arg(&body)
        .arg(format!("https://{API}{path}"));
    let ended = tokio::task::spawn_blocking(move || command.output());
    let ended = ended.await.unwrap().expect("curl is installed");
    String::from_utf8(ended.stdout).unwrap()
}

#[test]
fn a_real_curl_sends_a_large_body_only_when_it_is_wanted() {
    with_rig(Behaviour::default(), async |rig| {
        let started = Instant::now();
        assert_eq!(curl(&rig, "/early/413").await, "413 0");
        assert!(rig.upstream.seen.take()[0].body.is_empty());
        assert_eq!(curl(&rig, "/upload").await, format!("200 {}", 2 << 20));
        assert_eq!(rig.upstream.only_request().body.len(), 2 << 20);
        assert!(started.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn other_interim_answers_are_not_the_word() {
    with_rig(Behaviour::default(), async |rig| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = rig.with_target(listener.local_addr().unwrap());
        let upstream = spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut head).await.unwrap();
            }
            for interim in ["102 Processing", "103 Early Hints"] {
                let interim = format!("HTTP/1.1 {interim}\r\nlink: </x>\r\n\r\n");
                stream.write_all(interim.as_bytes()).await.unwrap();
            }
            let body = timeout(SOON, stream.read_u8()).await;
            assert!(body.is_err(), "the guest was told to send");
            stream.write_all(INTERIM).await.unwrap();
            let mut body = [0; 4];
            stream.read_exact(&mut body).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
            stream.write_all(answer).await.unwrap();
            body
        });
        let (mut guest, _flow) = rig.open(API, 80).await;
        let head = format!(
            "POST / HTTP/1.1\r\nhost: {API}\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
        );
        guest.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; INTERIM.len()];
        guest.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, INTERIM);
        guest.write_all(b"body").await.unwrap();
        while !answer.ends_with(b"hello") {
            assert!(guest.read_buf(&mut answer).await.unwrap() > 0);
        }
        assert_eq!(&upstream.await.unwrap(), b"body");
    });
}
