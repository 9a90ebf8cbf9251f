//! A connection lent to one request, and the request sent over it.

use std::rc::Rc;

use hyper::body::Incoming;
use hyper::{Request, Response};

use super::{Sender, Upstream, UpstreamError};
use crate::body::RequestBody;
use crate::leaf_cache::Offer;

/// Protocols that a request can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Any,
    /// HTTP/1.1, because the connection is to be upgraded.
    Http1,
}

/// A sender that is given back to its [`Upstream`] on drop.
pub(crate) struct Lease {
    pub(super) upstream: Rc<Upstream>,
    pub(super) sender: Option<Sender>,
    /// Whether it carried a request before.
    pub(crate) reused: bool,
}

impl Lease {
    /// Whether the connection speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.sender, Some(Sender::Http2(_)))
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, NotSent> {
        let answer = match &mut self.sender {
            Some(Sender::Http1(sender)) => sender.try_send_request(request).await,
            Some(Sender::Http2(shared)) => shared.sender.try_send_request(request).await,
            None => return Err(NotSent::from(UpstreamError::TimedOut)),
        };
        self.upstream.answered.set(answer.is_ok());
        answer.map_err(|mut error| NotSent {
            request: error.take_message(),
            error: UpstreamError::Http {
                source: error.into_error(),
            },
        })
    }

    /// Lets nobody use the connection after this request.
    pub(crate) fn discard(&mut self) {
        self.sender = None;
    }

    /// Turns to a connection that was not used before. Answers whether it speaks the same protocol.
    pub(crate) async fn renew(&mut self) -> Result<bool, UpstreamError> {
        let was_http2 = self.is_http2();
        self.sender = None;
        let offer = if was_http2 {
            Offer::Http2
        } else {
            Offer::Http1
        };
        self.sender = Some(self.upstream.dial(offer).await?);
        self.reused = false;
        Ok(self.is_http2() == was_http2)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(sender) = self.sender.take().filter(|sender| !sender.is_closed()) else {
            return;
        };
        let mut idle = self.upstream.idle.borrow_mut();
        if idle.as_ref().is_none_or(Sender::is_closed) {
            *idle = Some(sender);
        }
    }
}

/// A request without an answer.
pub(crate) struct NotSent {
    /// Set when nothing of it was sent.
    pub(crate) request: Option<Request<RequestBody>>,
    pub(crate) error: UpstreamError,
}

impl From<UpstreamError> for NotSent {
    fn from(error: UpstreamError) -> Self {
        Self {
            request: None,
            error,
        }
    }
}
