//! The structures on disk, as bytes (`erofs_super_block`, `erofs_inode_extended`, `erofs_dirent`).

use super::{BLOCK_SIZE, RootKind};
use crate::digest::ImageDigest;

const SUPER_OFFSET: usize = 1024;
const SUPER_MAGIC: u32 = 0xe0f5_e1e2;
/// Superblock checksum, and inode times that are modification times.
const FEATURE_COMPAT: u32 = 1 | 2;
/// Volume names, sixteen bytes: they also keep what the root is, which no other field of the superblock could say.
const NAME_MERGED: [u8; 16] = *b"agent-vm layer\0\0";
const NAME_OPAQUE: [u8; 16] = *b"agent-vm opaque\0";

/// Bytes of an extended inode.
pub(super) const INODE_SIZE: u64 = 64;
/// Unit of inode numbers, in bytes.
pub(super) const SLOT: u64 = 32;

/// The variable part of a superblock.
#[derive(Debug)]
pub(super) struct Superblock {
    pub(super) diff_id: ImageDigest,
    pub(super) root: RootKind,
    pub(super) root_nid: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) meta_block: u32,
}

/// How an inode's content is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// All in blocks.
    Plain,
    /// The last, partial block follows the inode.
    Inline,
}

/// An inode's fields.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) layout: Layout,
    /// Bytes of extended attributes that follow, header included; zero or at least twelve.
    pub(super) xattr_size: u64,
    pub(super) mode: u16,
    pub(super) size: u64,
    /// First block or device number.
    pub(super) data: u32,
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) mtime_ns: u32,
    pub(super) links: u32,
}

impl Superblock {
    /// The image's first block.
    pub(super) fn emit(&self) -> [u8; BLOCK_SIZE as usize] {
        let mut block = [0; BLOCK_SIZE as usize];
        let fields = &mut block[SUPER_OFFSET..];
        put(fields, 0, &SUPER_MAGIC.to_le_bytes());
        put(fields, 8, &FEATURE_COMPAT.to_le_bytes());
        fields[12] = 12; // log2 of the block size
        put(fields, 14, &self.root_nid.to_le_bytes());
        put(fields, 16, &self.inodes.to_le_bytes());
        put(fields, 36, &self.blocks.to_le_bytes());
        put(fields, 40, &self.meta_block.to_le_bytes());
        put(fields, 48, &self.diff_id.as_bytes()[..16]);
        put(
            fields,
            64,
            match self.root {
                RootKind::Merged => &NAME_MERGED,
                RootKind::Opaque => &NAME_OPAQUE,
            },
        );
        let checksum = crc32c(fields);
        put(fields, 4, &checksum.to_le_bytes());
        block
    }
}

/// What the superblock in `block` says about the root, if it is the one of `diff_id` with that many blocks, and undamaged.
pub(super) fn parse_superblock(
    block: &[u8; BLOCK_SIZE as usize],
    diff_id: ImageDigest,
    blocks: u64,
) -> Option<RootKind> {
    let mut fields = block[SUPER_OFFSET..].to_vec();
    let word = |at: usize| {
        u32::from_le_bytes([fields[at], fields[at + 1], fields[at + 2], fields[at + 3]])
    };
    let (magic, checksum, counted) = (word(0), word(4), word(36));
    put(&mut fields, 4, &[0; 4]);
    let ours = magic == SUPER_MAGIC && checksum == crc32c(&fields) && u64::from(counted) == blocks;
    let root = match &fields[64..80] {
        name if name == NAME_MERGED => RootKind::Merged,
        name if name == NAME_OPAQUE => RootKind::Opaque,
        _ => return None,
    };
    (ours && fields[48..64] == diff_id.as_bytes()[..16]).then_some(root)
}

impl Inode {
    pub(super) fn emit(&self) -> [u8; INODE_SIZE as usize] {
        let mut bytes = [0; INODE_SIZE as usize];
        let layout = match self.layout {
            Layout::Plain => 0,
            Layout::Inline => 2,
        };
        put(&mut bytes, 0, &(1_u16 | layout << 1).to_le_bytes());
        put(&mut bytes, 2, &xattr_count(self.xattr_size).to_le_bytes());
        put(&mut bytes, 4, &self.mode.to_le_bytes());
        put(&mut bytes, 8, &self.size.to_le_bytes());
        put(&mut bytes, 16, &self.data.to_le_bytes());
        put(&mut bytes, 20, &self.number.to_le_bytes());
        put(&mut bytes, 24, &self.uid.to_le_bytes());
        put(&mut bytes, 28, &self.gid.to_le_bytes());
        put(&mut bytes, 32, &self.mtime.to_le_bytes());
        put(&mut bytes, 40, &self.mtime_ns.to_le_bytes());
        put(&mut bytes, 44, &self.links.to_le_bytes());
        bytes
    }
}

/// `i_xattr_icount`: zero without attributes, else one for the twelve-byte header and one for each four bytes.
fn xattr_count(size: u64) -> u16 {
    match size {
        0 => 0,
        _ => u16::try_from((size - 12) / 4 + 1).expect("MAX_XATTR_SET bounds the size"),
    }
}

/// One entry of a directory, without its name.
pub(super) fn dirent(nid: u64, name_at: u16, kind: u8) -> [u8; 12] {
    let mut bytes = [0; 12];
    put(&mut bytes, 0, &nid.to_le_bytes());
    put(&mut bytes, 8, &name_at.to_le_bytes());
    bytes[10] = kind;
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// CRC-32C without the final inversion, as the kernel's `crc32c(~0, …)`.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 0 {
                crc >> 1
            } else {
                crc >> 1 ^ 0x82f6_3b78
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_matches_the_published_check_value() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_superblock_is_recognised_only_whole_and_for_its_layer() {
        let diff_id = ImageDigest::of(b"layer");
        for root in [RootKind::Merged, RootKind::Opaque] {
            let block = Superblock {
                diff_id,
                root,
                root_nid: 1,
                inodes: 2,
                blocks: 3,
                meta_block: 2,
            }
            .emit();
            assert_eq!(parse_superblock(&block, diff_id, 3), Some(root));
            assert_eq!(parse_superblock(&block, diff_id, 4), None);
            assert_eq!(parse_superblock(&block, ImageDigest::of(b"other"), 3), None);
            let mut damaged = block;
            damaged[SUPER_OFFSET + 100] ^= 1;
            assert_eq!(parse_superblock(&damaged, diff_id, 3), None);
        }
    }
}
