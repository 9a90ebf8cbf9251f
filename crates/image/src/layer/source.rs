//! The receiving end of a download as a blocking reader that counts and hashes what passes.

use std::io::{self, BufRead, Read};

use bytes::{Buf as _, Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::digest::ImageDigest;

/// Some hundred kilobytes as they came, in order: sent together, so that two threads meet seldom.
pub(crate) type Batch = Vec<Bytes>;

/// Compressed bytes of one layer. Ends with an error unless exactly the announced number of bytes came.
pub(crate) struct Source {
    receiver: mpsc::Receiver<Batch>,
    batch: std::vec::IntoIter<Bytes>,
    chunk: Bytes,
    hasher: Sha256,
    left: u64,
}

impl Source {
    pub(super) fn new(receiver: mpsc::Receiver<Batch>, size: u64) -> Self {
        Self {
            receiver,
            batch: Vec::new().into_iter(),
            chunk: Bytes::new(),
            hasher: Sha256::new(),
            left: size,
        }
    }

    /// Reads to the end; the digest of all bytes.
    pub(super) fn finish(&mut self) -> io::Result<ImageDigest> {
        io::copy(self, &mut io::sink())?;
        Ok(ImageDigest::finish(self.hasher.clone()))
    }

    /// The next `wanted` bytes without consuming them; fewer only where the stream ends.
    pub(super) fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        self.fill_buf()?;
        while self.chunk.len() < wanted {
            let Some(next) = self.next_chunk()? else {
                break;
            };
            let mut joined = BytesMut::with_capacity(self.chunk.len() + next.len());
            joined.extend_from_slice(&self.chunk);
            joined.extend_from_slice(&next);
            self.chunk = joined.freeze();
        }
        Ok(&self.chunk)
    }

    /// Counts and hashes the next chunk; `None` at the end.
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let chunk = loop {
            if let Some(chunk) = self.batch.next() {
                break chunk;
            }
            match self.receiver.blocking_recv() {
                Some(batch) => self.batch = batch.into_iter(),
                None if self.left > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => return Ok(None),
            }
        };
        self.left = self
            .left
            .checked_sub(chunk.len() as u64)
            .ok_or(io::ErrorKind::InvalidData)?;
        self.hasher.update(&chunk);
        Ok(Some(chunk))
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() {
            match self.next_chunk()? {
                Some(chunk) => self.chunk = chunk,
                None => break,
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        self.chunk.advance(amount);
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let read = available.len().min(buffer.len());
        buffer[..read].copy_from_slice(&available[..read]);
        self.consume(read);
        Ok(read)
    }
}
