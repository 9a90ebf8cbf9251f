//! Bodies, passed through frame by frame with their backpressure: counted, never looked at.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::record::RequestRecord;
use crate::splice::Traffic;
use crate::upstream::Lease;

/// The body of an answer to the guest.
pub(crate) enum ReplyBody {
    /// Made here.
    Text(Option<Bytes>),
    /// From upstream.
    Upstream(Box<UpstreamBody>),
}

/// A body from upstream with what lasts as long as it: the record is written and the connection given back when the
/// body has ended or the guest does not want the rest.
pub(crate) struct UpstreamBody {
    pub(crate) body: Incoming,
    pub(crate) record: RequestRecord,
    pub(crate) lease: Option<Lease>,
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Upstream(upstream) => {
                let frame = ready!(Pin::new(&mut upstream.body).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => count(&upstream.record.traffic().down, frame),
                    Some(Err(_)) => {}
                    None => drop(upstream.lease.take()),
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Upstream(upstream) => upstream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Self::Upstream(upstream) => upstream.body.size_hint(),
        }
    }
}

/// The body of a request, counted.
pub(crate) struct RequestBody {
    body: Incoming,
    traffic: Rc<Traffic>,
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, traffic: Rc<Traffic>) -> Self {
        Self { body, traffic }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            count(&self.traffic.up, frame);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn count(bytes: &std::cell::Cell<u64>, frame: &Frame<Bytes>) {
    if let Some(data) = frame.data_ref() {
        bytes.set(bytes.get() + data.len() as u64);
    }
}
