//! Where placeholders are found, which host is meant, and that no exchange leaves one behind.

use agent_vm_policy::HostPattern;
use agent_vm_secret::Placeholder;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Request;
use proptest::prelude::*;

use super::*;
use crate::credential::{BoundCredential, HeaderRule};

const OAUTH: &str = "sk-agentvmabcdefghijklmnopqrstuvwxyz234567";
const API_KEY: &str = "key-agentvm234567abcdefghijklmnopqrstuvwxyz";
const OTHER: &str = "gho_agentvmzyxwvutsrqponmlkjihgfedcba765432";

fn credential(text: &str, host: &str, header: &str) -> BoundCredential {
    BoundCredential {
        name: text[..3].to_owned(),
        placeholder: Placeholder::parse(text).unwrap(),
        hosts: vec![HostPattern::parse(host).unwrap()],
        header: HeaderRule::parse(header).unwrap(),
    }
}

fn set() -> CredentialSet {
    CredentialSet::new(vec![
        credential(OAUTH, "api.bound.test", "authorization"),
        credential(API_KEY, "api.bound.test", "x-api-key"),
        credential(OTHER, "other.bound.test", "authorization"),
    ])
}

fn bound() -> HostName {
    HostName::parse("api.bound.test").unwrap()
}

fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn placeholders(target: &str, headers: &[(&str, &str)]) -> PlaceholderUse {
    inspect(&head(target, headers), &bound(), &set()).placeholders
}

#[test]
fn finds_each_credential_in_its_own_header() {
    let bearer = format!("Bearer {OAUTH}");
    let both = [("authorization", bearer.as_str()), ("x-api-key", API_KEY)];
    let findings = inspect(&head("/", &both), &bound(), &set());
    assert_eq!(findings.placeholders, PlaceholderUse::InItsHeader);
    let named: Vec<_> = findings
        .attachments
        .iter()
        .map(|a| (a.credential, a.header.as_str()))
        .collect();
    assert_eq!(named, [(0, "authorization"), (1, "x-api-key")]);
}

#[test]
fn a_head_without_placeholders_attaches_nothing() {
    let findings = inspect(
        &head("/a?b=c", &[("authorization", "Bearer x")]),
        &bound(),
        &set(),
    );
    assert_eq!(findings.placeholders, PlaceholderUse::None);
    assert!(findings.attachments.is_empty());
}

#[test]
fn finds_misplaced_ones_in_every_part_and_encoding() {
    let percent: String = OAUTH.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let (standard, url_safe) = (STANDARD.encode(OAUTH), URL_SAFE_NO_PAD.encode(OAUTH));
    let prefixed = format!("a{standard}");
    let in_json = STANDARD.encode(format!("{{\"token\":\"{OAUTH}\"}}"));
    let percent_of_base64 = standard.replace('=', "%3D").replace('c', "%63");
    let basic = format!("Basic {}", STANDARD.encode(format!("u:{OAUTH}")));
    let tail = &OAUTH[3..];
    for text in [
        OAUTH,
        &percent,
        &standard,
        &url_safe,
        &prefixed,
        &in_json,
        &percent_of_base64,
        tail,
    ] {
        for target in [format!("/{text}/x"), format!("/?q={text}&r=1")] {
            assert_eq!(
                placeholders(&target, &[]),
                PlaceholderUse::Elsewhere,
                "{target}"
            );
        }
        let cookie = format!("a=b; s={text}");
        assert_eq!(
            placeholders("/", &[("cookie", &cookie)]),
            PlaceholderUse::Elsewhere,
            "{text}"
        );
    }
    assert_eq!(
        placeholders("/", &[("proxy-authorization", &basic)]),
        PlaceholderUse::Elsewhere
    );
    assert_eq!(placeholders("/", &[(tail, "x")]), PlaceholderUse::Elsewhere);
    assert_eq!(
        placeholders("/", &[("x-api-key", &basic)]),
        PlaceholderUse::Elsewhere
    );
}

#[test]
fn a_credential_of_another_host_is_told_apart() {
    let bearer = format!("Bearer {OTHER}");
    assert_eq!(
        placeholders("/", &[("authorization", &bearer)]),
        PlaceholderUse::OtherHost
    );
}

#[test]
fn a_right_place_does_not_excuse_a_wrong_one() {
    let bearer = format!("Bearer {OAUTH}");
    let sent = [("authorization", bearer.as_str()), ("x-copy", OAUTH)];
    assert_eq!(placeholders("/", &sent), PlaceholderUse::Elsewhere);
    let twice = [
        ("authorization", bearer.as_str()),
        ("authorization", "Bearer x"),
    ];
    assert_eq!(placeholders("/", &twice), PlaceholderUse::Elsewhere);
    let beside = format!("Bearer {OAUTH} {OTHER}");
    assert_eq!(
        placeholders("/", &[("authorization", &beside)]),
        PlaceholderUse::Elsewhere
    );
}

#[test]
fn the_method_is_searched() {
    let mut head = head("/", &[]);
    head.method = http::Method::from_bytes(OAUTH.as_bytes()).unwrap();
    let findings = inspect(&head, &bound(), &set());
    assert_eq!(findings.placeholders, PlaceholderUse::Elsewhere);
}

#[test]
fn the_authority_is_the_one_host_that_all_parts_name() {
    let named = |target: &str, hosts: &[(&str, &str)]| {
        authority(&head(target, hosts), Transport::Tls, 443).map(|host| host.to_string())
    };
    let api = Some("api.bound.test".to_owned());
    assert_eq!(named("/", &[("host", "api.bound.test")]), api);
    assert_eq!(named("/", &[("host", "API.bound.test:443")]), api);
    assert_eq!(named("https://api.bound.test/", &[]), api);
    assert_eq!(
        named("https://api.bound.test/", &[("host", "api.bound.test")]),
        api
    );
    for (target, hosts) in [
        ("/", &[][..]),
        ("/", &[("host", "")]),
        ("/", &[("host", "api.bound.test:8443")]),
        ("/", &[("host", "api.bound.test:")]),
        ("/", &[("host", "api.bound.test:+443")]),
        ("/", &[("host", "user@api.bound.test")]),
        ("/", &[("host", "api.bound.test, evil.test")]),
        ("/", &[("host", "127.0.0.1")]),
        (
            "/",
            &[("host", "api.bound.test"), ("host", "api.bound.test")],
        ),
        ("https://evil.test/", &[("host", "api.bound.test")]),
        ("https://u:p@api.bound.test/", &[]),
        ("http://api.bound.test/", &[]),
    ] {
        assert_eq!(named(target, hosts), None, "{target} {hosts:?}");
    }
}

#[test]
fn plain_connections_have_the_plain_scheme() {
    let request = head("http://api.bound.test/", &[]);
    assert_eq!(authority(&request, Transport::Plain, 80), Some(bound()));
    let request = head("https://api.bound.test/", &[]);
    assert_eq!(authority(&request, Transport::Plain, 80), None);
}

#[test]
fn the_corpus_passes_the_fuzz_body() {
    let text = "fuzz-agentvmabcdefghijklmnopqrstuvwxyz234567";
    let basic = STANDARD.encode(format!("u:{text}"));
    for data in [
        format!("/\nauthorization:Bearer {text}"),
        format!("/\nauthorization:Basic {basic}"),
        format!("/{text}?{text}\nauthorization:Basic {basic}\nhost:api.bound.test"),
        format!("https://a:b@c/%\nhost:%%%\n{text}:{text}"),
    ] {
        for end in 0..data.len() {
            fuzz_request_head(&data.as_bytes()[..end]);
        }
        fuzz_request_head(data.as_bytes());
    }
}

proptest! {
    #[test]
    fn a_placeholder_is_found_anywhere_in_a_header(before in "[ -~]{0,40}", after in "[ -~]{0,40}") {
        let value = format!("{before}{OAUTH}{after}");
        prop_assert_ne!(placeholders("/", &[("x-other", &value)]), PlaceholderUse::None);
        let encoded = STANDARD.encode(&value);
        prop_assert_ne!(placeholders("/", &[("x-other", &encoded)]), PlaceholderUse::None);
    }

    #[test]
    fn heads_of_any_bytes_never_panic(
        data in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
    ) {
        let text = b"\nauthorization:Bearer fuzz-agentvmabcdefghijklmnopqrstuvwxyz234567\n";
        let mut data = data;
        let at = at.index(data.len() + 1);
        data.splice(at..at, text.iter().copied());
        fuzz_request_head(&data);
    }
}

#[test]
fn inputs_that_fuzzing_found_are_tried_again() {
    agent_vm_test_support::fuzz_corpus::replay("request_head", fuzz_request_head);
}
