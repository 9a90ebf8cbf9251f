//! Logins that are renewed: what is answered at a token endpoint, and requests that are repeated with a newer token.

use std::cell::RefCell;
use std::rc::Rc;

use agent_vm_egress::{
    IssuerClient, IssuerError, IssuerRequest, LocalBoxFuture, ProxySettings, ResolveOverride,
    SecretUnavailable, TokenAnswerer, TokenEndpoint, TokenEndpoints, UpstreamRoots,
};
use agent_vm_policy::HostName;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::Value;

use crate::rig::{API, LOGIN, OAUTH_SECRET, Rig, outcome, with_rig};
use crate::upstream::{Behaviour, NEWER_SECRET, Upstream};

const PATH: &str = "/v1/oauth/token";
const CLIENT: &str = "9d1c250a";

/// Answers with a fixed document, or not at all.
#[derive(Default)]
struct Answerer {
    document: Option<&'static str>,
    asked: RefCell<Vec<String>>,
}

impl TokenAnswerer for Answerer {
    fn renewed<'a>(
        &'a self,
        credential: &'a str,
    ) -> LocalBoxFuture<'a, Result<Vec<u8>, SecretUnavailable>> {
        self.asked.borrow_mut().push(credential.to_owned());
        let answer = self.document.map(|text| text.as_bytes().to_vec());
        let answer = answer.ok_or_else(|| SecretUnavailable {
            credential: credential.to_owned(),
        });
        Box::pin(std::future::ready(answer))
    }
}

fn with_login(rig: &Rig, document: Option<&'static str>) -> (Rig, Rc<Answerer>) {
    let answerer = Rc::new(Answerer {
        document,
        ..Answerer::default()
    });
    let endpoint = TokenEndpoint {
        credential: "refresh".into(),
        host: HostName::parse(LOGIN).unwrap(),
        path: PATH.into(),
        client_id: Some(CLIENT.into()),
    };
    let endpoints = TokenEndpoints::new(vec![endpoint], answerer.clone());
    (rig.with_token_endpoints(endpoints), answerer)
}

async fn post(rig: &Rig, path: &str, kind: &str, body: String) -> Response<Incoming> {
    let request = Request::post(path)
        .header("host", LOGIN)
        .header("content-type", kind)
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    rig.http1(LOGIN).await.send_request(request).await.unwrap()
}

fn json_grant(rig: &Rig) -> String {
    format!(
        r#"{{"grant_type":"refresh_token","refresh_token":"{}","client_id":"{CLIENT}","scope":"a b"}}"#,
        rig.refresh
    )
}

#[test]
fn a_refresh_grant_is_answered_here_in_json_and_as_a_form() {
    with_rig(Behaviour::default(), |rig| async move {
        let (rig, answerer) = with_login(&rig, Some(r#"{"access_token":"p"}"#));
        let form = format!(
            "grant_type=refresh_token&refresh_token={}&client_id={CLIENT}",
            rig.refresh
        );
        for (kind, body) in [
            ("application/json", json_grant(&rig)),
            ("application/x-www-form-urlencoded", form),
        ] {
            let response = post(&rig, PATH, kind, body).await;
            assert_eq!(response.headers()["content-type"], "application/json");
            assert_eq!(response.headers()["cache-control"], "no-store");
            let (status, reason, text) = outcome(response).await;
            assert_eq!((status, reason), (200, None));
            assert_eq!(text, r#"{"access_token":"p"}"#);
            let line = rig.last_audit();
            assert_eq!(line["verdict"], "allow");
            assert_eq!(line["credential"], "refresh");
            assert_eq!(line["path"], PATH);
            assert_eq!(line["status"], 200);
        }
        assert_eq!(*answerer.asked.borrow(), ["refresh", "refresh"]);
        assert!(
            rig.upstream.seen.borrow().is_empty(),
            "nothing goes upstream"
        );
    });
}

#[test]
fn a_login_that_cannot_be_renewed_is_503_and_never_400() {
    with_rig(Behaviour::default(), |rig| async move {
        let (rig, _) = with_login(&rig, None);
        let body = json_grant(&rig);
        let response = post(&rig, PATH, "application/json", body).await;
        let (status, reason, text) = outcome(response).await;
        assert_eq!(status, 503);
        assert_eq!(reason.as_deref(), Some("credential-unavailable"));
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            document,
            serde_json::json!({"error": "temporarily_unavailable"})
        );
        assert_eq!(rig.last_audit()["verdict"], "failed");
    });
}

#[test]
fn other_grants_foreign_tokens_and_other_clients_are_refused() {
    with_rig(Behaviour::default(), |rig| async move {
        let (rig, answerer) = with_login(&rig, Some("{}"));
        let (good, mine) = (json_grant(&rig), rig.refresh.to_string());
        let foreign = agent_vm_secret::Placeholder::mint("sk-ant-ort01-").unwrap();
        let large = format!("{}{}", good, " ".repeat(70_000));
        for (body, reason) in [
            (
                good.replace(
                    "refresh_token\",\"refresh",
                    "authorization_code\",\"refresh",
                ),
                "token-grant",
            ),
            (
                good.replace(&mine, "sk-ant-ort01-the-attackers-own"),
                "token-grant",
            ),
            (good.replace(&mine, foreign.as_str()), "token-grant"),
            (good.replace(&mine, rig.oauth.as_str()), "token-grant"),
            (good.replace(CLIENT, "another"), "token-grant"),
            (good.replace("client_id", "client"), "token-grant"),
            ("[]".to_owned(), "request-invalid"),
            (large, "request-invalid"),
        ] {
            let response = post(&rig, PATH, "application/json", body.clone()).await;
            let (status, denied, _) = outcome(response).await;
            assert_eq!(
                (status, denied.as_deref()),
                (403, Some(reason)),
                "{body:.200}"
            );
            assert_eq!(rig.last_audit()["reason"], reason);
        }
        assert!(answerer.asked.borrow().is_empty());
        assert!(
            rig.upstream.seen.borrow().is_empty(),
            "nothing goes upstream"
        );
    });
}

#[test]
fn only_the_exact_path_is_answered_here() {
    with_rig(Behaviour::default(), |rig| async move {
        let (rig, answerer) = with_login(&rig, Some("{}"));
        for path in [
            "/v1/oauth/token/revoke",
            "/v1/oauth/tokens",
            "/revoke",
            "/v1/oauth",
        ] {
            let response = post(&rig, path, "application/json", json_grant(&rig)).await;
            assert_eq!(response.status(), 200);
            assert_eq!(
                response.collect().await.unwrap().to_bytes(),
                "hello",
                "{path}"
            );
        }
        assert_eq!(rig.upstream.seen.borrow().len(), 4);
        assert!(answerer.asked.borrow().is_empty());
        let get = Request::get(PATH)
            .header("host", LOGIN)
            .body(Full::default());
        let response = rig.http1(LOGIN).await.send_request(get.unwrap()).await;
        assert_eq!(response.unwrap().status(), 200);
        assert_eq!(rig.upstream.seen.borrow().len(), 5);
    });
}

async fn call(rig: &Rig, path: &str, body: Vec<u8>) -> Response<Incoming> {
    let request = Request::post(path)
        .header("host", API)
        .header("authorization", format!("Bearer {}", rig.oauth))
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    rig.http1(API).await.send_request(request).await.unwrap()
}

#[test]
fn a_rejected_request_is_repeated_once_with_the_newer_token() {
    with_rig(Behaviour::default(), |rig| async move {
        *rig.secrets.newer.borrow_mut() = Some(NEWER_SECRET);
        let response = call(&rig, "/renewed", b"prompt".to_vec()).await;
        let (status, _, text) = outcome(response).await;
        assert_eq!((status, text.as_str()), (200, "hello"));
        let seen = rig.upstream.seen.borrow().clone();
        let sent: Vec<_> = seen
            .iter()
            .map(|seen| (seen.header("authorization"), &seen.body))
            .collect();
        let (old, newer) = (
            format!("Bearer {OAUTH_SECRET}"),
            format!("Bearer {NEWER_SECRET}"),
        );
        let body = Bytes::from_static(b"prompt");
        assert_eq!(sent, [(Some(&*old), &body), (Some(&*newer), &body)]);
        assert_eq!(*rig.secrets.rejected.borrow(), ["oauth"]);
        assert_eq!(rig.last_audit()["status"], 200);
    });
}

#[test]
fn a_rejection_goes_to_the_guest_when_there_is_no_newer_token() {
    with_rig(Behaviour::default(), |rig| async move {
        let response = call(&rig, "/renewed", b"prompt".to_vec()).await;
        let (status, reason, text) = outcome(response).await;
        assert_eq!((status, reason, text.as_str()), (401, None, "expired"));
        assert_eq!(rig.upstream.seen.borrow().len(), 1);
    });
}

#[test]
fn a_large_request_is_not_repeated_but_the_guests_own_repetition_gets_the_newer_token() {
    with_rig(Behaviour::default(), |rig| async move {
        *rig.secrets.newer.borrow_mut() = Some(NEWER_SECRET);
        let large = vec![b'x'; 1024 * 1024 + 1];
        let response = call(&rig, "/renewed", large.clone()).await;
        assert_eq!(outcome(response).await.0, 401);
        assert_eq!(rig.upstream.seen.borrow().len(), 1);
        assert_eq!(*rig.secrets.rejected.borrow(), ["oauth"]);
        let response = call(&rig, "/renewed", large).await;
        assert_eq!(outcome(response).await.0, 200);
    });
}

#[test]
fn a_rejection_is_followed_by_at_most_one_repetition() {
    with_rig(Behaviour::default(), |rig| async move {
        *rig.secrets.newer.borrow_mut() = Some("sk-real-but-not-the-newest");
        let response = call(&rig, "/renewed", Vec::new()).await;
        assert_eq!(outcome(response).await.0, 401);
        assert_eq!(rig.upstream.seen.borrow().len(), 2);
        assert_eq!(*rig.secrets.rejected.borrow(), ["oauth"]);
    });
}

#[test]
fn a_401_to_a_request_without_a_credential_is_nobodys_business() {
    with_rig(Behaviour::default(), |rig| async move {
        let request = Request::get("/renewed").header("host", API);
        let request = request.body(Full::default()).unwrap();
        let response = rig.http1(API).await.send_request(request).await.unwrap();
        assert_eq!(response.status(), 401);
        assert!(rig.secrets.rejected.borrow().is_empty());
    });
}

#[test]
fn the_launchers_own_request_goes_over_verified_tls() {
    with_rig(Behaviour::default(), |rig| async move {
        let request = || IssuerRequest {
            host: HostName::parse(LOGIN).unwrap(),
            path: PATH.into(),
            content_type: "application/json",
            body: b"{}".to_vec(),
        };
        let roots = UpstreamRoots {
            extra_pem: vec![rig.upstream.ca_pem.clone()],
        };
        let client = |target| {
            let to = ResolveOverride {
                host: HostName::parse(LOGIN).unwrap(),
                port: 443,
                target,
            };
            IssuerClient::new(&roots, vec![to], ProxySettings::default()).unwrap()
        };
        let answer = client(rig.upstream.address).ask(request()).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, &b"hello"[..]));
        let seen = rig.upstream.only_request();
        assert_eq!(seen.target, PATH);
        assert_eq!(seen.header("content-type"), Some("application/json"));
        let stranger = Upstream::start(Behaviour::default()).await;
        let refused = client(stranger.address).ask(request()).await;
        assert!(matches!(refused, Err(IssuerError::Connect { .. })));
        assert!(stranger.seen.borrow().is_empty());
    });
}
