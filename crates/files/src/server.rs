//! The file server's operations, one for each FUSE request.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::time::Duration;

use crate::reply::{Attr, Caller, DirEntry, Entry, NewFile, Opened, SetAttr, StatFs, XattrReply};

/// The server; one for one virtio-fs device, usable from several threads.
#[derive(Debug)]
pub struct FileServer {}

fn nosys<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(38))
}

#[allow(unused_variables)]
impl FileServer {
    /// FUSE_INIT: takes the guest's flags, answers those wanted.
    pub fn init(&self, capable: u64) -> u64 {
        0
    }
    /// FUSE_DESTROY: forgets every node and closes every handle.
    pub fn destroy(&self) {}
    /// FUSE_LOOKUP.
    pub fn lookup(&self, parent: u64, name: &CStr) -> io::Result<Entry> {
        nosys()
    }
    /// FUSE_FORGET, also for each part of FUSE_BATCH_FORGET.
    pub fn forget(&self, inode: u64, count: u64) {}
    /// FUSE_GETATTR.
    pub fn getattr(&self, inode: u64, handle: Option<u64>) -> io::Result<(Attr, Duration)> {
        nosys()
    }
    /// FUSE_SETATTR.
    pub fn setattr(
        &self,
        inode: u64,
        handle: Option<u64>,
        change: &SetAttr,
    ) -> io::Result<(Attr, Duration)> {
        nosys()
    }
    /// FUSE_READLINK.
    pub fn readlink(&self, inode: u64) -> io::Result<Vec<u8>> {
        nosys()
    }
    /// FUSE_SYMLINK.
    pub fn symlink(
        &self,
        caller: Caller,
        target: &CStr,
        parent: u64,
        name: &CStr,
    ) -> io::Result<Entry> {
        nosys()
    }
    /// FUSE_MKNOD.
    pub fn mknod(
        &self,
        caller: Caller,
        parent: u64,
        name: &CStr,
        new: NewFile,
    ) -> io::Result<Entry> {
        nosys()
    }
    /// FUSE_MKDIR.
    pub fn mkdir(
        &self,
        caller: Caller,
        parent: u64,
        name: &CStr,
        new: NewFile,
    ) -> io::Result<Entry> {
        nosys()
    }
    /// FUSE_UNLINK.
    pub fn unlink(&self, parent: u64, name: &CStr) -> io::Result<()> {
        nosys()
    }
    /// FUSE_RMDIR.
    pub fn rmdir(&self, parent: u64, name: &CStr) -> io::Result<()> {
        nosys()
    }
    /// FUSE_RENAME and FUSE_RENAME2; both ends are (directory node, name).
    pub fn rename(&self, from: (u64, &CStr), to: (u64, &CStr), flags: u32) -> io::Result<()> {
        nosys()
    }
    /// FUSE_LINK.
    pub fn link(&self, inode: u64, new_parent: u64, new_name: &CStr) -> io::Result<Entry> {
        nosys()
    }
    /// FUSE_OPEN.
    pub fn open(&self, inode: u64, kill_priv: bool, flags: u32) -> io::Result<Opened> {
        nosys()
    }
    /// FUSE_CREATE.
    pub fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &CStr,
        new: NewFile,
    ) -> io::Result<(Entry, Opened)> {
        nosys()
    }
    /// FUSE_READ: `transfer` gets the open file and moves the bytes (`w.write_from(file, size, offset)`).
    pub fn read(
        &self,
        inode: u64,
        handle: u64,
        transfer: impl FnOnce(&File) -> io::Result<usize>,
    ) -> io::Result<usize> {
        nosys()
    }
    /// FUSE_WRITE: `transfer` gets the open file and moves the bytes (`r.read_to(file, size, offset)`).
    pub fn write(
        &self,
        inode: u64,
        handle: u64,
        kill_priv: bool,
        transfer: impl FnOnce(&File) -> io::Result<usize>,
    ) -> io::Result<usize> {
        nosys()
    }
    /// FUSE_FLUSH: a descriptor was closed in the guest.
    pub fn flush(&self, inode: u64, handle: u64) -> io::Result<()> {
        nosys()
    }
    /// FUSE_FSYNC.
    pub fn fsync(&self, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        nosys()
    }
    /// FUSE_FALLOCATE; `range` is (offset, length).
    pub fn fallocate(
        &self,
        inode: u64,
        handle: u64,
        mode: u32,
        range: (u64, u64),
    ) -> io::Result<()> {
        nosys()
    }
    /// FUSE_RELEASE.
    pub fn release(&self, inode: u64, handle: u64) -> io::Result<()> {
        nosys()
    }
    /// FUSE_STATFS.
    pub fn statfs(&self, inode: u64) -> io::Result<StatFs> {
        nosys()
    }
    /// FUSE_SETXATTR.
    pub fn setxattr(&self, inode: u64, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
        nosys()
    }
    /// FUSE_GETXATTR.
    pub fn getxattr(&self, inode: u64, name: &CStr, size: u32) -> io::Result<XattrReply> {
        nosys()
    }
    /// FUSE_LISTXATTR.
    pub fn listxattr(&self, inode: u64, size: u32) -> io::Result<XattrReply> {
        nosys()
    }
    /// FUSE_REMOVEXATTR.
    pub fn removexattr(&self, inode: u64, name: &CStr) -> io::Result<()> {
        nosys()
    }
    /// FUSE_OPENDIR.
    pub fn opendir(&self, inode: u64) -> io::Result<Opened> {
        nosys()
    }
    /// FUSE_READDIR: calls `add` for entry after entry until it answers `Ok(0)` (full).
    pub fn readdir(
        &self,
        inode: u64,
        handle: u64,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        nosys()
    }
    /// FUSE_READDIRPLUS: as `readdir`, each entry with its node.
    pub fn readdirplus(
        &self,
        inode: u64,
        handle: u64,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        nosys()
    }
    /// FUSE_FSYNCDIR.
    pub fn fsyncdir(&self, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        nosys()
    }
    /// FUSE_RELEASEDIR.
    pub fn releasedir(&self, inode: u64, handle: u64) -> io::Result<()> {
        nosys()
    }
    /// FUSE_ACCESS.
    pub fn access(&self, caller: Caller, inode: u64, mask: u32) -> io::Result<()> {
        nosys()
    }
    /// FUSE_LSEEK: `SEEK_DATA` (3) and `SEEK_HOLE` (4).
    pub fn lseek(&self, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        nosys()
    }
    /// FUSE_COPY_FILE_RANGE; each end is (node, handle, offset).
    pub fn copy_file_range(
        &self,
        from: (u64, u64, u64),
        to: (u64, u64, u64),
        length: u64,
        flags: u64,
    ) -> io::Result<usize> {
        nosys()
    }
}
