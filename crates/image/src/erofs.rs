//! Writing EROFS images (Linux `fs/erofs/erofs_fs.h`, uncompressed layout), one layer each.
//!
//! ```text
//! block 0        superblock at byte 1024
//! block 1…       file contents, each from a block boundary, in the order of the archive; all-zero parts are holes of the image file
//! then           directory blocks and link targets that do not fit beside their inode
//! then           inodes (extended form, 64 bytes), each with its xattrs and its inline tail: short link targets, ends of directories
//! ```
//! Contents are final where they are first written; inodes and directories come last, when links, replacements and whiteouts are known.
//! The result depends on the archive alone: no clock, no randomness, the UUID is from the diff id.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::digest::ImageDigest;

mod data;
mod directory;
mod format;
mod metadata;
mod xattr;

pub(crate) use data::DataWriter;
pub(crate) use metadata::write as write_metadata;
pub(crate) use xattr::{MAX_XATTR_NAME, MAX_XATTR_SET, XattrSet};

/// Block size in bytes.
pub(crate) const BLOCK_SIZE: u64 = 4096;

/// What the root of a layer is to the layers below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootKind {
    /// They are merged.
    Merged,
    /// They are hidden: the layer began with an opaque whiteout of the root.
    Opaque,
}

/// Where an image is written to.
pub(crate) trait BlockOutput {
    /// Writes all of `bytes` at `offset`; what is skipped reads as zeros.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Sets the final length.
    fn set_length(&mut self, length: u64) -> io::Result<()>;
}

impl BlockOutput for &File {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// Looks at a stored image: `None` if it is not the whole EROFS image of `diff_id`. Reads one block, does not verify contents.
pub(crate) fn inspect(file: &File, diff_id: ImageDigest) -> io::Result<Option<RootKind>> {
    let length = file.metadata()?.len();
    let mut block = [0; BLOCK_SIZE as usize];
    if length < BLOCK_SIZE {
        return Ok(None);
    }
    file.read_exact_at(&mut block, 0)?;
    Ok(
        format::parse_superblock(&block, diff_id, length / BLOCK_SIZE)
            .filter(|_| length.is_multiple_of(BLOCK_SIZE)),
    )
}

#[cfg(test)]
mod tests;
