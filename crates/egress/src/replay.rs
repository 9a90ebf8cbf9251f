//! A stream whose first bytes were already read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gives `early` before anything of `inner`.
#[derive(Debug)]
pub(crate) struct Replay<S> {
    early: Vec<u8>,
    given: usize,
    inner: S,
}

impl<S> Replay<S> {
    pub(crate) fn new(early: Vec<u8>, inner: S) -> Self {
        Self {
            early,
            given: 0,
            inner,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.given < this.early.len() {
            let rest = &this.early[this.given..];
            let part = &rest[..rest.len().min(buffer.remaining())];
            buffer.put_slice(part);
            this.given += part.len();
            if this.given == this.early.len() {
                this.early = Vec::new();
                this.given = 0;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn gives_the_early_bytes_first_and_writes_through() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut stream = Replay::new(b"early ".to_vec(), near);
        far.write_all(b"late").await.unwrap();
        let mut read = [0; 10];
        stream.read_exact(&mut read[..3]).await.unwrap();
        stream.read_exact(&mut read[3..]).await.unwrap();
        assert_eq!(&read, b"early late");
        stream.write_all(b"back").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        far.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"back");
    }
}
