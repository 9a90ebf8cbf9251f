//! The image file as it is written: what is complete goes to the disk while the rest is still being made, so that the `fsync` at the end
//! finds little left to wait for.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Advice, fadvise};

use crate::erofs::BlockOutput;

/// How much is written before the kernel is asked to begin with it, in bytes.
const WRITEBACK_STEP: u64 = 8 << 20;

/// An output whose earlier parts are on their way to the disk.
pub(super) struct PacedFile<'a> {
    file: &'a File,
    /// Up to where writing back was asked for, and up to where bytes were written.
    begun: u64,
    written: u64,
}

impl<'a> PacedFile<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self {
            file,
            begun: 0,
            written: 0,
        }
    }
}

impl BlockOutput for PacedFile<'_> {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.written = self.written.max(offset + bytes.len() as u64);
        if let Some(length) = NonZeroU64::new(self.written - self.begun)
            .filter(|length| length.get() >= WRITEBACK_STEP)
        {
            // For pages that are dirty, "not needed" means: begin to write them, do not wait. Only an advice, so it cannot fail the layer.
            let _ = fadvise(self.file, self.begun, Some(length), Advice::DontNeed);
            self.begun = self.written;
        }
        Ok(())
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
}
