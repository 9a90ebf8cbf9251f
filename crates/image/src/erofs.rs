//! Writing EROFS images (Linux `fs/erofs/erofs_fs.h`, uncompressed layout), and reading back the metadata of our own.
//!
//! ```text
//! block 0        superblock at byte 1024
//! block 1…       file contents, each from a block boundary, in the order of the archive; all-zero parts are holes of the image file
//! then           directory blocks and link targets that do not fit beside their inode
//! then           inodes (extended form, 64 bytes), each with its xattrs and its inline tail: short link targets, ends of directories
//! ```
//! Contents are final where they are first written; inodes and directories come last, when links, replacements and whiteouts are known.
//! The result depends on the archive alone: no clock, no randomness, the UUID is from the diff id.
//!
//! A *layer* is such an image. Whiteouts are character devices 0:0 in it, all else it says about lower layers is in [`Marks`]. A *merged*
//! image has the metadata of a whole image and no contents: the blocks of its files are those of the layers, which follow it on the same
//! device, bottom layer first. Its superblock counts the blocks of all of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::digest::ImageDigest;

mod data;
mod directory;
mod format;
mod metadata;
mod read;
mod xattr;

pub(crate) use data::DataWriter;
pub(crate) use metadata::{write as write_metadata, write_merged};
pub(crate) use read::{BlockInput, LayerReader, ReadError, StoredInode, Stream, names};
pub(crate) use xattr::{MARK_PREFIX, MAX_XATTR_NAME, MAX_XATTR_SET, XattrSet};

use format::Superblock;

/// Block size in bytes.
pub(crate) const BLOCK_SIZE: u64 = 4096;

/// What an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageKind {
    /// One layer with its contents.
    Layer,
    /// The metadata of all layers of an image.
    Merged,
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

impl BlockOutput for &mut Vec<u8> {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let begin = usize::try_from(offset).expect("what is made in memory is small");
        let end = begin + bytes.len();
        if self.len() < end {
            self.resize(end, 0);
        }
        self[begin..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.resize(
            usize::try_from(length).expect("what is made in memory is small"),
            0,
        );
        Ok(())
    }
}

/// A stored layer, as far as its superblock tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerHeader {
    /// Its length in blocks.
    pub(crate) blocks: u32,
    /// Tells layers of different layout apart, though made from the same archive.
    pub(crate) checksum: u32,
}

/// Looks at a stored layer: `None` if it is not the whole image of `diff_id`. Reads one block, does not verify contents.
pub(crate) fn inspect(file: &File, diff_id: ImageDigest) -> io::Result<Option<LayerHeader>> {
    let Some((superblock, checksum, blocks)) = superblock(file)? else {
        return Ok(None);
    };
    let ours = superblock.kind == ImageKind::Layer
        && superblock.uuid == uuid(diff_id)
        && u64::from(superblock.blocks) == blocks;
    Ok(ours.then_some(LayerHeader {
        blocks: superblock.blocks,
        checksum,
    }))
}

/// Whether `file` is the whole merged image with this identity, of layers that have so many blocks together. Reads one block.
pub(crate) fn is_merged(file: &File, identity: ImageDigest, layer_blocks: u64) -> io::Result<bool> {
    Ok(superblock(file)?.is_some_and(|(superblock, _, blocks)| {
        superblock.kind == ImageKind::Merged
            && superblock.uuid == uuid(identity)
            && u64::from(superblock.blocks) == blocks + layer_blocks
    }))
}

/// The superblock of a file of whole blocks, its checksum, and the number of blocks.
fn superblock(file: &File) -> io::Result<Option<(Superblock, u32, u64)>> {
    let length = file.metadata()?.len();
    if length < BLOCK_SIZE || !length.is_multiple_of(BLOCK_SIZE) {
        return Ok(None);
    }
    let mut block = [0; BLOCK_SIZE as usize];
    file.read_exact_at(&mut block, 0)?;
    Ok(Superblock::parse(&block)
        .map(|(superblock, checksum)| (superblock, checksum, length / BLOCK_SIZE)))
}

/// A layer of these superblock fields (root, inodes, blocks, first block of metadata; little-endian) and blocks, for fuzzing.
pub(crate) fn layer_of(fields: &[u8; 14], blocks: &[u8]) -> Vec<u8> {
    let number = |at: usize| fields[at..at + 4].try_into().map(u32::from_le_bytes);
    let number = |at| number(at).expect("four bytes");
    let superblock = Superblock {
        kind: ImageKind::Layer,
        uuid: [0; 16],
        root_nid: u16::from_le_bytes([fields[0], fields[1]]),
        inodes: u64::from(number(2)),
        blocks: number(6),
        meta_block: number(10),
    };
    let mut layer = [&superblock.emit(), blocks].concat();
    layer.resize(layer.len().next_multiple_of(BLOCK_SIZE as usize), 0);
    layer
}

/// The fields and blocks of a layer, for [`layer_of`].
#[cfg(test)]
pub(crate) fn fields_of(layer: &[u8]) -> ([u8; 14], &[u8]) {
    let (first, blocks) = layer.split_first_chunk().expect("a layer has a block");
    let (superblock, _) = Superblock::parse(first).expect("a superblock");
    let mut fields = [0; 14];
    fields[..2].copy_from_slice(&superblock.root_nid.to_le_bytes());
    let numbers = [
        u32::try_from(superblock.inodes).expect("few inodes"),
        superblock.blocks,
        superblock.meta_block,
    ];
    for (field, number) in fields[2..].chunks_mut(4).zip(numbers) {
        field.copy_from_slice(&number.to_le_bytes());
    }
    (fields, blocks)
}

fn uuid(digest: ImageDigest) -> [u8; 16] {
    let bytes = digest.as_bytes().first_chunk();
    *bytes.expect("a digest has 32 bytes")
}

#[cfg(test)]
mod tests;
