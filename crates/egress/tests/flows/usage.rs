//! What models used is counted from answers that pass unchanged.

use agent_vm_egress::UsageLog;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{API, Rig, get, with_rig};
use crate::upstream::Behaviour;

const ANSWER: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-x\",\
    \"usage\":{\"input_tokens\":3,\"cache_read_input_tokens\":1000,\"cache_creation_input_tokens\":20,\"output_tokens\":1}}}\n\n\
    event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":42}}\n\n";

fn counting(rig: &Rig) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    rig.egress()
        .count_usage(UsageLog::new(directory.path(), "5e", "p"));
    directory
}

fn counted(directory: &tempfile::TempDir) -> Vec<Value> {
    let text = fs_err::read_to_string(directory.path().join("5e.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .map(|line: Value| {
            json!([
                line["model"],
                line["input_tokens"],
                line["cache_read_tokens"],
                line["cache_write_tokens"],
                line["output_tokens"]
            ])
        })
        .collect()
}

/// A request whose answer is its own body.
fn echoed(path: &str, kind: &str, body: &str) -> http::Request<Full<Bytes>> {
    let fields = [("x-kind", kind), ("accept-encoding", "gzip, br")];
    let mut request = get(path, &fields).map(|_| Full::new(Bytes::from(body.to_owned())));
    *request.method_mut() = http::Method::POST;
    request
}

#[test]
fn an_answer_is_counted_and_passes_as_it_is() {
    with_rig(Behaviour::default(), async |rig| {
        let directory = counting(&rig);
        let mut client = rig.http1(API).await;
        let request = echoed("/echo/v1/messages?beta=true", "text/event-stream", ANSWER);
        let response = client.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, ANSWER);
        assert_eq!(counted(&directory), [json!(["claude-x", 3, 1000, 20, 42])]);
        let seen = rig.upstream.only_request();
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
    });
}

#[test]
fn over_http2_it_is_the_same() {
    with_rig(Behaviour::default(), async |rig| {
        let directory = counting(&rig);
        let mut client = rig.http2(API).await;
        let path = format!("https://{API}/echo/v1/responses");
        let answer = r#"{"model":"gpt","usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":2}}"#;
        let response = client
            .send_request(echoed(&path, "application/json", answer))
            .await
            .unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, answer);
        assert_eq!(counted(&directory), [json!(["gpt", 5, 4, 0, 2])]);
    });
}

#[test]
fn what_is_no_model_is_neither_counted_nor_asked_otherwise() {
    with_rig(Behaviour::default(), async |rig| {
        let directory = counting(&rig);
        let mut client = rig.http1(API).await;
        let request = echoed("/echo/v1/files", "text/event-stream", ANSWER);
        let response = client.send_request(request).await.unwrap();
        drop(response.into_body().collect().await.unwrap());
        assert_eq!(counted(&directory), Vec::<Value>::new());
        let seen = rig.upstream.only_request();
        assert_eq!(seen.header("accept-encoding"), Some("gzip, br"));
    });
}

#[test]
fn the_answers_of_a_websocket_are_counted() {
    with_rig(Behaviour::default(), async |rig| {
        let directory = counting(&rig);
        let mut client = rig.http1(API).await;
        let request = get(
            "/socket/responses",
            &[
                ("connection", "Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-extensions", "permessage-deflate"),
            ],
        );
        let mut response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), 101);
        let seen = rig.upstream.only_request();
        assert_eq!(seen.header("sec-websocket-extensions"), None);
        let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
        let mut socket = TokioIo::new(upgraded);
        let message = br#"{"type":"response.completed","response":{"model":"gpt","usage":{"input_tokens":1,"output_tokens":2}}}"#;
        let mut frame = vec![0x81, u8::try_from(message.len()).unwrap()];
        frame.extend(message);
        for count in 1..=2 {
            // What the client says comes back as the server's word.
            socket.write_all(&frame).await.unwrap();
            let mut echo = vec![0; frame.len()];
            socket.read_exact(&mut echo).await.unwrap();
            assert_eq!(echo, frame);
            assert_eq!(counted(&directory), vec![json!(["gpt", 1, 0, 0, 2]); count]);
        }
    });
}
