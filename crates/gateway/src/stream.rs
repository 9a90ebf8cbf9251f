//! The bytes of one guest connection, for whoever carries them on.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::flow::{Flow, ReadState, WriteState};

/// A guest connection as a byte stream, on the gateway's thread.
///
/// Reading ends with the guest's FIN; `shutdown` sends ours, and each direction ends by itself. A guest that resets the
/// connection is an error of kind `ConnectionReset`. Writing waits while the guest does not read, and what is not read
/// closes the guest's window. Dropping the stream before `shutdown`, or with unread bytes, resets the connection.
/// Bytes written are on their way without a flush.
pub struct GuestStream {
    flow: Rc<Flow>,
}

impl GuestStream {
    pub(crate) fn new(flow: Rc<Flow>) -> Self {
        Self { flow }
    }

    /// The address and port the guest connected to.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.flow.key.remote
    }

    /// The guest's own port.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        self.flow.key.guest_port
    }
}

impl GuestStream {
    /// Reads without a copy: `take` gets received bytes where they lie and says how many of them it took. It is called
    /// once or twice; what it leaves is there for the next read. Ready with 0 at the guest's FIN.
    ///
    /// # Errors
    /// `ConnectionReset` when the guest has reset the connection, and what `take` fails with.
    pub fn poll_read_with(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let mut failed = None;
        let found = self.flow.read(|bytes| {
            take(bytes).unwrap_or_else(|error| {
                failed = Some(error);
                0
            })
        });
        match (found, failed) {
            (ReadState::Data(0), Some(error)) => Poll::Ready(Err(error)),
            (ReadState::Data(taken), _) => Poll::Ready(Ok(taken)),
            (ReadState::End, _) => Poll::Ready(Ok(0)),
            (ReadState::Reset, _) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            (ReadState::Pending, _) => {
                self.flow.state.borrow_mut().read_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Pending until the guest resets the connection; then an error.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.flow.read(|_| 0) {
            ReadState::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            ReadState::Data(_) | ReadState::End | ReadState::Pending => {
                self.flow.state.borrow_mut().read_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Writes without a copy: `fill` writes bytes where they are sent from, as many as fit, and says how many. With 0
    /// nothing is sent. `wanted` is how many there may be; the room is less when the guest does not keep up.
    ///
    /// # Errors
    /// `BrokenPipe` when the connection takes no more, and what `fill` fails with.
    pub fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let mut failed = None;
        let written = self.flow.write_with(wanted, |room| {
            fill(room).unwrap_or_else(|error| {
                failed = Some(error);
                0
            })
        });
        match (written, failed) {
            (_, Some(error)) => Poll::Ready(Err(error)),
            (WriteState::Data(written), None) => Poll::Ready(Ok(written)),
            (WriteState::Closed, None) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            (WriteState::Pending, None) => {
                self.flow.state.borrow_mut().write_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for GuestStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestStream")
            .field("destination", &self.destination())
            .field("source_port", &self.source_port())
            .finish()
    }
}

impl Drop for GuestStream {
    fn drop(&mut self) {
        self.flow.abandon();
    }
}

impl AsyncRead for GuestStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let found = self.flow.read(|bytes| {
            let len = bytes.len().min(buffer.remaining());
            buffer.put_slice(&bytes[..len]);
            len
        });
        match found {
            ReadState::Data(_) | ReadState::End => Poll::Ready(Ok(())),
            ReadState::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            ReadState::Pending => {
                self.flow.state.borrow_mut().read_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match self.flow.write(data) {
            WriteState::Data(written) => Poll::Ready(Ok(written)),
            WriteState::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            WriteState::Pending => {
                self.flow.state.borrow_mut().write_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut total = 0;
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            match self.as_mut().poll_write(cx, piece) {
                Poll::Ready(Ok(written)) => {
                    total += written;
                    if written < piece.len() {
                        break;
                    }
                }
                _ if total > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flow.shut();
        Poll::Ready(Ok(()))
    }
}
