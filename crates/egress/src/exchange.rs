//! One request of an intercepted connection: judged, given its credential, sent, answered.
//!
//! The order is what must hold: nothing asks for a secret before the verdict, and nothing is sent before the verdict.

use std::cell::RefCell;
use std::rc::Rc;

use agent_vm_policy::{DenyReason, HostName, RequestFacts, RequestVerdict, Transport};
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::Upgraded;
use thiserror::Error;

use crate::asks::{Asked, Question};
use crate::audit::{Kind, bounded_path};
use crate::body::{ReplyBody, RequestBody, UpstreamBody};
use crate::egress::Shared;
use crate::hop_by_hop::{asks_for_websocket, mark_websocket, strip};
use crate::proxy::ProxyServer;
use crate::record::{Place, RequestRecord};
use crate::request_head::{Attachment, authority, canonical_authority, inspect};
use crate::respond::{Form, denial};
use crate::scrub::{Scrub, answers_with_tokens, covers, is_compressed};
use crate::second_try::{SecondTry, attach};
use crate::token_endpoint;
use crate::upstream::{Lease, NotSent, Upstream, UpstreamError, Wanted};
use crate::usage::{Counted, Tap};

/// What all requests of one connection of the guest share.
pub(crate) struct Exchange {
    pub(crate) shared: Rc<Shared>,
    pub(crate) place: Place,
    /// The hosts that requests may name: the TLS server name, or the resolved names of a plain connection.
    pub(crate) hosts: Vec<HostName>,
    pub(crate) transport: Transport,
    pub(crate) upstream: Rc<Upstream>,
    /// Why the connection that was opened for the flow cannot be used; told to the first request.
    pub(crate) failure: RefCell<Option<UpstreamError>>,
    /// Set when the connection has been upgraded.
    pub(crate) tunnel: RefCell<Option<Tunnel>>,
}

/// The upstream's side of an upgraded connection.
pub(crate) struct Tunnel {
    pub(crate) upstream: Upgraded,
    pub(crate) record: RequestRecord,
    pub(crate) tap: Option<Tap>,
}

/// A judged request with its secrets.
struct Outgoing {
    head: Parts,
    body: RequestBody,
    /// How it can be sent once more, when it carries secrets.
    spare: Option<SecondTry>,
    /// Whether the answer may hold tokens, whatever its length.
    listed: bool,
    /// Whether its answer is a model's.
    counted: Option<Counted>,
}

/// Why a request has no answer.
enum Unsent {
    /// As [`Interrupted`].
    Interrupted,
    Refused(Refusal),
}

impl From<Refusal> for Unsent {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What the guest is told when tokens cannot be looked for.
const COMPRESSED: &str = "It sent a compressed answer where tokens have to be looked for.";

/// A refusal with a sentence for the person.
pub(crate) struct Refusal {
    pub(crate) reason: DenyReason,
    pub(crate) detail: Option<String>,
}

impl From<DenyReason> for Refusal {
    fn from(reason: DenyReason) -> Self {
        Self {
            reason,
            detail: None,
        }
    }
}

/// The upstream closed a connection that was in use before; the guest's connection is closed in the same way, so
/// that the client's own rules for repeating requests apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the upstream closed the connection")]
pub(crate) struct Interrupted;

impl Exchange {
    /// Answers one request.
    pub(crate) async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<ReplyBody>, Interrupted> {
        let (mut head, body) = request.into_parts();
        let place = self
            .place
            .clone()
            .with_request(&head.method, head.uri.path());
        let mut record = RequestRecord::begin(&self.shared, Kind::Request, place);
        record.answer_in(Form::wanted(&head.headers));
        let mut judged = self.judge(&mut head, &mut record);
        if matches!(&judged, Err(refusal) if refusal.reason == DenyReason::Unanswered)
            && self.ask(&head, &record).await == Asked::Answered
        {
            judged = self.judge(&mut head, &mut record);
        }
        let attachments = match judged {
            Ok(attachments) => attachments,
            Err(refusal) => return Ok(refuse(record, &refusal)),
        };
        if self.transport == Transport::Tls
            && self.shared.token_endpoints.answers(&head, &self.hosts)
        {
            return Ok(token_endpoint::answer(&self.shared, &head, body, record).await);
        }
        let host = record.host();
        let listed = host.is_some_and(|host| answers_with_tokens(host, head.uri.path()));
        if listed {
            let identity = HeaderValue::from_static("identity");
            head.headers.insert(header::ACCEPT_ENCODING, identity);
        }
        let used = match attach(&self.shared, &attachments, &mut head).await {
            Ok(used) => used,
            Err(refusal) => return Ok(refuse(record, &refusal)),
        };
        for attachment in &attachments {
            record.attached(attachment.credential);
        }
        let counted = Counted::request(self.shared.usage.get(), record.host(), &mut head);
        let mut body = RequestBody::new(body, Rc::clone(record.traffic())).guarded(&self.shared);
        let spare =
            (!attachments.is_empty()).then(|| SecondTry::new(&head, &mut body, attachments, used));
        let outgoing = Outgoing {
            head,
            body,
            spare,
            listed,
            counted,
        };
        self.forward(outgoing, record).await
    }

    /// Judges the head; gives the places for secrets when it may pass, and has the path that was judged.
    fn judge(
        &self,
        head: &mut Parts,
        record: &mut RequestRecord,
    ) -> Result<Vec<Attachment>, Refusal> {
        if self.shared.audit.is_broken() {
            return Err(DenyReason::AuditUnavailable.into());
        }
        let named = authority(head, self.transport, self.place.port);
        let meant = named.as_ref().filter(|named| self.hosts.contains(named));
        let host = meant
            .or(self.hosts.first())
            .ok_or(DenyReason::AuthorityMismatch)?;
        record.for_host(host);
        let findings = inspect(head, host, &self.shared.credentials);
        let facts = RequestFacts {
            host,
            authority: named.as_ref(),
            port: self.place.port,
            transport: self.transport,
            method: head.method.as_str(),
            target: head.uri.path_and_query().map_or("", PathAndQuery::as_str),
            placeholders: findings.placeholders,
            foreign: findings.foreign(),
        };
        let policy = self.shared.policy();
        let rule = policy.request_rule(&facts);
        let by_rule = rule.as_ref().map(ToString::to_string);
        record.ruled(rule);
        match policy.decide_request(&facts) {
            RequestVerdict::Deny(reason) => {
                let detail = match reason {
                    DenyReason::ForeignCredential => {
                        findings.foreign.map(|login| login.to_string())
                    }
                    DenyReason::Rule => by_rule,
                    _ => None,
                };
                return Err(Refusal { reason, detail });
            }
            RequestVerdict::Allow => {}
        }
        if let Some(path) = policy.path_to_send(host, self.place.port, head.uri.path()) {
            with_path(head, &path).map_err(|_| DenyReason::RequestInvalid)?;
        }
        Ok(findings.attachments)
    }

    /// Asks the person about a request that a rule asks about.
    async fn ask(&self, head: &Parts, record: &RequestRecord) -> Asked {
        let place = record.place();
        let Some(host) = place.host.clone() else {
            return Asked::Unanswered;
        };
        let question = Question {
            host,
            port: place.port,
            request: Some(format!("{} {}", head.method, bounded_path(head.uri.path()))),
            rule: place.rule.as_ref().map(ToString::to_string),
        };
        self.shared.ask(question, place.address).await
    }

    async fn forward(
        &self,
        outgoing: Outgoing,
        mut record: RequestRecord,
    ) -> Result<Response<ReplyBody>, Interrupted> {
        if let Some(error) = self.failure.borrow_mut().take() {
            return Ok(refuse(record, &Refusal::from(&error)));
        }
        let Outgoing {
            head,
            body,
            spare,
            listed,
            counted,
        } = outgoing;
        let websocket = head.version == Version::HTTP_11 && asks_for_websocket(&head);
        let mut sent = self.send(head, body, websocket).await;
        if let (Ok((_, response)), Some(spare)) = (&sent, spare)
            && response.status() == StatusCode::UNAUTHORIZED
            && let Some((head, body)) = spare.again(&self.shared, record.traffic()).await
        {
            drop(sent);
            sent = self.send(head, body, websocket).await;
        }
        let (lease, response) = match sent {
            Ok(sent) => sent,
            Err(Unsent::Interrupted) => {
                record.failed(DenyReason::UpstreamFailed);
                return Err(Interrupted);
            }
            Err(Unsent::Refused(refusal)) => return Ok(refuse(record, &refusal)),
        };
        let forwarder = self.upstream.forwarder();
        if forwarder.is_some() && response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Ok(refuse(record, &DenyReason::ProxyRefused.into()));
        }
        record.answered(response.status());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = self.upgrade(response, (record, counted), websocket);
            return Ok(upgraded.await);
        }
        Ok(self.pass_on(response, (record, lease), (listed, counted)))
    }

    /// Makes the upstream's answer one for the guest, without the tokens that may be in it.
    fn pass_on(
        &self,
        response: Response<Incoming>,
        (record, lease): (RequestRecord, Lease),
        (listed, counted): (bool, Option<Counted>),
    ) -> Response<ReplyBody> {
        let (mut head, body) = response.into_parts();
        self.clean(&mut head);
        // HTTP/3 does not pass the gateway; a client that is told of it would only lose time.
        head.headers.remove(header::ALT_SVC);
        let patterns = self.shared.sent.patterns();
        let mut scrub = None;
        let length = body.size_hint().exact();
        if !patterns.is_empty() && length != Some(0) && covers(&head, length, listed) {
            if is_compressed(&head.headers) {
                let refusal = Refusal {
                    reason: DenyReason::UpstreamFailed,
                    detail: Some(COMPRESSED.to_owned()),
                };
                return refuse(record, &refusal);
            }
            head.headers.remove(header::CONTENT_LENGTH);
            scrub = Some(Scrub::new(patterns.clone()));
        }
        let counted = counted.filter(|_| head.status.is_success());
        let tap = counted.map(|counted| counted.answer(&head.headers));
        let body = UpstreamBody::new(body, record, lease, (patterns, scrub)).counted(tap);
        Response::from_parts(head, ReplyBody::Upstream(Box::new(body)))
    }

    /// Takes out of an answer's head what is for this connection only, and tokens.
    fn clean(&self, head: &mut http::response::Parts) {
        strip(&mut head.headers);
        self.shared.sent.patterns().clean(&mut head.headers);
        // It means nothing to clients (RFC 9112 §4), and may hold anything.
        head.extensions.remove::<hyper::ext::ReasonPhrase>();
        head.version = Version::HTTP_11;
    }

    /// Sends a request and awaits the head of its answer.
    async fn send(
        &self,
        mut head: Parts,
        body: RequestBody,
        websocket: bool,
    ) -> Result<(Lease, Response<Incoming>), Unsent> {
        let wanted = if websocket {
            Wanted::Http1
        } else {
            Wanted::Any
        };
        let lease = self.upstream.lease(wanted).await;
        let mut lease = lease.map_err(|error| Unsent::from(Refusal::from(&error)))?;
        strip(&mut head.headers);
        if websocket {
            mark_websocket(&mut head.headers);
        }
        let addressed = address(&mut head, &body, self.transport, &lease);
        let addressed = addressed.and_then(|()| match self.upstream.forwarder() {
            Some(proxy) => for_proxy(&mut head, proxy),
            None => Ok(()),
        });
        if addressed.is_err() {
            return Err(Refusal::from(DenyReason::RequestInvalid).into());
        }
        match send(&mut lease, Request::from_parts(head, body)).await {
            Ok(response) => Ok((lease, response)),
            Err(error) if lease.reused && error.is_closed() => Err(Unsent::Interrupted),
            Err(error) => Err(Refusal::from(&error).into()),
        }
    }

    /// Passes on the upstream's consent to a WebSocket; the bytes flow when the guest has it.
    async fn upgrade(
        &self,
        mut response: Response<Incoming>,
        (record, counted): (RequestRecord, Option<Counted>),
        websocket: bool,
    ) -> Response<ReplyBody> {
        if !websocket {
            return refuse(record, &DenyReason::UpstreamFailed.into());
        }
        let upstream = match hyper::upgrade::on(&mut response).await {
            Ok(upstream) => upstream,
            Err(source) => {
                return refuse(record, &Refusal::from(&UpstreamError::Http { source }));
            }
        };
        let (mut head, _no_body) = response.into_parts();
        self.clean(&mut head);
        mark_websocket(&mut head.headers);
        let tap = counted.map(|counted| counted.websocket(&head.headers));
        *self.tunnel.borrow_mut() = Some(Tunnel {
            upstream,
            record,
            tap,
        });
        Response::from_parts(head, ReplyBody::Text(None))
    }
}

impl From<&UpstreamError> for Refusal {
    fn from(error: &UpstreamError) -> Self {
        Self {
            reason: error.reason(),
            detail: Some(error.to_string()),
        }
    }
}

/// Sends a request, once more when the connection turns out to be closed and nothing of it was sent.
async fn send(
    lease: &mut Lease,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, UpstreamError> {
    match lease.send(request).await {
        Ok(response) => Ok(response),
        Err(NotSent {
            request: Some(request),
            error,
        }) if lease.reused && error.is_closed() => {
            if !lease.renew().await? {
                return Err(error);
            }
            lease.send(request).await.map_err(|unsent| unsent.error)
        }
        Err(unsent) => Err(unsent.error),
    }
}

/// Records and makes the answer to a request that is not passed on.
pub(crate) fn refuse(mut record: RequestRecord, refusal: &Refusal) -> Response<ReplyBody> {
    match refusal.reason {
        DenyReason::UpstreamCertificate
        | DenyReason::UpstreamFailed
        | DenyReason::ProxyRefused
        | DenyReason::CredentialUnavailable => record.failed(refusal.reason),
        reason => record.denied(reason),
    }
    let response = denial(refusal.reason, refusal.detail.as_deref(), record.form());
    record.answered(response.status());
    response
}

/// Puts another path in the place of the target's; the query stays.
fn with_path(head: &mut Parts, path: &str) -> Result<(), http::Error> {
    let query = head.uri.query().map(|query| format!("?{query}"));
    let target = format!("{path}{}", query.unwrap_or_default());
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target)?);
    head.uri = Uri::from_parts(parts)?;
    Ok(())
}

/// Writes host and target in the way the upstream's protocol does, from what was judged.
fn address(
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
fn for_proxy(head: &mut Parts, proxy: &ProxyServer) -> Result<(), http::Error> {
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
