//! What counts as a foreign login, place by place.

use agent_vm_policy::HostPattern;
use agent_vm_secret::Placeholder;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;

use super::*;
use crate::credential::BoundCredential;
use crate::request_head::inspect;

const TOKEN: &str = "sk-agentvmabcdefghijklmnopqrstuvwxyz234567";

fn set(header: &str) -> CredentialSet {
    let hosts = ["api.bound.test", "*.googleapis.com"];
    CredentialSet::new(vec![BoundCredential {
        name: "own".into(),
        placeholder: Placeholder::parse(TOKEN).unwrap(),
        hosts: hosts.map(|host| HostPattern::parse(host).unwrap()).to_vec(),
        header: HeaderRule::parse(header).unwrap(),
    }])
}

fn login_at(host: &str, header: &str, target: &str, headers: &[(&str, &str)]) -> Option<String> {
    let mut request = Request::builder().uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    let (host, set) = (HostName::parse(host).unwrap(), set(header));
    inspect(&head, &host, &set)
        .foreign
        .map(|login| login.to_string())
}

fn login(target: &str, headers: &[(&str, &str)]) -> Option<String> {
    login_at("api.bound.test", "authorization", target, headers)
}

#[test]
fn the_lists_are_sorted() {
    assert!(HEADERS.is_sorted() && QUERY.is_sorted());
}

#[test]
fn a_request_without_a_login_or_with_the_hosts_own_passes() {
    let basic = |pair: String| format!("Basic {}", STANDARD.encode(pair));
    for value in [
        String::new(),
        "Bearer".into(),
        "basic ".into(),
        TOKEN.into(),
        format!("Bearer {TOKEN}"),
        format!("token {TOKEN}"),
        format!("Token token=\"{TOKEN}\""),
        basic(format!("x-access-token:{TOKEN}")),
        basic(format!("somebody@example.org:{TOKEN}")),
        basic(format!("{TOKEN}:")),
        basic(format!("{TOKEN}:x-oauth-basic")),
    ] {
        assert_eq!(login("/", &[("authorization", &value)]), None, "{value}");
    }
    let cookies = "__cf_bm=abc; _cfuvid=def.1; AWSALBCORS=x; cf_chl_rc_i=1";
    let headers = [
        ("cookie", cookies),
        ("x-api-key", ""),
        ("statsig-api-key", "client-x"),
    ];
    assert_eq!(
        login(
            "/repos?key=linux-cache&token_type=x&access_token=",
            &headers
        ),
        None
    );
}

#[test]
fn every_place_of_a_login_is_seen() {
    let stranger = Placeholder::mint("sk-").unwrap().to_string();
    for name in HEADERS {
        for value in ["sk-foreign", "Bearer sk-foreign", &stranger] {
            let told = format!("It is in the header {name}.");
            assert_eq!(login("/", &[(name, value)]), Some(told));
        }
    }
    for name in QUERY {
        let target = format!("/v1?a=b&{}=foreign", name.to_uppercase());
        let told = format!("It is in the query parameter {name}.");
        assert_eq!(login(&target, &[]), Some(told));
    }
    for (target, header, value) in [
        ("/?a=b;access%5Ftoken=x", "x-a", ""),
        ("/", "cookie", "__cf_bm=a; sessionKey=sk-ant-sid01"),
        ("/", "cookie", "user_session=abc"),
        (
            "/",
            "sec-websocket-protocol",
            "realtime, openai-insecure-api-key.sk-foreign",
        ),
    ] {
        assert!(
            login(target, &[(header, value)]).is_some(),
            "{target} {header}"
        );
    }
}

#[test]
fn what_is_beside_the_placeholder_is_foreign() {
    let basic = |pair: String| format!("Basic {}", STANDARD.encode(pair));
    let classic = "0123456789abcdef0123456789abcdef01234567";
    for value in [
        format!("Bearer sk-foreign {TOKEN}"),
        format!("Bearer {TOKEN}, Bearer sk-foreign"),
        format!("token=\"sk-foreign\" {TOKEN}"),
        basic(format!("{classic}:{TOKEN}")),
        basic(format!("{TOKEN}:ghp_foreign")),
        basic(format!("a:b{TOKEN}")),
    ] {
        let told = Some("It is beside the placeholder in the header authorization.".into());
        assert_eq!(login("/", &[("authorization", &value)]), told, "{value}");
    }
}

#[test]
fn a_credential_that_is_a_cookie_has_only_harmless_ones_beside_it() {
    let cookie = |value: String| login_at("api.bound.test", "cookie", "/", &[("cookie", &value)]);
    assert_eq!(cookie(format!("__cf_bm=a; session={TOKEN}; _ga=1")), None);
    assert!(cookie(format!("session={TOKEN}; other=1")).is_some());
    assert!(cookie("session=foreign".into()).is_some());
}

#[test]
fn a_key_in_the_query_is_a_login_where_the_provider_takes_one() {
    let target = "/v1?key=AIzaForeign";
    let google = "storage.googleapis.com";
    assert!(login_at(google, "authorization", target, &[]).is_some());
    assert!(login_at(google, "authorization", "/o?X-Goog-Signature=ab", &[]).is_some());
    assert_eq!(login(target, &[]), None);
}

#[test]
fn nothing_is_foreign_where_no_credential_is_bound() {
    let headers = [("authorization", "Bearer sk-own"), ("cookie", "session=a")];
    assert_eq!(
        login_at("free.test", "authorization", "/?access_token=x", &headers),
        None
    );
}
