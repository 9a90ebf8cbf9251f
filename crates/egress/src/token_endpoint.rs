//! Where a provider renews logins (RFC 6749 §6): the guest's request is answered here, from what the launcher does
//! itself, and never reaches the provider.
//!
//! Theory of operation. A POST to exactly the host and path of an endpoint is read (JSON or form, at most
//! [`MAX_GRANT_BYTES`]) after the policy allowed it. It must be a refresh grant with the placeholder of a refresh token
//! of this session and the client id the endpoint belongs to; then the launcher is asked, and answers with placeholders
//! when the login is good, else 503. Every other grant is refused: a login that begins in the guest would end there, and
//! a foreign refresh token is somebody else's. Other paths of the host, such as the one that revokes, are ordinary
//! requests. Each request has its line in the audit log.

use std::rc::Rc;
use std::time::Duration;

use agent_vm_policy::{DenyReason, HostName, HostPattern};
use agent_vm_secret::Placeholder;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;

use crate::body::ReplyBody;
use crate::credential::{LocalBoxFuture, SecretUnavailable};
use crate::egress::Shared;
use crate::record::RequestRecord;
use crate::refusal::{Refusal, refuse};
use crate::respond::{json, temporarily_unavailable};

mod issuer;

pub use issuer::{
    ISSUER_TIMEOUT, IssuerAnswer, IssuerClient, IssuerCodingError, IssuerError, IssuerFailure,
    IssuerRequest, MAX_ISSUER_ANSWER_BYTES,
};

/// The largest request that is read, in bytes.
const MAX_GRANT_BYTES: usize = 64 * 1024;
/// How long the guest may take to send it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Where one login is renewed. Several logins may share host and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEndpoint {
    /// Name of the credential that is the refresh token.
    pub credential: String,
    /// The only host.
    pub host: HostName,
    /// The only path, as it is sent.
    pub path: String,
    /// The client the login belongs to (RFC 6749 §2.2); public. `None` when the guest is not given it: any is taken.
    pub client_id: Option<String>,
}

/// Who renews logins. `launch` adapts the host's credentials to it.
pub trait TokenAnswerer {
    /// The document that answers a refresh grant for the refresh token with this name: placeholders and the time the
    /// access token really has left. May wait for a bounded time while the login is renewed.
    ///
    /// Resolves to an error when the login cannot be renewed at the moment; the guest is told 503.
    fn renewed<'a>(
        &'a self,
        credential: &'a str,
    ) -> LocalBoxFuture<'a, Result<Vec<u8>, SecretUnavailable>>;
}

/// The endpoints of one VM.
#[derive(Clone, Default)]
pub struct TokenEndpoints {
    endpoints: Vec<TokenEndpoint>,
    answerer: Option<Rc<dyn TokenAnswerer>>,
}

impl TokenEndpoints {
    /// These, answered by `answerer`.
    #[must_use]
    pub fn new(endpoints: Vec<TokenEndpoint>, answerer: Rc<dyn TokenAnswerer>) -> Self {
        Self {
            endpoints,
            answerer: Some(answerer),
        }
    }

    /// Their hosts.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = HostPattern> + '_ {
        let hosts = self.endpoints.iter().map(|endpoint| endpoint.host.clone());
        hosts.map(HostPattern::Exact)
    }

    /// Whether a request to one of `hosts` is answered here.
    pub(crate) fn answers(&self, head: &Parts, hosts: &[HostName]) -> bool {
        head.method == Method::POST && self.at(head, hosts).next().is_some()
    }

    fn at<'a>(
        &'a self,
        head: &'a Parts,
        hosts: &'a [HostName],
    ) -> impl Iterator<Item = &'a TokenEndpoint> {
        let path = head.uri.path();
        let here = move |known: &&TokenEndpoint| known.path == path && hosts.contains(&known.host);
        self.endpoints.iter().filter(here)
    }
}

/// Answers a judged request to an endpoint.
pub(crate) async fn answer(
    shared: &Shared,
    head: &Parts,
    body: Incoming,
    mut record: RequestRecord,
) -> Response<ReplyBody> {
    let grant = match read(head, body, &record).await {
        Ok(grant) => grant,
        Err(reason) => return refuse(record, &reason.into()),
    };
    let hosts: Vec<_> = record.host().cloned().into_iter().collect();
    let meant = shared.token_endpoints.at(head, &hosts);
    let (endpoint, index) = match grant.for_one_of(meant, shared) {
        Ok(found) => found,
        Err(refusal) => return refuse(record, &refusal),
    };
    record.attached(index);
    let renewed = match &shared.token_endpoints.answerer {
        Some(answerer) => answerer.renewed(&endpoint.credential).await.ok(),
        None => None,
    };
    let response = match renewed {
        Some(document) => json(Bytes::from(document)),
        None => {
            record.failed(DenyReason::CredentialUnavailable);
            temporarily_unavailable()
        }
    };
    record.answered(response.status());
    if response.status() == StatusCode::OK {
        let sent = hyper::body::Body::size_hint(response.body()).exact();
        record.traffic().down.set(sent.unwrap_or_default());
    }
    response
}

async fn read(head: &Parts, body: Incoming, record: &RequestRecord) -> Result<Grant, DenyReason> {
    let collected = Limited::new(body, MAX_GRANT_BYTES).collect();
    let collected = tokio::time::timeout(BODY_TIMEOUT, collected).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => return Err(DenyReason::RequestInvalid),
    };
    record.traffic().up.set(body.len() as u64);
    let text = |name| {
        head.headers
            .get(name)
            .map_or(&b""[..], |value: &http::HeaderValue| value.as_bytes())
    };
    if !text(CONTENT_ENCODING).is_empty() {
        return Err(DenyReason::RequestInvalid);
    }
    Grant::parse(text(CONTENT_TYPE), &body).ok_or(DenyReason::RequestInvalid)
}

/// What is looked at of a token request (RFC 6749 §6); other fields do not matter.
#[derive(Deserialize)]
struct Grant {
    grant_type: String,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    client_id: Option<String>,
}

impl Grant {
    /// Reads JSON or a form, as the content type says; `None` when it is neither, or gives a field twice.
    fn parse(content_type: &[u8], body: &[u8]) -> Option<Self> {
        let kind = content_type
            .split(|byte| *byte == b';')
            .next()?
            .trim_ascii();
        if kind.eq_ignore_ascii_case(b"application/json") {
            return serde_json::from_slice(body).ok();
        }
        if !kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            return None;
        }
        let (mut grant_type, mut refresh_token, mut client_id) = (None, None, None);
        for (name, value) in form_urlencoded::parse(body) {
            let field = match &*name {
                "grant_type" => &mut grant_type,
                "refresh_token" => &mut refresh_token,
                "client_id" => &mut client_id,
                _ => continue,
            };
            if field.replace(value.into_owned()).is_some() {
                return None;
            }
        }
        Some(Self {
            grant_type: grant_type?,
            refresh_token,
            client_id,
        })
    }

    /// The endpoint whose login is to be renewed, and the index of its refresh token.
    fn for_one_of<'a>(
        &self,
        mut endpoints: impl Iterator<Item = &'a TokenEndpoint>,
        shared: &Shared,
    ) -> Result<(&'a TokenEndpoint, usize), Refusal> {
        let refused = |detail: &str| Refusal {
            reason: DenyReason::TokenGrant,
            detail: Some(detail.to_owned()),
        };
        if self.grant_type != "refresh_token" {
            return Err(refused("the request is not a refresh grant"));
        }
        let given = self.refresh_token.as_deref().unwrap_or_default();
        let given =
            Placeholder::parse(given).map_err(|_| refused("the refresh token is foreign"))?;
        let found = endpoints.find_map(|endpoint| {
            let index = shared.credentials.position(&endpoint.credential)?;
            let known = shared.credentials.get(index);
            (known.placeholder == given).then_some((endpoint, index))
        });
        let (endpoint, index) = found.ok_or_else(|| refused("the refresh token is foreign"))?;
        if endpoint.client_id.is_some() && self.client_id != endpoint.client_id {
            return Err(refused("the login belongs to another client"));
        }
        Ok((endpoint, index))
    }
}

/// Body of the fuzz target for what a guest sends to a token endpoint.
pub fn fuzz_token_request(bytes: &[u8]) {
    for kind in [
        &b"application/json"[..],
        b"application/x-www-form-urlencoded",
    ] {
        let _ = Grant::parse(kind, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &[u8] = b"application/json; charset=utf-8";
    const FORM: &[u8] = b"application/x-www-form-urlencoded";

    fn parsed(kind: &[u8], body: &str) -> Option<(String, Option<String>, Option<String>)> {
        let grant = Grant::parse(kind, body.as_bytes())?;
        Some((grant.grant_type, grant.refresh_token, grant.client_id))
    }

    #[test]
    fn json_and_form_say_the_same() {
        let expected = Some((
            "refresh_token".to_owned(),
            Some("a+b/c d".to_owned()),
            Some("app_X".to_owned()),
        ));
        let json = r#"{"client_id":"app_X","grant_type":"refresh_token","refresh_token":"a+b/c d","refresh_reason":"scheduled"}"#;
        assert_eq!(parsed(JSON, json), expected);
        let form = "grant_type=refresh_token&refresh_token=a%2Bb%2Fc+d&client_id=app%5FX&x=1";
        assert_eq!(parsed(FORM, form), expected);
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways() {
        for (kind, body) in [
            (
                JSON,
                r#"{"grant_type":"refresh_token","grant_type":"authorization_code"}"#,
            ),
            (JSON, r#"{"grant_type":["refresh_token"]}"#),
            (JSON, r#"[]"#),
            (JSON, "grant_type=refresh_token"),
            (
                FORM,
                "grant_type=refresh_token&grant_type=authorization_code",
            ),
            (FORM, "grant_type=a&client_id=x&client%5Fid=y"),
            (FORM, "refresh_token=a"),
            (b"text/plain", "grant_type=refresh_token"),
            (b"", r#"{"grant_type":"refresh_token"}"#),
        ] {
            assert_eq!(parsed(kind, body), None, "{body}");
        }
    }

    #[test]
    fn fuzz_body_takes_any_bytes() {
        for bytes in [
            &b""[..],
            b"\xff",
            b"[[[[",
            b"%zz=%&&=",
            b"{\"grant_type\":\"\"}",
        ] {
            fuzz_token_request(bytes);
        }
    }
}
