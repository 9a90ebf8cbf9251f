//! `Expect: 100-continue` (RFC 9110 §10.1.1), end to end.
//!
//! Theory of operation. A client that asks before it sends a body is to hear the upstream's word: the head goes out at
//! once, with the expectation, and the body is held. Held means that nobody asks the guest's connection for it, and only
//! when somebody does, hyper writes `100 Continue` to the guest. Three things end it:
//!
//! - the upstream's `100 Continue`: the guest is told to go on;
//! - [`PATIENCE`]: an upstream need not know the expectation, and would wait for the body as the guest for the word;
//! - a final answer, such as 401, 413 or 417: it is the guest's answer, and nobody wants the body any more. The guest
//!   is told that the connection closes, because what it sends next could be that body or another request.
//!
//! Between HTTP/2 and HTTP/2 the expectation is passed on and nothing is held: a final answer overtakes the body, but
//! the guest does not hear of a 100 (hyper's HTTP/2 can neither tell nor send one) and sends after its own patience.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header;
use http::request::Parts;
use http::{Request, StatusCode, Version};
use hyper::body::{Body as _, Incoming, SizeHint};
use tokio::sync::Notify;

/// How long an upstream may think about a head before the guest is told to send the body: as long as curl waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

const CONTINUE: &[u8] = b"100-continue";

/// Whether the guest waits with the body until it is told to go on. An expectation that cannot be is taken out: of a
/// request without a body, and of HTTP/1.0.
pub(crate) fn waits(head: &mut Parts, body: &Incoming) -> bool {
    if !head.headers.contains_key(header::EXPECT) {
        return false;
    }
    if body.is_end_stream() || head.version < Version::HTTP_11 {
        head.headers.remove(header::EXPECT);
        return false;
    }
    let mut expected = head.headers.get_all(header::EXPECT).iter();
    head.version == Version::HTTP_11
        && expected.any(|value| value.as_bytes().eq_ignore_ascii_case(CONTINUE))
}

/// A body that the guest has not been asked for, and who may let it go.
pub(crate) struct Held {
    body: RefCell<Option<Incoming>>,
    told: Arc<Notify>,
}

impl Held {
    /// Lets the body go at the upstream's 100; at once, when the connection does not tell of it.
    pub(crate) fn listen<B>(&self, request: &mut Request<B>, is_http2: bool) {
        let told = Arc::clone(&self.told);
        if is_http2 {
            told.notify_one();
            return;
        }
        hyper::ext::on_informational(request, move |interim| {
            if interim.status() == StatusCode::CONTINUE {
                told.notify_one();
            }
        });
    }

    /// The body, unless the guest was asked for it. It will not go where it was to go.
    pub(crate) fn take(&self) -> Option<Incoming> {
        self.body.borrow_mut().take()
    }
}

/// The end of a held body that waits for the word.
pub(crate) struct Waiting {
    held: Rc<Held>,
    word: Pin<Box<dyn Future<Output = ()>>>,
}

impl Waiting {
    /// Holds a body. The time begins when the body is first wanted.
    pub(crate) fn new(body: Incoming) -> Self {
        let told = Arc::new(Notify::new());
        let word = Arc::clone(&told);
        Self {
            held: Rc::new(Held {
                body: RefCell::new(Some(body)),
                told,
            }),
            word: Box::pin(async move {
                let _given_or_over = tokio::time::timeout(PATIENCE, word.notified()).await;
            }),
        }
    }

    /// Who may let it go.
    pub(crate) fn held(&self) -> &Rc<Held> {
        &self.held
    }

    /// The body when it may go; never, when it was taken away.
    pub(crate) fn poll_go(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        if self.held.body.borrow().is_none() {
            return Poll::Pending;
        }
        ready!(self.word.as_mut().poll(cx));
        self.held.take().map_or(Poll::Pending, Poll::Ready)
    }

    /// What is known of its size.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let body = self.held.body.borrow();
        body.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}
