//! Answers that the egress gives itself. The only place that makes denials.

use std::fmt::Write as _;

use agent_vm_policy::DenyReason;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::body::ReplyBody;

/// Header that holds the reason's code in every answer the egress gives itself.
pub(crate) const DENY_HEADER: HeaderName = HeaderName::from_static("x-agent-vm-deny");

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
pub(crate) fn denial(reason: DenyReason, detail: Option<&str>) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Text(Some(Bytes::from(text(reason, detail)))));
    *response.status_mut() = status(reason);
    let headers = response.headers_mut();
    headers.insert(DENY_HEADER, HeaderValue::from_static(reason.code()));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_403_with_code_and_readable_text() {
        let response = denial(DenyReason::AuthorityMismatch, Some("more"));
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
