//! Tokens are found however they are written and cut, and nothing else changes.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use proptest::prelude::*;

use super::*;

const TOKEN: &str = "sk-real/token+value==0123456789";
const STANDS: &str = "sk-agentvmabcdefghijklmnopqrstuvwxyz234567";

fn patterns_of(token: &str, slot: &Slot) -> Patterns {
    let sent = SentSecrets::default();
    let (secret, placeholder) = (
        Secret::new(token).unwrap(),
        Placeholder::parse(STANDS).unwrap(),
    );
    sent.note((0, &placeholder), &secret, slot);
    sent.patterns()
}

fn patterns() -> Patterns {
    let (before, after) = (Vec::new(), Vec::new());
    patterns_of(TOKEN, &Slot::Plain { before, after })
}

fn scrubbed(patterns: &Patterns, text: &[u8], piece: usize) -> Vec<u8> {
    let mut scrub = Scrub::new(patterns.clone());
    let mut clean = Vec::new();
    for piece in text.chunks(piece) {
        clean.extend_from_slice(&scrub.push(Bytes::copy_from_slice(piece)));
    }
    clean.extend_from_slice(&scrub.end());
    clean
}

#[test]
fn every_way_to_write_a_token_becomes_its_placeholder() {
    let patterns = patterns();
    let percent: String = TOKEN
        .bytes()
        .map(|b| match b {
            b'/' | b'+' | b'=' => format!("%{b:02X}"),
            _ => char::from(b).to_string(),
        })
        .collect();
    for written in [
        TOKEN,
        &percent,
        &percent.to_lowercase(),
        &TOKEN.replace('/', "\\/"),
    ] {
        for piece in [1, 3, 7, 1000] {
            let text = format!("a {written} b{written}");
            let expected = format!("a {STANDS} b{STANDS}");
            assert_eq!(
                scrubbed(&patterns, text.as_bytes(), piece),
                expected.as_bytes()
            );
        }
    }
    let hex = |text: &str| text.bytes().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(
        scrubbed(&patterns, hex(TOKEN).as_bytes(), 5),
        hex(STANDS).as_bytes()
    );
}

#[test]
fn a_token_in_base64_is_gone_at_every_alignment() {
    let patterns = patterns();
    for before in ["", "u", "u:", "user:", "user1:"] {
        for engine in [&STANDARD, &URL_SAFE] {
            let text = engine.encode(format!("{before}{TOKEN}!"));
            let clean = scrubbed(&patterns, text.as_bytes(), 4);
            let clean = String::from_utf8(clean).unwrap();
            let core = engine.encode(&TOKEN[3..TOKEN.len() - 3]);
            assert!(clean != text && !clean.contains(&core), "{clean}");
        }
    }
}

#[test]
fn basic_is_put_back_as_it_was_sent() {
    let slot = Slot::Basic {
        scheme: b"Basic".to_vec(),
        before: b"git:".to_vec(),
        after: Vec::new(),
    };
    let patterns = patterns_of(TOKEN, &slot);
    let text = format!("Basic {}", STANDARD.encode(format!("git:{TOKEN}")));
    let expected = format!("Basic {}", STANDARD.encode(format!("git:{STANDS}")));
    assert_eq!(scrubbed(&patterns, text.as_bytes(), 9), expected.as_bytes());
}

#[test]
fn header_fields_and_names_hold_no_token() {
    let token = "sk-real-token-0123456789";
    let (before, after) = (Vec::new(), Vec::new());
    let patterns = patterns_of(token, &Slot::Plain { before, after });
    let mut headers = HeaderMap::new();
    let name = HeaderName::from_bytes(format!("x-{token}").as_bytes()).unwrap();
    headers.insert(name, HeaderValue::from_static("1"));
    let location = format!("https://evil.test/?t={token}&u={token}");
    headers.insert("location", location.parse().unwrap());
    headers.append("set-cookie", "a=b".parse().unwrap());
    headers.append("set-cookie", format!("t={token}").parse().unwrap());
    patterns.clean(&mut headers);
    assert_eq!(
        headers["location"],
        format!("https://evil.test/?t={STANDS}&u={STANDS}")
    );
    let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=b", format!("t={STANDS}").as_str()]);
    assert!(!format!("{headers:?}").contains(token));
    assert_eq!(headers.keys_len(), 2);
}

#[test]
fn what_cannot_begin_a_token_does_not_wait() {
    let mut scrub = Scrub::new(patterns());
    for text in ["data: 1\n\n", "data: sk-re", "maining\n", "s", "k"] {
        let sure = scrub.push(Bytes::from(text));
        let waits = text.len() - sure.len().min(text.len());
        assert!(waits <= 5, "{text:?} waits");
        assert!(text.starts_with("data: sk") || text.len() == 1 || scrub.is_done());
    }
    assert_eq!(scrub.end(), "sk");
}

#[test]
fn tokens_too_short_to_be_told_apart_are_not_looked_for() {
    let (before, after) = (Vec::new(), Vec::new());
    assert!(patterns_of("secret7", &Slot::Plain { before, after }).is_empty());
}

#[test]
fn the_oldest_of_many_tokens_is_forgotten() {
    let sent = SentSecrets::default();
    let placeholder = Placeholder::parse(STANDS).unwrap();
    for number in 0..100 {
        let secret = Secret::new(format!("token-number-{number:04}")).unwrap();
        let (before, after) = (Vec::new(), Vec::new());
        sent.note((0, &placeholder), &secret, &Slot::Plain { before, after });
    }
    let patterns = sent.patterns();
    assert!(patterns.first(b"token-number-0099", 0).is_some());
    assert!(patterns.first(b"token-number-0001", 0).is_none());
    assert_eq!(sent.sent.borrow().len(), MAX_REMEMBERED);
}

#[test]
fn short_texts_and_token_paths_are_searched_and_nothing_else() {
    let head = |content_type: &str, coding: &str| {
        let response = http::Response::builder()
            .header("content-type", content_type)
            .header("content-encoding", coding);
        response.body(()).unwrap().into_parts().0
    };
    for (content_type, coding, length, searched) in [
        ("application/json", "identity", Some(100), true),
        ("Text/Plain; charset=utf-8", "identity", Some(1), true),
        ("application/problem+json", "identity", Some(65_536), true),
        ("application/json", "identity", Some(65_537), false),
        ("application/json", "identity", None, false),
        ("application/json", "gzip", Some(100), false),
        ("application/octet-stream", "identity", Some(100), false),
    ] {
        let head = head(content_type, coding);
        assert_eq!(
            covers(&head, length, false),
            searched,
            "{content_type} {coding}"
        );
        assert!(covers(&head, length, true));
    }
    let host = |name| HostName::parse(name).unwrap();
    assert!(answers_with_tokens(
        &host("auth.openai.com"),
        "/oauth/token"
    ));
    assert!(!answers_with_tokens(
        &host("auth.openai.com"),
        "/oauth/token/x"
    ));
    assert!(!answers_with_tokens(
        &host("api.openai.com"),
        "/oauth/token"
    ));
}

proptest! {
    #[test]
    fn cutting_never_changes_what_comes_out(
        parts in prop::collection::vec(prop_oneof![
            Just(TOKEN.to_owned()),
            Just(TOKEN[..TOKEN.len() - 1].to_owned()),
            Just(TOKEN[..2].to_owned()),
            "[ -~]{0,20}",
        ], 0..8),
        piece in 1_usize..50,
    ) {
        let text = parts.concat();
        let patterns = patterns();
        let whole = scrubbed(&patterns, text.as_bytes(), text.len().max(1));
        prop_assert_eq!(&scrubbed(&patterns, text.as_bytes(), piece), &whole);
        let clean = String::from_utf8(whole).unwrap();
        prop_assert!(!clean.contains(TOKEN));
        if !text.contains(TOKEN) && patterns.first(text.as_bytes(), 0).is_none() {
            prop_assert_eq!(clean, text);
        }
    }
}
