//! Answers as providers give them, with known counts, in any pieces.

use std::rc::Rc;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

struct Rig {
    directory: tempfile::TempDir,
    log: Rc<UsageLog>,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = Rc::new(UsageLog::new(&directory.path().join("usage"), "5e", "p"));
        Self { directory, log }
    }

    fn tap(&self, path: &str, kind: &'static str) -> Tap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        Tap::for_answer(Rc::clone(&self.log), ("api.test", path), &headers)
    }

    fn socket(&self) -> Tap {
        let place = ("api.test", "/backend-api/codex/responses");
        Tap::for_websocket(Rc::clone(&self.log), place, &HeaderMap::new())
    }

    /// Model, input, cache read, cache write, output of each line.
    fn lines(&self) -> Vec<(String, [u64; 4])> {
        let path = self.directory.path().join("usage/5e.jsonl");
        let text = fs_err::read_to_string(path).unwrap_or_default();
        let line = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(
                (&line["session"], &line["project"]),
                (&"5e".into(), &"p".into())
            );
            let names = [
                "input_tokens",
                "cache_read_tokens",
                "cache_write_tokens",
                "output_tokens",
            ];
            let model = line["model"].as_str().unwrap_or("-").to_owned();
            (model, names.map(|name| line[name].as_u64().unwrap()))
        };
        text.lines().map(line).collect()
    }
}

/// What is counted of an answer that comes in pieces of `size` bytes.
fn counted(path: &str, kind: &'static str, text: &str, size: usize) -> Vec<(String, [u64; 4])> {
    let rig = Rig::new();
    let mut tap = rig.tap(path, kind);
    for piece in text.as_bytes().chunks(size) {
        tap.push(piece);
    }
    drop(tap);
    rig.lines()
}

const SSE: &str = "text/event-stream; charset=utf-8";
const JSON: &str = "application/json";

const ANTHROPIC_SSE: &str = r#"event: message_start
data: {"type":"message_start","message":{"model":"claude-opus-4-1","id":"m","content":[],"usage":{"input_tokens":3,"cache_creation_input_tokens":20,"cache_read_input_tokens":1000,"cache_creation":{"ephemeral_5m_input_tokens":20},"output_tokens":1,"service_tier":"standard"}}}

event: content_block_delta
data: {"type":"content_block_delta","delta":{"text":"\"usage\":{\"input_tokens\":99999}}}","usage":{"x":{"input_tokens":7}}}}

event: ping
data: {"type": "ping"}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":42}}

event: message_stop
data: {"type":"message_stop"}

"#;

/// Every provider's forms: path, type, answer, model, and the counts.
const ANSWERS: &[(&str, &str, &str, &str, [u64; 4])] = &[
    (
        "/v1/messages",
        SSE,
        ANTHROPIC_SSE,
        "claude-opus-4-1",
        [3, 1000, 20, 42],
    ),
    (
        "/v1/messages",
        JSON,
        r#"{"model":"claude-x","content":[{"type":"tool_use","input":{"usage":{"input_tokens":5},"model":"no"}}],"usage":{"input_tokens":10,"output_tokens":20}}"#,
        "claude-x",
        [10, 0, 0, 20],
    ),
    (
        "/v1/chat/completions",
        JSON,
        r#"{"choices":[{"message":{"content":"{\"usage\":{}}"}}],"model":"gpt-x","usage":{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107,"prompt_tokens_details":{"cached_tokens":64},"completion_tokens_details":{"reasoning_tokens":3}}}"#,
        "gpt-x",
        [36, 64, 0, 7],
    ),
    (
        "/chat/completions",
        SSE,
        "data: {\"model\":\"gpt-x\",\"choices\":[],\"usage\":null}\r\n\r\ndata: {\"model\":\"gpt-x\",\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\r\n\r\ndata: [DONE]\r\n\r\n",
        "gpt-x",
        [5, 0, 0, 2],
    ),
    (
        "/backend-api/codex/responses",
        SSE,
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"gpt-5\",\"usage\":null}}\n\nevent: response.completed\ndata:{\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-5\",\"output\":[{\"usage\":{\"input_tokens\":1}}],\"usage\":{\"input_tokens\":1500,\"input_tokens_details\":{\"cached_tokens\":1024},\"output_tokens\":60,\"output_tokens_details\":{\"reasoning_tokens\":40},\"total_tokens\":1560}}}\n\n",
        "gpt-5",
        [476, 1024, 0, 60],
    ),
    (
        "/v1beta/models/gemini-2.5-pro:streamGenerateContent",
        JSON,
        "[{\"candidates\":[],\"usageMetadata\":{\"promptTokenCount\":9,\"totalTokenCount\":9},\"modelVersion\":\"gemini-2.5-pro\"}\n,\r\n{\"usageMetadata\":{\"promptTokenCount\":9,\"candidatesTokenCount\":11,\"thoughtsTokenCount\":30,\"cachedContentTokenCount\":4,\"promptTokensDetails\":[{\"modality\":\"TEXT\",\"tokenCount\":9}]}}]",
        "gemini-2.5-pro",
        [5, 4, 0, 41],
    ),
    (
        "/v1internal:streamGenerateContent",
        SSE,
        "data: {\"response\":{\"modelVersion\":\"gemini-x\",\"usageMetadata\":{\"promptTokenCount\":9,\"candidatesTokenCount\":1}}}\n\n",
        "gemini-x",
        [9, 0, 0, 1],
    ),
];

#[test]
fn every_providers_answer_is_counted_whole_and_byte_by_byte() {
    for (path, kind, text, model, counts) in ANSWERS {
        for size in [usize::MAX, 1] {
            let counted = counted(path, kind, text, size.min(text.len()));
            assert_eq!(counted, [((*model).to_owned(), *counts)], "{path} {kind}");
        }
    }
}

#[test]
fn numbers_inside_of_contents_are_not_counted() {
    for text in [
        r#"{"content":{"usage":{"input_tokens":5,"output_tokens":5}}}"#,
        r#"{"usage":"{\"input_tokens\":5}","x":[{"usage":{"input_tokens":5}}]}"#,
        r#"[[{"usage":{"input_tokens":5}}]]"#,
        r#"{"a\"usage":{"input_tokens":5},"\u0075sage":{"input_tokens":5}}"#,
        r#"{"message":{"message":{"usage":{"input_tokens":5}}}}"#,
    ] {
        assert_eq!(
            counted("/v1/messages", JSON, text, text.len()),
            [],
            "{text}"
        );
    }
}

#[test]
fn an_answer_of_any_length_is_read_in_little_memory() {
    let rig = Rig::new();
    let mut tap = rig.tap("/v1/responses", JSON);
    tap.push(br#"{"output":[{"text":""#);
    for _ in 0..32 {
        tap.push(&[b'x'; 64 * 1024]);
    }
    tap.push(br#""}],"usage":{"input_tokens":1,"output_tokens":2}}"#);
    let Form::Document(scanner) = &tap.form else {
        panic!("a document");
    };
    assert!(format!("{scanner:?}").len() < 1024);
    drop(tap);
    assert_eq!(rig.lines(), [("-".to_owned(), [1, 0, 0, 2])]);
}

#[test]
fn an_object_with_too_many_numbers_is_passed_over() {
    let long = format!(
        r#"{{"usage":{{"x":"{}","input_tokens":1}}}}"#,
        "y".repeat(10_000)
    );
    assert_eq!(counted("/v1/messages", JSON, &long, 100), []);
}

#[test]
fn an_answer_that_breaks_off_counts_what_it_said() {
    let begun = &ANTHROPIC_SSE[..400];
    let counted = counted("/v1/messages", SSE, begun, 100);
    assert_eq!(counted, [("claude-opus-4-1".to_owned(), [3, 1000, 20, 1])]);
}

#[test]
fn an_answer_that_cannot_be_read_is_counted_as_such() {
    let rig = Rig::new();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(SSE));
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("br"));
    drop(Tap::for_answer(
        Rc::clone(&rig.log),
        ("a", "/v1/messages"),
        &headers,
    ));
    let text = fs_err::read_to_string(rig.directory.path().join("usage/5e.jsonl")).unwrap();
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&line["unread"], &line["input_tokens"]),
        (&true.into(), &0.into())
    );
}

#[test]
fn a_request_asks_for_what_can_be_read() {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("gzip, br, zstd"),
    );
    headers.insert(
        WEBSOCKET_EXTENSIONS,
        HeaderValue::from_static("permessage-deflate; client_max_window_bits"),
    );
    ask_readable(&mut headers);
    assert_eq!(headers.len(), 1);
    assert_eq!(headers[header::ACCEPT_ENCODING], "identity");
    let mut none = HeaderMap::new();
    ask_readable(&mut none);
    assert!(none.is_empty());
}

#[test]
fn endpoints_of_models_are_told_by_their_ends() {
    for (path, is) in [
        ("/v1/messages", true),
        ("/api/anthropic/v1/messages", true),
        ("/v1/messages/count_tokens", false),
        ("/backend-api/codex/responses", true),
        ("/api/paas/v4/chat/completions", true),
        ("/v1beta/models/g:generateContent", true),
        ("/v1beta/models/g:countTokens", false),
        ("/api/oauth/profile", false),
    ] {
        assert_eq!(is_model_endpoint(path), is, "{path}");
    }
}

/// A frame of a server.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(u8::try_from(short).unwrap()),
        long @ 126..0x1_0000 => {
            frame.push(126);
            frame.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
        longer => {
            frame.push(127);
            frame.extend((longer as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

const COMPLETED: &[u8] = br#"{"type":"response.completed","response":{"model":"gpt-5","usage":{"input_tokens":10,"output_tokens":4}}}"#;

/// Two answers on one connection, the second one long and cut into parts with a ping between; then one that is compressed.
fn conversation() -> Vec<u8> {
    let long = format!(
        r#"{{"type":"response.completed","response":{{"output":"{}","model":"gpt-5","usage":{{"input_tokens":7,"output_tokens":1}}}}}}"#,
        "x".repeat(70_000)
    );
    let (one, two) = long.as_bytes().split_at(66_000);
    let mut bytes = frame(
        0x81,
        br#"{"type":"response.created","response":{"usage":null}}"#,
    );
    bytes.extend(frame(0x81, b""));
    bytes.extend(frame(0x81, COMPLETED));
    bytes.extend(frame(0x01, one));
    bytes.extend(frame(0x89, br#"{"usage":{"input_tokens":5}}"#));
    bytes.extend(frame(0x80, two));
    bytes.extend(frame(0xc1, COMPLETED));
    bytes.extend(frame(0x82, COMPLETED));
    bytes.extend(frame(0x88, b"\x03\xe8"));
    bytes
}

#[test]
fn each_answer_of_a_websocket_is_counted() {
    for size in [usize::MAX, 1, 1000] {
        let rig = Rig::new();
        let mut tap = rig.socket();
        let conversation = conversation();
        for piece in conversation.chunks(size.min(conversation.len())) {
            tap.push(piece);
        }
        drop(tap);
        let expected = [[10, 0, 0, 4], [7, 0, 0, 1]];
        assert_eq!(
            rig.lines(),
            expected.map(|counts| ("gpt-5".to_owned(), counts))
        );
    }
}

#[test]
fn a_session_writes_no_more_than_its_part() {
    let rig = Rig::new();
    rig.log.written.set(MAX_SESSION_BYTES - 10);
    let mut tap = rig.tap("/v1/messages", JSON);
    tap.push(br#"{"usage":{"input_tokens":5}}"#);
    drop(tap);
    assert_eq!(rig.lines(), []);
}

proptest! {
    // Each case reads every provider's answer and writes what it counted.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_comes_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), size in 1_usize..9) {
        let rig = Rig::new();
        for mut tap in [rig.tap("/v1/messages", JSON), rig.tap("/v1/messages", SSE), rig.socket()] {
            for piece in bytes.chunks(size) {
                tap.push(piece);
            }
        }
    }

    #[test]
    fn json_that_is_cut_and_joined_anyhow_gives_the_same(cut in prop::collection::vec(any::<prop::sample::Index>(), 0..9)) {
        for (path, kind, text, model, counts) in ANSWERS {
            let mut cuts: Vec<usize> = cut.iter().map(|cut| cut.index(text.len())).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let rig = Rig::new();
            let mut tap = rig.tap(path, kind);
            let mut from = 0;
            for to in cuts {
                tap.push(&text.as_bytes()[from..to]);
                from = to;
            }
            drop(tap);
            prop_assert_eq!(rig.lines(), [((*model).to_owned(), *counts)]);
        }
    }
}
