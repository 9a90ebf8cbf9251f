//! What a fake provider answers: whole documents, and streams of events in frames of their own.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use serde_json::Value;

/// An answer.
pub(crate) type Reply = Response<Frames>;

/// A body whose pieces are known: one piece is sent with its length, several as a stream.
#[derive(Debug, Default)]
pub(crate) struct Frames(VecDeque<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.len() {
            0 => SizeHint::with_exact(0),
            1 => SizeHint::with_exact(self.0[0].len() as u64),
            _ => SizeHint::default(),
        }
    }
}

/// Bytes of one kind.
pub(crate) fn bytes(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Frames([body.into()].into()));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// A JSON document.
pub(crate) fn json(status: StatusCode, document: &Value) -> Reply {
    bytes(status, "application/json", document.to_string())
}

/// A JSON document with status 200.
pub(crate) fn ok(document: &Value) -> Reply {
    json(StatusCode::OK, document)
}

/// What is not there.
pub(crate) fn not_found() -> Reply {
    let document =
        serde_json::json!({"error": {"type": "not_found_error", "message": "Not Found"}});
    json(StatusCode::NOT_FOUND, &document)
}

/// Events (WHATWG HTML, server-sent events): each with its name, if it has one, in a frame of its own.
pub(crate) fn events<'a>(events: impl IntoIterator<Item = (Option<&'a str>, String)>) -> Reply {
    let frames = events.into_iter().map(|(name, data)| {
        let name = name.map_or_else(String::new, |name| format!("event: {name}\n"));
        Bytes::from(format!("{name}data: {data}\n\n"))
    });
    let mut reply = Response::new(Frames(frames.collect()));
    reply.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    reply
}

/// Adds a header.
pub(crate) fn with(mut reply: Reply, name: &'static str, value: &'static str) -> Reply {
    reply
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
    reply
}
