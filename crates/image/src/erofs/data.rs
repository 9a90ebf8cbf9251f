//! File contents on their way to their final blocks.

use std::io::{self, Read};
use std::ops::{Deref, DerefMut};

use super::{BLOCK_SIZE, BlockOutput};

/// Bytes written at once.
const BUFFER: usize = 1 << 20;

/// Appends contents to an image, each from a block boundary; buffers one write, skips what is all zeros.
pub(crate) struct DataWriter<O> {
    output: O,
    buffer: BlockBuffer,
    filled: usize,
    /// Where the buffer's first byte goes; a multiple of the block size.
    position: u64,
}

impl<O: BlockOutput> DataWriter<O> {
    /// Begins after the superblock.
    pub(crate) fn new(output: O) -> Self {
        Self {
            output,
            buffer: BlockBuffer::new(),
            filled: 0,
            position: BLOCK_SIZE,
        }
    }

    /// The block where the next content will begin.
    pub(crate) fn begin(&mut self) -> io::Result<u32> {
        debug_assert!(
            self.at().is_multiple_of(BLOCK_SIZE),
            "contents are ended before the next begins"
        );
        u32::try_from(self.at() / BLOCK_SIZE)
            .map_err(|_| io::Error::other("the image would have more than 2^32 blocks"))
    }

    /// Takes exactly `length` bytes from `reader`.
    pub(crate) fn copy(&mut self, reader: &mut impl Read, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let room =
                (self.buffer.len() - self.filled).min(usize::try_from(left).unwrap_or(usize::MAX));
            match reader.read(&mut self.buffer[self.filled..self.filled + room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.filled += read;
                    left -= read as u64;
                }
                Err(retry) if retry.kind() == io::ErrorKind::Interrupted => continue,
                Err(broken) => return Err(broken),
            }
            self.flush_full()?;
        }
        Ok(())
    }

    /// Appends bytes that are in memory.
    pub(crate) fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        self.copy(&mut bytes, length)
    }

    /// Appends zeros; whole blocks of them cost no space.
    pub(crate) fn zeros(&mut self, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            if left >= BLOCK_SIZE && self.at().is_multiple_of(BLOCK_SIZE) {
                self.flush()?;
                let skipped = left - left % BLOCK_SIZE;
                self.position += skipped;
                left -= skipped;
                continue;
            }
            // Up to the next boundary, from where blocks can be skipped. What follows a content goes out together with it.
            let to_boundary = BLOCK_SIZE - self.at() % BLOCK_SIZE;
            let some = usize::try_from(left.min(to_boundary)).expect("at most a block");
            self.buffer[self.filled..self.filled + some].fill(0);
            self.filled += some;
            left -= some as u64;
            self.flush_full()?;
        }
        Ok(())
    }

    /// Fills up the last block of a content.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.zeros(self.at().wrapping_neg() % BLOCK_SIZE)
    }

    /// Writes out what is buffered; gives the output and the next free block.
    pub(crate) fn finish(mut self) -> io::Result<(O, u64)> {
        self.end()?;
        self.flush()?;
        Ok((self.output, self.position / BLOCK_SIZE))
    }

    fn at(&self) -> u64 {
        self.position + self.filled as u64
    }

    fn flush_full(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = &self.buffer[..self.filled];
        if bytes.iter().any(|&byte| byte != 0) {
            self.output.write_at(bytes, self.position)?;
        }
        self.position += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}

/// [`BUFFER`] bytes that begin at a multiple of the block size in memory, so that outputs can hand them to the disk as they are.
struct BlockBuffer {
    memory: Vec<u8>,
    start: usize,
}

impl BlockBuffer {
    fn new() -> Self {
        let block = usize::try_from(BLOCK_SIZE).expect("a small constant");
        let memory = vec![0; BUFFER + block];
        // Without an answer the buffer is as good, only not aligned.
        let start = memory.as_ptr().align_offset(block);
        Self {
            start: if start < block { start } else { 0 },
            memory,
        }
    }
}

impl Deref for BlockBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + BUFFER]
    }
}

impl DerefMut for BlockBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + BUFFER]
    }
}
