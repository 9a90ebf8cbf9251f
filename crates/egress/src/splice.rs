//! Copies bytes both ways between guest and upstream, each direction with its own end and backpressure.
//!
//! A direction holds bytes only while its receiver takes none, so an idle flow costs no buffer: reads go through one
//! scratch buffer of the thread. The end of one direction is passed on (half-close); an error ends both.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use agent_vm_secret::{PlaceholderScanner, StreamScanner};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at once, and the most that waits for a receiver in one direction.
const CHUNK_BYTES: usize = 64 * 1024;
/// How much of what a guest sends in clear is searched for placeholders.
pub(crate) const SCANNED_BYTES: usize = 64 * 1024;
/// Reads before other tasks get their turn.
const READS_PER_TURN: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK_BYTES]);
}

/// Bytes passed so far; kept outside the copying future, so that they are known however it ends.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) up: Cell<u64>,
    pub(crate) down: Cell<u64>,
}

/// A byte stream of either side of a flow.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Bytes that were read before the copy began, by where they go.
#[derive(Debug, Default)]
pub(crate) struct Early {
    pub(crate) to_upstream: Vec<u8>,
    pub(crate) to_guest: Vec<u8>,
}

/// How a copy ended.
#[derive(Debug)]
pub(crate) enum SpliceEnd {
    /// Both directions came to their end.
    Finished,
    /// A side broke off.
    Broken,
    /// The guest was about to send a placeholder in clear; the chunk that completes it was not passed on.
    Placeholder,
}

/// Copies until both directions have ended. With a scanner, the beginning of what the guest sends is searched.
pub(crate) async fn splice(
    guest: &mut impl Duplex,
    upstream: &mut impl Duplex,
    early: Early,
    traffic: &Rc<Traffic>,
    scanner: Option<&PlaceholderScanner>,
) -> SpliceEnd {
    let mut guard = scanner.map(|scanner| Guard {
        stream: scanner.stream(),
        left: SCANNED_BYTES,
    });
    if let Some(guard) = &mut guard
        && guard.finds(&early.to_upstream)
    {
        return SpliceEnd::Placeholder;
    }
    let mut up = Direction::new(early.to_upstream, &traffic.up, guard);
    let mut down = Direction::new(early.to_guest, &traffic.down, None);
    let ended = poll_fn(|cx| {
        let sent = up.poll_copy(cx, guest, upstream)?;
        let received = down.poll_copy(cx, upstream, guest)?;
        if sent.is_ready() && received.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    });
    match ended.await {
        Ok(()) => SpliceEnd::Finished,
        Err(Break::Io(error)) => {
            tracing::debug!(%error, "a flow broke off");
            SpliceEnd::Broken
        }
        Err(Break::Placeholder) => SpliceEnd::Placeholder,
    }
}

enum Break {
    Io(io::Error),
    Placeholder,
}

impl From<io::Error> for Break {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Searches the first [`SCANNED_BYTES`] of a stream.
struct Guard<'a> {
    stream: StreamScanner<'a>,
    left: usize,
}

impl Guard<'_> {
    fn finds(&mut self, bytes: &[u8]) -> bool {
        let part = &bytes[..bytes.len().min(self.left)];
        self.left -= part.len();
        !part.is_empty() && self.stream.push(part).is_some()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Copying,
    Closing,
    Ended,
}

/// One direction of a copy.
struct Direction<'a> {
    waiting: Vec<u8>,
    sent: usize,
    stage: Stage,
    unflushed: bool,
    bytes: &'a Cell<u64>,
    guard: Option<Guard<'a>>,
}

impl<'a> Direction<'a> {
    fn new(waiting: Vec<u8>, bytes: &'a Cell<u64>, guard: Option<Guard<'a>>) -> Self {
        Self {
            waiting,
            sent: 0,
            stage: Stage::Copying,
            unflushed: false,
            bytes,
            guard,
        }
    }

    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Duplex,
        to: &mut impl Duplex,
    ) -> Poll<Result<(), Break>> {
        for _ in 0..READS_PER_TURN {
            ready!(self.poll_send_waiting(cx, to))?;
            match self.stage {
                Stage::Copying => ready!(self.poll_pass_on(cx, from, to))?,
                Stage::Closing => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.stage = Stage::Ended;
                }
                Stage::Ended => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and sends what was read as far as the receiver takes it.
    fn poll_pass_on(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Duplex,
        to: &mut impl Duplex,
    ) -> Poll<Result<(), Break>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            if Pin::new(from).poll_read(cx, &mut buffer)?.is_pending() {
                return self.poll_flush(cx, to);
            }
            let chunk = buffer.filled();
            if chunk.is_empty() {
                self.stage = Stage::Closing;
                return Poll::Ready(Ok(()));
            }
            if let Some(guard) = &mut self.guard
                && guard.finds(chunk)
            {
                return Poll::Ready(Err(Break::Placeholder));
            }
            let sent = match Pin::new(to).poll_write(cx, chunk) {
                Poll::Ready(sent) => self.count(sent?)?,
                Poll::Pending => 0,
            };
            self.waiting.clear();
            self.waiting.extend_from_slice(&chunk[sent..]);
            self.sent = 0;
            Poll::Ready(Ok(()))
        })
    }

    /// Flushes while there is nothing to read; always pending.
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut impl Duplex,
    ) -> Poll<Result<(), Break>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Pending
    }

    fn poll_send_waiting(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut impl Duplex,
    ) -> Poll<Result<(), Break>> {
        while self.sent < self.waiting.len() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting[self.sent..]))?;
            self.sent += self.count(written)?;
        }
        if self.waiting.capacity() > 0 {
            self.waiting = Vec::new();
        }
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn count(&mut self, written: usize) -> Result<usize, Break> {
        if written == 0 {
            return Err(Break::Io(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        self.bytes.set(self.bytes.get() + written as u64);
        Ok(written)
    }
}

#[cfg(test)]
mod tests;
