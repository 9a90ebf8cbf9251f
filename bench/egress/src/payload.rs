//! Bodies for HTTP/2, and what both protocols send: a text, so many bytes, events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Interval;

/// Bytes that are sent at once.
pub(crate) const PART: &[u8] = &[b'x'; 64 * 1024];
/// Events of one answer.
pub(crate) const EVENTS: usize = 10;
/// Between two events; the first comes at once.
pub(crate) const EVENT_PAUSE: Duration = Duration::from_millis(10);

/// A body.
pub(crate) enum Payload {
    Text(Option<Bytes>),
    Bytes(usize),
    Events { left: usize, pause: Interval },
}

impl Payload {
    pub(crate) fn empty() -> Self {
        Self::Text(None)
    }

    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self::Text(Some(text.into()))
    }

    pub(crate) fn events() -> Self {
        Self::Events {
            left: EVENTS,
            pause: tokio::time::interval(EVENT_PAUSE),
        }
    }
}

/// An event that tells when it was made.
pub(crate) fn event() -> String {
    format!("data: {}\n\n", now_ns())
}

/// Takes whole events from the beginning of what was received; gives what they told.
pub(crate) fn take_events(received: &mut Vec<u8>) -> Vec<u64> {
    let mut told = Vec::new();
    while let Some(at) = find(received, b"data: ").map(|at| at + 6) {
        let Some(len) = find(&received[at..], b"\n\n") else {
            break;
        };
        told.extend(String::from_utf8_lossy(&received[at..at + len]).parse::<u64>());
        received.drain(..at + len + 2);
    }
    told
}

pub(crate) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// The clock that all processes share.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match self.get_mut() {
            Self::Text(text) => text.take(),
            Self::Bytes(0) | Self::Events { left: 0, .. } => None,
            Self::Bytes(left) => {
                let part = PART.len().min(*left);
                *left -= part;
                Some(Bytes::from_static(&PART[..part]))
            }
            Self::Events { left, pause } => {
                let _now = ready!(pause.poll_tick(cx));
                *left -= 1;
                Some(Bytes::from(event()))
            }
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(
            self,
            Self::Text(None) | Self::Bytes(0) | Self::Events { left: 0, .. }
        )
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Self::Bytes(left) => SizeHint::with_exact(*left as u64),
            Self::Events { .. } => SizeHint::default(),
        }
    }
}
