//! The structures on disk, as bytes (`erofs_super_block`, `erofs_inode_extended`, `erofs_dirent`).

use super::{BLOCK_SIZE, ImageKind};

const SUPER_OFFSET: usize = 1024;
const SUPER_MAGIC: u32 = 0xe0f5_e1e2;
/// Superblock checksum, and inode times that are modification times.
const FEATURE_COMPAT: u32 = 1 | 2;
/// log2 of the block size.
const BLOCK_BITS: u8 = 12;
/// Volume names, with the version of what we keep in such an image. The kernel wants the NUL.
const NAME_LAYER: [u8; 16] = *b"agent-vm layer2\0";
const NAME_MERGED: [u8; 16] = *b"agent-vm image1\0";

/// Bytes of an extended inode.
pub(super) const INODE_SIZE: u64 = 64;
/// Bytes of a directory entry without its name.
pub(super) const DIRENT_SIZE: usize = 12;
/// Unit of inode numbers, in bytes.
pub(super) const SLOT: u64 = 32;

/// The variable part of a superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) kind: ImageKind,
    /// Identifies what the image was made of.
    pub(super) uuid: [u8; 16],
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
        fields[12] = BLOCK_BITS;
        put(fields, 14, &self.root_nid.to_le_bytes());
        put(fields, 16, &self.inodes.to_le_bytes());
        put(fields, 36, &self.blocks.to_le_bytes());
        put(fields, 40, &self.meta_block.to_le_bytes());
        put(fields, 48, &self.uuid);
        let name = match self.kind {
            ImageKind::Layer => &NAME_LAYER,
            ImageKind::Merged => &NAME_MERGED,
        };
        put(fields, 64, name);
        let checksum = crc32c(fields);
        put(fields, 4, &checksum.to_le_bytes());
        block
    }

    /// The superblock in an image's first block; `None` if it is damaged or not one of ours. Also gives its checksum.
    pub(super) fn parse(block: &[u8; BLOCK_SIZE as usize]) -> Option<(Self, u32)> {
        let mut fields = block[SUPER_OFFSET..].to_vec();
        let checksum = u32::from_le_bytes(take(&fields, 4));
        put(&mut fields, 4, &[0; 4]);
        if u32::from_le_bytes(take(&fields, 0)) != SUPER_MAGIC
            || checksum != crc32c(&fields)
            || fields[12] != BLOCK_BITS
        {
            return None;
        }
        let kind = match take(&fields, 64) {
            NAME_LAYER => ImageKind::Layer,
            NAME_MERGED => ImageKind::Merged,
            _ => return None,
        };
        let superblock = Self {
            kind,
            uuid: take(&fields, 48),
            root_nid: u16::from_le_bytes(take(&fields, 14)),
            inodes: u64::from_le_bytes(take(&fields, 16)),
            blocks: u32::from_le_bytes(take(&fields, 36)),
            meta_block: u32::from_le_bytes(take(&fields, 40)),
        };
        Some((superblock, checksum))
    }
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

    /// An extended inode; `None` for anything this writer does not write.
    pub(super) fn parse(bytes: &[u8; INODE_SIZE as usize]) -> Option<Self> {
        let layout = match u16::from_le_bytes(take(bytes, 0)) {
            0b001 => Layout::Plain,
            0b101 => Layout::Inline,
            _ => return None,
        };
        let xattr_size = match u16::from_le_bytes(take(bytes, 2)) {
            0 => 0,
            count => 12 + (u64::from(count) - 1) * 4,
        };
        Some(Self {
            layout,
            xattr_size,
            mode: u16::from_le_bytes(take(bytes, 4)),
            size: u64::from_le_bytes(take(bytes, 8)),
            data: u32::from_le_bytes(take(bytes, 16)),
            number: u32::from_le_bytes(take(bytes, 20)),
            uid: u32::from_le_bytes(take(bytes, 24)),
            gid: u32::from_le_bytes(take(bytes, 28)),
            mtime: i64::from_le_bytes(take(bytes, 32)),
            mtime_ns: u32::from_le_bytes(take(bytes, 40)),
            links: u32::from_le_bytes(take(bytes, 44)),
        })
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
pub(super) fn dirent(nid: u64, name_at: u16, kind: u8) -> [u8; DIRENT_SIZE] {
    let mut bytes = [0; DIRENT_SIZE];
    put(&mut bytes, 0, &nid.to_le_bytes());
    put(&mut bytes, 8, &name_at.to_le_bytes());
    bytes[10] = kind;
    bytes
}

/// Inode number, place of the name in its block, and kind of a directory entry.
pub(super) fn parse_dirent(bytes: &[u8; DIRENT_SIZE]) -> (u64, usize, u8) {
    let name_at = u16::from_le_bytes(take(bytes, 8));
    (
        u64::from_le_bytes(take(bytes, 0)),
        usize::from(name_at),
        bytes[10],
    )
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("fields lie within their structure")
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
    fn a_superblock_is_read_back_only_undamaged() {
        for kind in [ImageKind::Layer, ImageKind::Merged] {
            let superblock = Superblock {
                kind,
                uuid: *b"sixteen bytes ..",
                root_nid: 1,
                inodes: 2,
                blocks: 3,
                meta_block: 2,
            };
            let block = superblock.emit();
            assert_eq!(
                Superblock::parse(&block).map(|(parsed, _)| parsed),
                Some(superblock)
            );
            let mut damaged = block;
            damaged[SUPER_OFFSET + 100] ^= 1;
            assert_eq!(Superblock::parse(&damaged), None);
        }
    }

    #[test]
    fn an_inode_is_read_back() {
        for (layout, xattr_size) in [
            (Layout::Plain, 0),
            (Layout::Inline, 12),
            (Layout::Plain, 60),
        ] {
            let inode = Inode {
                layout,
                xattr_size,
                mode: 0o104_755,
                size: 1 << 40,
                data: 7,
                number: 9,
                uid: 1000,
                gid: u32::MAX - 1,
                mtime: -3,
                mtime_ns: 999_999_999,
                links: 2,
            };
            assert_eq!(Inode::parse(&inode.emit()), Some(inode));
        }
        assert_eq!(Inode::parse(&[0; INODE_SIZE as usize]), None);
    }
}
