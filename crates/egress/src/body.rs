//! Bodies, passed through frame by frame with their backpressure: counted, and looked at only where `scrub.rs` says so.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::egress::Shared;
use crate::expect::{Held, Waiting};
use crate::foreign::strip_logins;
use crate::record::RequestRecord;
use crate::scrub::{Patterns, Scrub};
use crate::second_try::KeptBody;
use crate::splice::Traffic;
use crate::upstream::Lease;
use crate::usage::Tap;

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
    body: Incoming,
    record: RequestRecord,
    lease: Option<Lease>,
    /// What must not be in trailers.
    patterns: Patterns,
    /// Set when the body is searched.
    scrub: Option<Scrub>,
    /// Trailers that wait for the last data.
    trailers: Option<HeaderMap>,
    /// Counts what a model used.
    tap: Option<Tap>,
}

impl UpstreamBody {
    pub(crate) fn new(
        body: Incoming,
        record: RequestRecord,
        lease: Lease,
        (patterns, scrub): (Patterns, Option<Scrub>),
    ) -> Self {
        Self {
            body,
            record,
            lease: Some(lease),
            patterns,
            scrub,
            trailers: None,
            tap: None,
        }
    }

    /// The same, of a model's answer.
    pub(crate) fn counted(mut self, tap: Option<Tap>) -> Self {
        self.tap = tap;
        self
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        loop {
            if let Some(trailers) = self.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    self.lease = None;
                    let last = self.scrub.as_mut().map(Scrub::end).unwrap_or_default();
                    return Poll::Ready((!last.is_empty()).then(|| Ok(Frame::data(last))));
                }
            };
            count(&self.record.traffic().down, &frame);
            if let (Some(tap), Some(data)) = (&mut self.tap, frame.data_ref()) {
                tap.push(data);
            }
            let data = match frame.into_data() {
                Ok(data) => match &mut self.scrub {
                    Some(scrub) => scrub.push(data),
                    None => return Poll::Ready(Some(Ok(Frame::data(data)))),
                },
                Err(frame) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    self.patterns.clean(&mut trailers);
                    self.trailers = Some(trailers);
                    self.scrub.as_mut().map(Scrub::end).unwrap_or_default()
                }
            };
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let searched = self.scrub.as_ref().is_none_or(Scrub::is_done);
        searched && self.trailers.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.scrub {
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
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
            Self::Upstream(upstream) => upstream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Upstream(upstream) => upstream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Self::Upstream(upstream) => upstream.size_hint(),
        }
    }
}

/// The body of a request, counted.
pub(crate) struct RequestBody {
    source: BodySource,
    traffic: Rc<Traffic>,
    /// Where a copy is kept, for a request that may be repeated.
    kept: Option<Rc<KeptBody>>,
    /// What may not be in trailers.
    guard: Option<Rc<Shared>>,
}

/// Where a request's body comes from.
enum BodySource {
    /// The guest.
    Guest(Incoming),
    /// The guest, when it is told to go on.
    Waiting(Waiting),
    /// Kept or made here.
    Here(Option<Bytes>),
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, traffic: Rc<Traffic>) -> Self {
        Self {
            source: BodySource::Guest(body),
            traffic,
            kept: None,
            guard: None,
        }
    }

    /// A body that the guest sends when it is told to go on.
    pub(crate) fn held(body: Incoming, traffic: Rc<Traffic>) -> Self {
        Self {
            source: BodySource::Waiting(Waiting::new(body)),
            traffic,
            kept: None,
            guard: None,
        }
    }

    /// Who may let the body go, when it is held.
    pub(crate) fn holder(&self) -> Option<Rc<Held>> {
        match &self.source {
            BodySource::Waiting(waiting) => Some(Rc::clone(waiting.held())),
            BodySource::Guest(_) | BodySource::Here(_) => None,
        }
    }

    /// A body that is known.
    pub(crate) fn of_bytes(bytes: Bytes, traffic: Rc<Traffic>) -> Self {
        Self {
            source: BodySource::Here((!bytes.is_empty()).then_some(bytes)),
            traffic,
            kept: None,
            guard: None,
        }
    }

    /// The same, without logins and placeholders in its trailers.
    pub(crate) fn guarded(mut self, shared: &Rc<Shared>) -> Self {
        self.guard = Some(Rc::clone(shared));
        self
    }

    /// Keeps a copy of what passes from here on, if it is small.
    pub(crate) fn keep(&mut self) -> Rc<KeptBody> {
        let kept = Rc::new(KeptBody::new(&self.size_hint(), self.is_end_stream()));
        self.kept = Some(Rc::clone(&kept));
        kept
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let BodySource::Waiting(waiting) = &mut self.source {
            self.source = BodySource::Guest(ready!(waiting.poll_go(cx)));
        }
        let frame = match &mut self.source {
            BodySource::Guest(body) => ready!(Pin::new(body).poll_frame(cx)),
            BodySource::Waiting(_) => return Poll::Pending,
            BodySource::Here(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
        };
        let frame = frame.map(|frame| frame.map(|frame| guarded(frame, self.guard.as_deref())));
        if let Some(Ok(frame)) = &frame {
            count(&self.traffic.up, frame);
        }
        if let Some(kept) = &self.kept {
            kept.passed(frame.as_ref(), self.is_end_stream());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            BodySource::Guest(body) => body.is_end_stream(),
            BodySource::Waiting(_) => false,
            BodySource::Here(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Guest(body) => body.size_hint(),
            BodySource::Waiting(waiting) => waiting.size_hint(),
            BodySource::Here(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
        }
    }
}

/// A frame without what may not be in trailers.
fn guarded(frame: Frame<Bytes>, guard: Option<&Shared>) -> Frame<Bytes> {
    let Some(shared) = guard else { return frame };
    match frame.into_trailers() {
        Ok(mut trailers) => {
            strip_logins(&mut trailers, &shared.credentials);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

fn count(bytes: &std::cell::Cell<u64>, frame: &Frame<Bytes>) {
    if let Some(data) = frame.data_ref() {
        bytes.set(bytes.get() + data.len() as u64);
    }
}
