//! Reads more from a socket at once than its reader asks for: rustls takes 4 KiB a call, which is sixteen calls of the
//! system for what one could bring.
//!
//! A stream has a buffer only while something waits in it, so idle connections hold none. What waits is at most
//! [`AHEAD_BYTES`], and is asked for no sooner than the reader wants more: backpressure stays.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at once.
const AHEAD_BYTES: usize = 64 * 1024;

thread_local! {
    /// A buffer that nothing waits in.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A stream whose bytes are read ahead; writing is not changed.
#[derive(Debug)]
pub(crate) struct ReadAhead<S> {
    inner: S,
    buffer: Vec<u8>,
    /// Where in `buffer` bytes wait.
    waiting: std::ops::Range<usize>,
}

impl<S> ReadAhead<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            buffer: Vec::new(),
            waiting: 0..0,
        }
    }

    /// Gives away what fits; the buffer goes when it is empty.
    fn give(&mut self, to: &mut ReadBuf<'_>) {
        let length = self.waiting.len().min(to.remaining());
        let end = self.waiting.start + length;
        to.put_slice(&self.buffer[self.waiting.start..end]);
        self.waiting.start = end;
        if self.waiting.is_empty() {
            self.put_back();
        }
    }

    fn put_back(&mut self) {
        SPARE.set(std::mem::take(&mut self.buffer));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.waiting.is_empty() {
            this.give(to);
            return Poll::Ready(Ok(()));
        }
        if to.remaining() >= AHEAD_BYTES {
            return Pin::new(&mut this.inner).poll_read(cx, to);
        }
        this.buffer = SPARE.take();
        this.buffer.resize(AHEAD_BYTES, 0);
        let mut buffer = ReadBuf::new(&mut this.buffer);
        let read = Pin::new(&mut this.inner).poll_read(cx, &mut buffer);
        let length = buffer.filled().len();
        if !matches!(read, Poll::Ready(Ok(()))) {
            this.put_back();
        }
        ready!(read)?;
        this.waiting = 0..length;
        this.give(to);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn all_bytes_come_in_order_whatever_is_asked_for() {
        let sent: Vec<u8> = (0..300_000u32).map(|number| (number % 251) as u8).collect();
        let (mut near, far) = duplex(100_000);
        let writer = {
            let sent = sent.clone();
            tokio::spawn(async move {
                near.write_all(&sent).await.unwrap();
            })
        };
        let mut far = ReadAhead::new(far);
        let mut read = Vec::new();
        for size in [1, 5, 4_096, 16_384, 100_000].into_iter().cycle() {
            let mut buffer = vec![0; size];
            match far.read(&mut buffer).await.unwrap() {
                0 => break,
                length => read.extend_from_slice(&buffer[..length]),
            }
        }
        writer.await.unwrap();
        assert!(read == sent);
    }

    #[tokio::test]
    async fn a_stream_that_waits_for_bytes_has_no_buffer() {
        let (mut near, far) = duplex(1_000);
        let mut far = ReadAhead::new(far);
        near.write_all(b"abcd").await.unwrap();
        let mut buffer = [0; 3];
        far.read_exact(&mut buffer).await.unwrap();
        assert!(!far.buffer.is_empty(), "one byte waits");
        far.read_exact(&mut buffer[..1]).await.unwrap();
        assert_eq!(far.buffer.capacity(), 0);
        let nothing = std::future::poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut buffer);
            Poll::Ready(Pin::new(&mut far).poll_read(cx, &mut buffer).is_pending())
        });
        assert!(nothing.await);
        assert_eq!(far.buffer.capacity(), 0);
    }
}
