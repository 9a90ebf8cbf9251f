//! The receiving end of a download as a blocking reader that counts and hashes what passes.

use std::io::{self, BufRead, Read};

use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::digest::ImageDigest;

/// Compressed bytes of one layer. Ends with an error unless exactly the announced number of bytes came.
pub(crate) struct Source {
    receiver: mpsc::Receiver<Bytes>,
    chunk: Bytes,
    hasher: Sha256,
    left: u64,
}

impl Source {
    pub(super) fn new(receiver: mpsc::Receiver<Bytes>, size: u64) -> Self {
        Self {
            receiver,
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
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => {
                    self.left = self
                        .left
                        .checked_sub(chunk.len() as u64)
                        .ok_or(io::ErrorKind::InvalidData)?;
                    self.hasher.update(&chunk);
                    self.chunk = chunk;
                }
                None if self.left > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => {}
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
