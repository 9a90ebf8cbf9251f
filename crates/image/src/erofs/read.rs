//! Reading the metadata of a stored layer piece by piece, so that merging a million files takes no more memory than their tree.
//!
//! Only what [`super::write_metadata`] writes is understood. The files are ours, but disks and people damage files: every place and
//! length is checked against the layer before it is used.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::directory::{self, Name};
use super::format::{INODE_SIZE, Inode, Layout, SLOT, Superblock};
use super::xattr::{HEADER, Marks, split_marks};
use super::{BLOCK_SIZE, ImageKind};
use crate::tree::{Attributes, NewNode, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};

/// Bytes read at once.
const WINDOW: u64 = 64 << 10;
/// The longest symlink target (Linux `PATH_MAX` with its NUL).
const MAX_TARGET: u64 = 4095;

/// Where a layer is read from.
pub(crate) trait BlockInput {
    /// Fills `buffer` from `offset`; the end of the input is an error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl BlockInput for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl BlockInput for &[u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok();
        let bytes = from.and_then(|from| self.get(from..)?.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Why a layer's metadata cannot be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The file cannot be read.
    Io(io::Error),
    /// It does not hold what it should.
    Damaged,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged,
            _ => Self::Io(error),
        }
    }
}

/// Who asks: each reads on from where it was, so each has a window of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    /// Directories, in the order they are gone through.
    Directories,
    /// What they hold.
    Children,
}

/// A file of a layer.
#[derive(Debug)]
pub(crate) struct StoredInode {
    inode: Inode,
    /// Attributes, encoded as in a tree, without the marks.
    pub(crate) xattrs: Vec<u8>,
    pub(crate) marks: Marks,
    /// Place of the inline tail.
    tail_at: u64,
}

/// A layer's metadata.
pub(crate) struct LayerReader<I> {
    input: I,
    superblock: Superblock,
    windows: [Window; 3],
}

/// Bytes of the layer kept from the last read.
#[derive(Default)]
struct Window {
    at: u64,
    bytes: Vec<u8>,
}

impl<I: BlockInput> LayerReader<I> {
    pub(crate) fn open(input: I) -> Result<Self, ReadError> {
        let mut block = [0; BLOCK_SIZE as usize];
        input.read_at(&mut block, 0)?;
        let superblock = match Superblock::parse(&block) {
            Some((superblock, _)) if superblock.kind == ImageKind::Layer => superblock,
            _ => return Err(ReadError::Damaged),
        };
        Ok(Self {
            input,
            superblock,
            windows: Default::default(),
        })
    }

    /// The number of inodes.
    pub(crate) fn inodes(&self) -> u64 {
        self.superblock.inodes
    }

    /// The inode number of the root.
    pub(crate) fn root(&self) -> u32 {
        u32::from(self.superblock.root_nid)
    }

    pub(crate) fn inode(&mut self, nid: u32, stream: Stream) -> Result<StoredInode, ReadError> {
        let at = u64::from(self.superblock.meta_block) * BLOCK_SIZE + u64::from(nid) * SLOT;
        let fixed = self.read(stream as usize, at, INODE_SIZE)?;
        let inode = fixed.first_chunk().and_then(Inode::parse);
        let inode = inode.ok_or(ReadError::Damaged)?;
        let tail_at = at + INODE_SIZE + inode.xattr_size;
        let (mut marks, mut xattrs) = Default::default();
        if let Some(size) = inode.xattr_size.checked_sub(HEADER) {
            let encoded = self.read(stream as usize, at + INODE_SIZE + HEADER, size)?;
            (marks, xattrs) = split_marks(encoded).ok_or(ReadError::Damaged)?;
        }
        let (blocks, from) = match inode.mode & S_IFMT {
            S_IFREG if inode.size > 0 => (inode.size.div_ceil(BLOCK_SIZE), inode.data),
            S_IFDIR => (inode.size / BLOCK_SIZE, 0),
            _ => (0, 0),
        };
        if u64::from(from) + blocks > u64::from(self.superblock.blocks) {
            return Err(ReadError::Damaged);
        }
        Ok(StoredInode {
            inode,
            xattrs,
            marks,
            tail_at,
        })
    }

    /// Block `number` of a directory's content; [`names`] reads it.
    pub(crate) fn directory_block(
        &mut self,
        directory: &StoredInode,
        number: u64,
    ) -> Result<Vec<u8>, ReadError> {
        let size = directory.inode.size;
        let length = size
            .checked_sub(number * BLOCK_SIZE)
            .map(|left| left.min(BLOCK_SIZE));
        let length = length.ok_or(ReadError::Damaged)?;
        self.content(directory, number, length, Stream::Directories)
    }

    pub(crate) fn link_target(&mut self, link: &StoredInode) -> Result<Vec<u8>, ReadError> {
        match link.inode.size {
            1..=MAX_TARGET => self.content(link, 0, link.inode.size, Stream::Children),
            _ => Err(ReadError::Damaged),
        }
    }

    fn content(
        &mut self,
        of: &StoredInode,
        block: u64,
        length: u64,
        stream: Stream,
    ) -> Result<Vec<u8>, ReadError> {
        let inline = of.inode.layout == Layout::Inline && length < BLOCK_SIZE;
        let bytes = if inline {
            self.read(stream as usize, of.tail_at, length)?
        } else {
            self.read(2, (u64::from(of.inode.data) + block) * BLOCK_SIZE, length)?
        };
        Ok(bytes.to_vec())
    }

    fn read(&mut self, window: usize, at: u64, length: u64) -> Result<&[u8], ReadError> {
        let end = u64::from(self.superblock.blocks) * BLOCK_SIZE;
        if at + length > end {
            return Err(ReadError::Damaged);
        }
        let window = &mut self.windows[window];
        let held = window.at..window.at + window.bytes.len() as u64;
        if !held.contains(&at) || at + length > held.end {
            let size = WINDOW.max(length).min(end - at);
            window.at = at;
            window
                .bytes
                .resize(usize::try_from(size).expect("a window"), 0);
            if let Err(error) = self.input.read_at(&mut window.bytes, at) {
                window.bytes.clear();
                return Err(error.into());
            }
        }
        let from = usize::try_from(at - window.at).expect("within the window");
        Ok(&window.bytes[from..from + usize::try_from(length).expect("within the window")])
    }
}

impl StoredInode {
    /// Type bits of the mode.
    pub(crate) fn kind(&self) -> u16 {
        self.inode.mode & S_IFMT
    }

    /// Whether it has more than one name.
    pub(crate) fn is_shared(&self) -> bool {
        self.kind() != S_IFDIR && self.inode.links > 1
    }

    /// Whether it is the sign that a lower name is gone.
    pub(crate) fn is_whiteout(&self) -> bool {
        self.kind() == crate::tree::S_IFCHR && self.inode.data == 0
    }

    /// Blocks of a directory's content.
    pub(crate) fn directory_blocks(&self) -> u64 {
        self.inode.size.div_ceil(BLOCK_SIZE)
    }

    /// The node it becomes, but for extended attributes and link targets; the layer's blocks begin at `base`.
    pub(crate) fn to_new(&self, xattrs: u32, base: u32) -> NewNode {
        let Inode { size, data, .. } = self.inode;
        let attributes = Attributes {
            mode: self.inode.mode,
            uid: self.inode.uid,
            gid: self.inode.gid,
            xattrs,
        };
        let (size, data) = match self.kind() {
            S_IFREG if size > 0 => (size, data.saturating_add(base)),
            S_IFREG | S_IFDIR | S_IFLNK => (0, 0),
            _ => (0, data),
        };
        NewNode {
            attributes,
            mtime: self.inode.mtime,
            mtime_ns: self.inode.mtime_ns,
            size,
            data,
        }
    }
}

/// The names in a block of a directory, with their inode numbers; `None` for one that is damaged.
pub(crate) fn names(block: &[u8]) -> impl Iterator<Item = Option<(&[u8], u32)>> {
    directory::read(block).map(|read| {
        let Name { name, nid, .. } = read?;
        Some((name, u32::try_from(nid).ok()?))
    })
}
