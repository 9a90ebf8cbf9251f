//! What the server is asked and what it answers, free of any FUSE or libkrun type.
//!
//! Field meanings follow the FUSE protocol (include/uapi/linux/fuse.h, 7.31 and later); the
//! adapter in the VMM crate translates one to one.

use std::time::Duration;

/// A moment as the file system stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since the epoch; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds within the second, 0..1_000_000_000.
    pub nanoseconds: u32,
}

/// Attributes of a file as the guest shall see them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Inode number shown to guest programs (`st_ino`); not the node id of the protocol.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Allocated 512-byte blocks.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// File type and permission bits (`st_mode`).
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner in the guest's numbering.
    pub uid: u32,
    /// Group in the guest's numbering.
    pub gid: u32,
    /// Device number; 0, as device nodes are never shown with one.
    pub rdev: u32,
    /// Preferred I/O size in bytes.
    pub blksize: u32,
}

/// `Entry::attr_flags`: this directory is the root of a file system of its own (`FUSE_ATTR_SUBMOUNT`).
pub const ATTR_SUBMOUNT: u32 = 1;

/// The answer to everything that resolves or makes a name; counts as one lookup of `inode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Node id. 0 only inside `readdirplus`: the entry carries no node.
    pub inode: u64,
    /// Always 0: node ids are never used twice.
    pub generation: u64,
    /// Attributes.
    pub attr: Attr,
    /// `ATTR_SUBMOUNT` or 0.
    pub attr_flags: u32,
    /// How long the guest may keep `attr`.
    pub attr_timeout: Duration,
    /// How long the guest may keep the name.
    pub entry_timeout: Duration,
}

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Inode number, equal to `Attr::ino` of the entry.
    pub ino: u64,
    /// Where the next listing continues; never 0.
    pub offset: u64,
    /// `DT_*` value.
    pub kind: u32,
    /// The name, any bytes except NUL and '/'.
    pub name: &'a [u8],
}

/// `Opened::flags`: pages cached by the guest are still right (`FOPEN_KEEP_CACHE`).
pub const OPEN_KEEP_CACHE: u32 = 2;
/// `Opened::flags`: the listing may be cached by the guest (`FOPEN_CACHE_DIR`).
pub const OPEN_CACHE_DIR: u32 = 8;

/// The answer to open, opendir and create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Handle for the following reads, writes and the release; never 0.
    pub handle: u64,
    /// `OPEN_*` bits, numerically those of FUSE.
    pub flags: u32,
}

/// Who asks. Claimed by the guest: used to record ownership, never to grant anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// User id in the guest.
    pub uid: u32,
    /// Group id in the guest.
    pub gid: u32,
}

/// What `mkdir`, `mknod` and `create` shall make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewFile {
    /// Type (mknod only) and permission bits.
    pub mode: u32,
    /// The caller's umask, applied by the server.
    pub umask: u32,
    /// Device number (mknod only).
    pub rdev: u32,
    /// `O_*` flags (create only).
    pub flags: u32,
    /// Recorded set-id bits go when an existing file is truncated (create only).
    pub kill_priv: bool,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// The host's present time.
    Now,
    /// This time.
    At(Timestamp),
}

/// Attributes to change; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits (the type bits are ignored).
    pub mode: Option<u32>,
    /// Owner in the guest's numbering.
    pub uid: Option<u32>,
    /// Group in the guest's numbering.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<NewTime>,
    /// Modification time.
    pub mtime: Option<NewTime>,
    /// `FATTR_KILL_SUIDGID`: recorded set-id bits go with a change of size.
    pub kill_priv: bool,
}

/// Answer to getxattr and listxattr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XattrReply {
    /// The value, or the NUL-terminated names.
    Value(Vec<u8>),
    /// The size in bytes it would have (asked with size 0).
    Size(u32),
}

/// Figures about the file system behind a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Size in units of `frsize`.
    pub blocks: u64,
    /// Free.
    pub bfree: u64,
    /// Free for the unprivileged.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Preferred I/O size in bytes.
    pub bsize: u32,
    /// Unit of the block counts in bytes.
    pub frsize: u32,
    /// Longest name in bytes.
    pub namelen: u32,
}

/// Bits of FUSE_INIT flags (`flags | flags2 << 32`) this server knows.
pub mod init_flag {
    /// Reads may come in any order.
    pub const ASYNC_READ: u64 = 1 << 0;
    /// Open truncates by itself.
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    /// Writes above a page.
    pub const BIG_WRITES: u64 = 1 << 5;
    /// The guest drops cached pages when size or mtime changed.
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    /// Listings with attributes.
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    /// The guest chooses between plain listings and those with attributes.
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Lookups and listings of one directory in parallel.
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    /// `max_pages` is given.
    pub const MAX_PAGES: u64 = 1 << 22;
    /// The guest caches link targets.
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    /// The guest mounts share roots as file systems of their own.
    pub const SUBMOUNTS: u64 = 1 << 27;
    /// The server drops set-id bits on write, truncate and chown.
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
}
