//! Header fields that belong to one connection only (RFC 9110 §7.6.1) and the WebSocket upgrade (RFC 6455 §4.1).

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Fields that are never passed on.
const SINGLE_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    HTTP2_SETTINGS,
];

/// Removes what belongs to this connection: the fixed fields and what `Connection` names. `Content-Length` goes when
/// the body was chunked, because the two together are ambiguous.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let trailers = has_token(headers, &header::TE, b"trailers");
    for name in named.iter().chain(&SINGLE_HOP) {
        if *name != header::CONTENT_LENGTH && *name != header::HOST {
            headers.remove(name);
        }
    }
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether a request asks to become a WebSocket.
pub(crate) fn asks_for_websocket(head: &Parts) -> bool {
    head.method == Method::GET
        && has_token(&head.headers, &header::CONNECTION, b"upgrade")
        && head
            .headers
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
}

/// Puts back what [`strip`] took from a WebSocket's request or answer.
pub(crate) fn mark_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, WEBSOCKET);
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &[u8]) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn removes_what_belongs_to_the_connection() {
        let mut fields = headers(&[
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("te", "gzip, trailers"),
            ("x-kept", "1"),
            ("host", "a.test"),
        ]);
        strip(&mut fields);
        let expected = headers(&[("te", "trailers"), ("x-kept", "1"), ("host", "a.test")]);
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_chunked_body_has_no_length() {
        let mut fields = headers(&[("transfer-encoding", "chunked"), ("content-length", "5")]);
        strip(&mut fields);
        assert!(fields.is_empty());
    }

    #[test]
    fn framing_cannot_be_removed_by_naming_it() {
        let mut fields = headers(&[
            ("connection", "content-length, host"),
            ("content-length", "5"),
            ("host", "a.test"),
        ]);
        strip(&mut fields);
        assert_eq!(
            fields,
            headers(&[("content-length", "5"), ("host", "a.test")])
        );
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        for (connection, upgrade, method, asks) in [
            ("Upgrade", "websocket", Method::GET, true),
            ("keep-alive, upgrade", "WebSocket", Method::GET, true),
            ("close", "websocket", Method::GET, false),
            ("Upgrade", "h2c", Method::GET, false),
            ("Upgrade", "websocket", Method::POST, false),
        ] {
            let (mut head, ()) = http::Request::new(()).into_parts();
            head.method = method;
            head.headers = headers(&[("connection", connection), ("upgrade", upgrade)]);
            assert_eq!(asks_for_websocket(&head), asks);
        }
    }
}
