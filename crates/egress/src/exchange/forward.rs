//! The part after the verdict: a request sent, once more when a secret was rejected, and its answer made one for the guest.

use agent_vm_policy::DenyReason;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use super::decoded::decoded;
use super::{Exchange, Interrupted, Outgoing, Tunnel};
use crate::addressed::{address, for_proxy};
use crate::body::{ReplyBody, RequestBody, UpstreamBody};
use crate::hop_by_hop::{asks_for_websocket, mark_websocket, strip};
use crate::record::RequestRecord;
use crate::refusal::{Refusal, refuse};
use crate::scrub::{Scrub, covers, is_compressed};
use crate::upstream::{Lease, NotSent, UpstreamError, Wanted};
use crate::usage::Counted;

/// A request that was answered.
struct Sent {
    lease: Lease,
    response: Response<Incoming>,
    /// The body, when the upstream answered before the guest was asked for it.
    unasked: Option<Incoming>,
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

impl Exchange {
    /// Sends a request that was allowed, and answers with what comes back.
    pub(super) async fn forward(
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
        if let (Ok(first), Some(spare)) = (&mut sent, spare)
            && first.response.status() == StatusCode::UNAUTHORIZED
        {
            let traffic = record.traffic();
            let again = spare.again(&self.shared, traffic, &mut first.unasked);
            if let Some((head, body)) = again.await {
                drop(sent);
                sent = self.send(head, body, websocket).await;
            }
        }
        let (lease, response, closes) = match sent {
            Ok(sent) => (sent.lease, sent.response, sent.unasked.is_some()),
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
        let passed = self.pass_on(response, (record, lease), (listed, counted));
        let mut reply = passed.await;
        if closes {
            let close = HeaderValue::from_static("close");
            reply.headers_mut().insert(header::CONNECTION, close);
        }
        Ok(reply)
    }

    /// Makes the upstream's answer one for the guest, without the tokens that may be in it.
    async fn pass_on(
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
                return decoded(head, (body, lease), record, patterns).await;
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
    ) -> Result<Sent, Unsent> {
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
        let held = body.holder();
        let mut request = Request::from_parts(head, body);
        if let Some(held) = &held {
            held.listen(&mut request, lease.is_http2());
        }
        match send(&mut lease, request).await {
            Ok(response) => {
                let unasked = held.and_then(|held| held.take());
                if unasked.is_some() {
                    // The connection still waits for the body.
                    lease.discard();
                }
                Ok(Sent {
                    lease,
                    response,
                    unasked,
                })
            }
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
