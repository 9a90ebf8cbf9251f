//! HTTP/2 written by hand: pseudo-header fields that are missing, doubled, late or at odds with each other (RFC 9113
//! §8.3), and ways to turn a stream into something else.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{API, Rig, with_rig};
use crate::upstream::Behaviour;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Frame types (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 0x5;

type Field<'a> = (&'a str, &'a str);

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [
        length[1], length[2], length[3], kind, flags, 0, 0, 0, stream,
    ];
    [&head[..], payload].concat()
}

/// Literal fields without indexing (RFC 7541 §6.2.2).
fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 127, "the length fits its prefix");
        [&[length][..], text.as_bytes()].concat()
    };
    let field = |(name, value): &Field<'_>| [vec![0], text(name), text(value)].concat();
    fields.iter().flat_map(field).collect()
}

/// What became of the request: the text of its answer, or `None` when stream or connection were reset.
async fn asked(rig: &Rig, fields: &[Field<'_>]) -> Option<String> {
    let mut stream = rig.tls(API, &["h2"]).await;
    let request = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, WHOLE, 1, &block(fields)),
    ];
    stream.write_all(&request.concat()).await.unwrap();
    let answer = async {
        let mut text = String::new();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            stream.read_exact(&mut payload).await.ok()?;
            match head[3] {
                RESET | GOAWAY => return None,
                DATA => text.push_str(&String::from_utf8_lossy(&payload)),
                _ => {}
            }
            if matches!(head[3], DATA | HEADERS) && head[4] & 1 == 1 {
                return Some(text);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), answer)
        .await
        .expect("there is an answer")
}

const METHOD: Field<'_> = (":method", "GET");
const SCHEME: Field<'_> = (":scheme", "https");
const AUTHORITY: Field<'_> = (":authority", API);
const PATH: Field<'_> = (":path", "/");

#[test]
fn a_whole_request_is_answered() {
    with_rig(Behaviour::default(), async |rig| {
        let fields = [METHOD, SCHEME, AUTHORITY, PATH, ("host", API)];
        assert_eq!(asked(&rig, &fields).await.as_deref(), Some("hello"));
    });
}

/// None of these may reach the upstream.
async fn all_refused(rig: &Rig, requests: &[&[Field<'_>]]) {
    for fields in requests {
        let answer = asked(rig, fields).await;
        let refused = answer.as_ref().is_none_or(|text| !text.contains("hello"));
        assert!(refused, "{fields:?}: {answer:?}");
    }
    assert!(
        rig.upstream.seen.borrow().is_empty(),
        "{:?}",
        rig.upstream.seen
    );
}

#[test]
fn refuses_pseudo_headers_that_are_doubled_late_missing_or_unknown() {
    with_rig(Behaviour::default(), async |rig| {
        let bearer = format!("Bearer {}", rig.oauth);
        let token = ("authorization", bearer.as_str());
        let evil = (":authority", "evil.test");
        let requests: [&[Field<'_>]; 11] = [
            &[METHOD, SCHEME, AUTHORITY, evil, PATH, token],
            &[METHOD, SCHEME, evil, AUTHORITY, PATH, token],
            &[
                METHOD,
                SCHEME,
                AUTHORITY,
                PATH,
                (":path", "/smuggled"),
                token,
            ],
            &[METHOD, (":method", "POST"), SCHEME, AUTHORITY, PATH],
            &[METHOD, SCHEME, AUTHORITY, token, PATH],
            &[token, METHOD, SCHEME, AUTHORITY, PATH],
            &[METHOD, SCHEME, AUTHORITY, (":path", ""), token],
            &[SCHEME, AUTHORITY, PATH, token],
            &[METHOD, AUTHORITY, PATH, token],
            &[METHOD, SCHEME, AUTHORITY, PATH, (":status", "200"), token],
            &[METHOD, SCHEME, AUTHORITY, PATH, (":x", "y"), token],
        ];
        all_refused(&rig, &requests).await;
    });
}

#[test]
fn refuses_fields_that_another_version_would_read_differently() {
    with_rig(Behaviour::default(), async |rig| {
        let bearer = format!("Bearer {}", rig.oauth);
        let injected = (":path", "/ HTTP/1.1\r\nhost: evil.test");
        let with = |field| vec![METHOD, SCHEME, AUTHORITY, PATH, field];
        let requests = [
            with(("Authorization", &bearer)),
            with(("connection", "close")),
            with(("transfer-encoding", "chunked")),
            with(("upgrade", "h2c")),
            with(("x", "a\r\nhost: evil.test")),
            with(("x\r\ny", "z")),
            vec![METHOD, SCHEME, AUTHORITY, injected],
        ];
        let requests: Vec<&[Field<'_>]> = requests.iter().map(Vec::as_slice).collect();
        all_refused(&rig, &requests).await;
    });
}

#[test]
fn denies_an_authority_that_differs_from_host_or_sni() {
    with_rig(Behaviour::default(), async |rig| {
        let other = (":authority", "other.bound.test");
        for fields in [
            &[METHOD, SCHEME, AUTHORITY, PATH, ("host", "evil.test")][..],
            &[METHOD, SCHEME, other, PATH, ("host", API)],
            &[METHOD, SCHEME, other, PATH],
            &[
                METHOD,
                SCHEME,
                AUTHORITY,
                PATH,
                ("host", API),
                ("host", API),
            ],
            &[METHOD, SCHEME, (":authority", ""), PATH],
            &[METHOD, SCHEME, PATH],
            &[METHOD, SCHEME, (":authority", "u@api.bound.test"), PATH],
            &[METHOD, (":scheme", "http"), AUTHORITY, PATH],
        ] {
            let answer = asked(&rig, fields).await;
            let refused = answer
                .as_ref()
                .is_none_or(|text| text.contains("authority-mismatch"));
            assert!(refused, "{fields:?}: {answer:?}");
        }
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn refuses_connect_and_extended_connect() {
    with_rig(Behaviour::default(), async |rig| {
        let connect = (":method", "CONNECT");
        for fields in [
            &[connect, (":authority", "api.bound.test:443")][..],
            &[connect, (":authority", "evil.test:443")],
            &[connect, (":protocol", "websocket"), SCHEME, AUTHORITY, PATH],
            &[
                connect,
                (":protocol", "connect-udp"),
                SCHEME,
                AUTHORITY,
                PATH,
            ],
        ] {
            let answer = asked(&rig, fields).await;
            let refused = answer
                .as_ref()
                .is_none_or(|text| text.contains("connect-method"));
            assert!(refused, "{fields:?}: {answer:?}");
        }
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}
