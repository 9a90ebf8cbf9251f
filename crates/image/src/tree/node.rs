//! What a tree holds of one file besides its names.

use super::{S_IFCHR, S_IFDIR, S_IFREG};

/// One file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    /// Bytes of a file or of a symlink's target.
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) mtime_ns: u32,
    /// Index into the shared attributes.
    pub(super) attributes: u32,
    /// First block of a file, place of the target of a symlink or lower link, number of a device; in a merged tree the name of a
    /// directory (index of its entry).
    pub(crate) data: u32,
    /// The flags below, and above them the number of links.
    pub(super) flags: u32,
}

/// What many files have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Attributes {
    /// Type and permission bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Index into the tree's xattr sets; zero is none.
    pub(crate) xattrs: u32,
}

/// What a new node is made of.
#[derive(Debug, Clone)]
pub(crate) struct NewNode {
    pub(crate) attributes: Attributes,
    pub(crate) mtime: i64,
    pub(crate) mtime_ns: u32,
    pub(crate) size: u64,
    pub(crate) data: u32,
}

impl Node {
    pub(crate) fn is_opaque(&self) -> bool {
        self.flags & OPAQUE != 0
    }

    pub(crate) fn set_opaque(&mut self) {
        self.flags |= OPAQUE;
    }

    pub(crate) fn is_whiteout(&self) -> bool {
        self.flags & WHITEOUT != 0
    }

    pub(crate) fn set_whiteout(&mut self) {
        self.flags |= WHITEOUT;
    }

    pub(crate) fn is_implied(&self) -> bool {
        self.flags & IMPLIED != 0
    }

    pub(crate) fn set_implied(&mut self, implied: bool) {
        self.flags = self.flags & !IMPLIED | if implied { IMPLIED } else { 0 };
    }

    pub(crate) fn is_lower_link(&self) -> bool {
        self.flags & LOWER_LINK != 0
    }

    pub(crate) fn set_lower_link(&mut self) {
        self.flags |= LOWER_LINK;
    }

    /// Names the file has in the image that is written; for a directory also its own `.` and its children's `..`. Zero until then.
    pub(crate) fn links(&self) -> u32 {
        self.flags >> FLAG_BITS
    }

    pub(crate) fn add_links(&mut self, more: u32) {
        self.flags += more << FLAG_BITS;
    }
}

impl NewNode {
    /// A directory the archive does not name, only something below it: what it is where no lower layer has it.
    pub(crate) fn implied_directory() -> Self {
        Self::plain(S_IFDIR | 0o755)
    }

    /// The stand-in for a file of a lower layer, whose path is kept at `at` of the tree's text.
    pub(crate) fn lower_link(at: u32, length: usize) -> Self {
        Self {
            size: length as u64,
            data: at,
            ..Self::plain(S_IFREG)
        }
    }

    /// The sign that a name of a lower layer is gone: a character device 0:0, as overlayfs has it.
    pub(crate) fn whiteout() -> Self {
        Self::plain(S_IFCHR)
    }

    fn plain(mode: u16) -> Self {
        let attributes = Attributes {
            mode,
            uid: 0,
            gid: 0,
            xattrs: 0,
        };
        Self {
            attributes,
            mtime: 0,
            mtime_ns: 0,
            size: 0,
            data: 0,
        }
    }
}

/// Bits of the flags.
const FLAG_BITS: u32 = 4;
/// Nothing of lower layers shows in this directory.
const OPAQUE: u32 = 1;
/// The name is gone from lower layers.
const WHITEOUT: u32 = 2;
/// A directory the layer does not name: a lower one at its place stays what it is.
const IMPLIED: u32 = 4;
/// Another name of a file of a lower layer.
const LOWER_LINK: u32 = 8;
