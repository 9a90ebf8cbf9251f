//! Host and target of a judged request, written as the protocol toward the upstream has them.

use agent_vm_policy::Transport;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{Uri, Version};
use hyper::body::Body as _;

use crate::body::RequestBody;
use crate::proxy::ProxyServer;
use crate::request_head::canonical_authority;
use crate::upstream::Lease;

/// Puts another path in the place of the target's; the query stays.
pub(crate) fn with_path(head: &mut Parts, path: &str) -> Result<(), http::Error> {
    let query = head.uri.query().map(|query| format!("?{query}"));
    let target = format!("{path}{}", query.unwrap_or_default());
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target)?);
    head.uri = Uri::from_parts(parts)?;
    Ok(())
}

/// Writes host and target in the way the upstream's protocol does, from what was judged.
pub(crate) fn address(
    head: &mut Parts,
    body: &RequestBody,
    transport: Transport,
    lease: &Lease,
) -> Result<(), http::Error> {
    let target = head.uri.path_and_query().cloned();
    let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let named = match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => {
            let host = head.headers.get(header::HOST);
            host.and_then(|host| host.to_str().ok()).unwrap_or("")
        }
    };
    let named = HeaderValue::from_str(&canonical_authority(named))?;
    if lease.is_http2() {
        let scheme = match transport {
            Transport::Tls => Scheme::HTTPS,
            Transport::Plain => Scheme::HTTP,
        };
        head.headers.remove(header::HOST);
        head.uri = Uri::builder()
            .scheme(scheme)
            .authority(named.as_bytes())
            .path_and_query(target)
            .build()?;
        head.version = Version::HTTP_2;
        return Ok(());
    }
    head.headers.insert(header::HOST, named);
    if body.size_hint().exact().is_none() {
        // Said outright, because a GET without it is sent without its body.
        head.headers.insert(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
    }
    join_cookies(&mut head.headers);
    head.uri = Uri::from(target);
    head.version = Version::HTTP_11;
    Ok(())
}

/// Writes the target in absolute form and adds the proxy's login (RFC 9112 §3.2.2).
pub(crate) fn for_proxy(head: &mut Parts, proxy: &ProxyServer) -> Result<(), http::Error> {
    let named = head.headers.get(header::HOST);
    let named = named.map_or(&b""[..], HeaderValue::as_bytes);
    let target = head.uri.path_and_query().cloned();
    head.uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(named)
        .path_and_query(target.unwrap_or_else(|| PathAndQuery::from_static("/")))
        .build()?;
    if let Some(authorization) = proxy.authorization() {
        let mut value = HeaderValue::from_str(authorization.expose())?;
        value.set_sensitive(true);
        head.headers.insert(header::PROXY_AUTHORIZATION, value);
    }
    Ok(())
}

/// HTTP/2 may cut cookies into several fields, HTTP/1.1 has one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::COOKIE).iter();
    if values.by_ref().take(2).count() < 2 {
        return;
    }
    let all: Vec<_> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}
