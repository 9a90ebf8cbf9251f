//! Answers that the egress gives itself. The only place that makes denials.

use std::fmt::Write as _;

use agent_vm_policy::DenyReason;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::body::ReplyBody;

/// Header that holds the reason's code in every answer the egress gives itself.
pub(crate) const DENY_HEADER: HeaderName = HeaderName::from_static("x-agent-vm-deny");

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Sentences.
    Text,
    /// An object with `message`, as GitHub's answers have it, and `error`, as those of model providers have it.
    Json,
}

impl Form {
    /// What the client says it reads: JSON when it names that.
    pub(crate) fn wanted(headers: &HeaderMap) -> Self {
        let names_json = |value: &HeaderValue| {
            let mut types = value.as_bytes().split(|byte| *byte == b',');
            types.any(|one| {
                let one = one.split(|byte| *byte == b';').next().unwrap_or_default();
                let one = one.trim_ascii().to_ascii_lowercase();
                one == b"application/json" || one.ends_with(b"+json")
            })
        };
        if headers.get_all(ACCEPT).iter().any(names_json) {
            Self::Json
        } else {
            Self::Text
        }
    }
}

/// The status for a reason: 403 for a denial, 502 and 503 for what is nobody's decision.
pub(crate) fn status(reason: DenyReason) -> StatusCode {
    match reason {
        DenyReason::UpstreamCertificate | DenyReason::UpstreamFailed | DenyReason::ProxyRefused => {
            StatusCode::BAD_GATEWAY
        }
        DenyReason::CredentialUnavailable | DenyReason::AuditUnavailable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::FORBIDDEN,
    }
}

/// An answer to one request; `detail` is a sentence that says more, without secrets.
pub(crate) fn denial(reason: DenyReason, detail: Option<&str>, form: Form) -> Response<ReplyBody> {
    let (body, content_type) = match form {
        Form::Text => (text(reason, detail), "text/plain; charset=utf-8"),
        Form::Json => (as_json(reason, detail), "application/json"),
    };
    let mut response = Response::new(ReplyBody::Text(Some(Bytes::from(body))));
    *response.status_mut() = status(reason);
    let headers = response.headers_mut();
    headers.insert(DENY_HEADER, HeaderValue::from_static(reason.code()));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The answer of a token endpoint whose login cannot be renewed at the moment (RFC 6749 §5.2, with the code of §4.1.2.1):
/// clients keep their login and try again. Never `invalid_grant`, at which they forget it.
pub(crate) fn temporarily_unavailable() -> Response<ReplyBody> {
    let mut response = json(Bytes::from_static(
        b"{\"error\":\"temporarily_unavailable\"}",
    ));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let code = DenyReason::CredentialUnavailable.code();
    let headers = response.headers_mut();
    headers.insert(DENY_HEADER, HeaderValue::from_static(code));
    response
}

/// A JSON document that is not to be stored (RFC 6749 §5.1).
pub(crate) fn json(document: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Text(Some(document)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The same as bytes of HTTP/1.1, for a connection that is not parsed as HTTP.
pub(crate) fn raw_denial(reason: DenyReason) -> Vec<u8> {
    let (status, body) = (status(reason), text(reason, None));
    format!(
        "HTTP/1.1 {status}\r\n{DENY_HEADER}: {}\r\ncontent-type: text/plain; charset=utf-8\r\n\
         cache-control: no-store\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        reason.code(),
        body.len(),
    )
    .into_bytes()
}

fn text(reason: DenyReason, detail: Option<&str>) -> String {
    let mut text = format!("agent-vm: {reason} ({})\n", reason.code());
    if let Some(detail) = detail {
        writeln!(text, "{detail}").expect("writing to a String does not fail");
    }
    text
}

fn as_json(reason: DenyReason, detail: Option<&str>) -> String {
    let message = text(reason, detail);
    let message = message.trim_end();
    let error = serde_json::json!({
        "type": "agent_vm_denied",
        "code": reason.code(),
        "message": message,
    });
    format!(
        "{}\n",
        serde_json::json!({"message": message, "error": error})
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_403_with_code_and_readable_text() {
        let response = denial(DenyReason::AuthorityMismatch, Some("more"), Form::Text);
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers()[DENY_HEADER], "authority-mismatch");
        let ReplyBody::Text(Some(body)) = response.into_body() else {
            panic!("a denial has a text");
        };
        let text = "agent-vm: the request names another host than the TLS connection \
                    (authority-mismatch)\nmore\n";
        assert_eq!(body, text);
    }

    #[test]
    fn a_client_that_reads_json_gets_json() {
        for (accept, form) in [
            (&["application/json"][..], Form::Json),
            (&["text/html, Application/JSON;q=0.9"], Form::Json),
            (&["text/plain", "application/vnd.github+json"], Form::Json),
            (&["text/event-stream, */*"], Form::Text),
            (&[], Form::Text),
        ] {
            let accept = accept
                .iter()
                .map(|value| (ACCEPT, HeaderValue::from_static(value)));
            assert_eq!(Form::wanted(&accept.collect()), form);
        }
        let response = denial(DenyReason::Rule, Some("more"), Form::Json);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let ReplyBody::Text(Some(body)) = response.into_body() else {
            panic!("a denial has a text");
        };
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let message = "agent-vm: a rule denies this destination (rule)\nmore";
        assert_eq!(
            (&body["message"], &body["error"]["message"]),
            (&message.into(), &message.into())
        );
        assert_eq!(body["error"]["code"], "rule");
    }

    #[test]
    fn what_nobody_decided_is_no_403() {
        assert_eq!(
            status(DenyReason::UpstreamCertificate),
            StatusCode::BAD_GATEWAY
        );
        assert_eq!(
            status(DenyReason::CredentialUnavailable),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }

    #[test]
    fn a_raw_denial_has_the_length_it_says() {
        let raw = String::from_utf8(raw_denial(DenyReason::PlaceholderInClear)).unwrap();
        let (head, body) = raw.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 403 Forbidden\r\nx-agent-vm-deny: placeholder-in-clear")
        );
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
    }
}
