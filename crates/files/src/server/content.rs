//! Requests about the content of files.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::{Errno, Result};

use super::{FileServer, Target, check_same, gone};
use crate::component::Component;
use crate::handle_table::FileHandle;
use crate::host::{self, Meta, TYPE_DIRECTORY, TYPE_REGULAR, TYPE_SYMLINK};
use crate::node::{Node, Version};
use crate::reply::{OPEN_KEEP_CACHE, Opened};
use crate::synthetic::Synthetic;

/// Most bytes copied by one copy_file_range, so that one request does not hold up the others.
const COPY_BYTES_MAX: u64 = 64 << 20;

/// A file changed this recently may change again without a new time stamp.
const UNSETTLED_SECONDS: i64 = 2;

const O_ACCMODE: u32 = 3;
const O_TRUNC: u32 = 0o1000;
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

/// The part of the guest's open flags that counts on the host.
#[derive(Clone, Copy)]
pub(super) struct OpenMode {
    pub(super) flags: OFlags,
    pub(super) truncate: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
}

impl OpenMode {
    /// Access mode, `O_APPEND`, `O_SYNC` and `O_DSYNC` pass; `O_TRUNC` is done apart; everything else,
    /// `O_DIRECT` too, is dropped.
    ///
    /// # Errors
    /// `EINVAL` for access mode 3.
    pub(super) fn parse(flags: u32) -> Result<Self> {
        let passed = OFlags::APPEND | OFlags::SYNC | OFlags::DSYNC;
        let access = match flags & O_ACCMODE {
            0 => OFlags::RDONLY,
            1 => OFlags::WRONLY,
            2 => OFlags::RDWR,
            _ => return Err(Errno::INVAL),
        };
        Ok(Self {
            flags: access | OFlags::from_bits_truncate(flags) & passed,
            truncate: flags & O_TRUNC != 0,
            readable: access != OFlags::WRONLY,
            writable: access != OFlags::RDONLY,
        })
    }
}

impl FileServer {
    /// FUSE_OPEN.
    ///
    /// # Errors
    /// `EROFS` to write or truncate in read-only shares and protected paths, `EISDIR`, `ELOOP`, `ENXIO` for
    /// what is no regular file, `ENFILE` at the limit of handles, what the host answers.
    pub fn open(&self, inode: u64, kill_priv: bool, flags: u32) -> io::Result<Opened> {
        let mode = OpenMode::parse(flags)?;
        let node = match self.target(inode)? {
            Target::Synthetic(Synthetic::Directory(_)) => return Err(Errno::ISDIR.into()),
            Target::Synthetic(Synthetic::Init) => return self.open_init(mode),
            Target::Host(node) => node,
        };
        match node.kind() {
            TYPE_REGULAR => {}
            TYPE_DIRECTORY => return Err(Errno::ISDIR.into()),
            TYPE_SYMLINK => return Err(Errno::LOOP.into()),
            _ => return Err(Errno::NXIO.into()),
        }
        if mode.writable || mode.truncate {
            self.check_changeable(&node)?;
        }
        self.handles.check_room()?;
        let (file, meta) = self.open_host(&node, mode.flags)?;
        if mode.truncate {
            if mode.writable {
                rustix::fs::ftruncate(&file, 0)?;
            } else {
                rustix::fs::ftruncate(&self.open_host(&node, OFlags::WRONLY)?.0, 0)?;
            }
            if kill_priv {
                self.drop_set_id(&node)?;
            }
        }
        let flags = if unchanged(&node, &meta) && !mode.truncate {
            OPEN_KEEP_CACHE
        } else {
            0
        };
        Ok(self.add_file(file, node, mode, flags)?)
    }

    fn open_init(&self, mode: OpenMode) -> io::Result<Opened> {
        if mode.writable || mode.truncate {
            return Err(Errno::ROFS.into());
        }
        self.handles.check_room()?;
        let handle = FileHandle {
            file: self.tree.init.try_clone()?,
            inode: Synthetic::Init.id(),
            writable: false,
            readable: true,
            node: None,
        };
        Ok(Opened {
            handle: self.handles.add_file(Arc::new(handle))?,
            flags: OPEN_KEEP_CACHE,
        })
    }

    pub(super) fn add_file(
        &self,
        file: File,
        node: Arc<Node>,
        mode: OpenMode,
        flags: u32,
    ) -> Result<Opened> {
        let handle = Arc::new(FileHandle {
            file,
            inode: node.id,
            writable: mode.writable,
            readable: mode.readable,
            node: Some(node.clone()),
        });
        let id = self.handles.add_file(handle.clone())?;
        node.add_handle(&handle);
        Ok(Opened { handle: id, flags })
    }

    /// Opens the regular file behind a node.
    pub(super) fn open_host(&self, node: &Arc<Node>, flags: OFlags) -> Result<(File, Meta)> {
        if node.kind() != TYPE_REGULAR {
            return Err(Errno::INVAL);
        }
        if let Some(fd) = node.open_fd() {
            let file = self.proc.reopen(&fd, flags)?;
            let meta = host::stat_fd(&file)?;
            return Ok((file, meta));
        }
        let (parent_fd, name) = self.parent_fd(node)?;
        let name = Component::parse(&name)?;
        // Should a fifo have taken the name meanwhile, the open must not wait for its other end.
        let flags = flags | OFlags::NONBLOCK;
        let none = rustix::fs::Mode::empty();
        let fd = host::open_at(&parent_fd, name.as_c_str(), flags, none).map_err(gone)?;
        let meta = host::stat_fd(&fd)?;
        check_same(node, &meta)?;
        Ok((File::from(fd), meta))
    }

    /// FUSE_READ: `transfer` gets the open file and moves the bytes (`w.write_from(file, size, offset)`).
    ///
    /// # Errors
    /// `EBADF` for a wrong handle or one not open for reading; what `transfer` answers.
    pub fn read(
        &self,
        inode: u64,
        handle: u64,
        transfer: impl FnOnce(&File) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let handle = self.handles.file(inode, handle)?;
        if !handle.readable {
            return Err(Errno::BADF.into());
        }
        transfer(&handle.file)
    }

    /// FUSE_WRITE: `transfer` gets the open file and moves the bytes (`r.read_to(file, size, offset)`).
    ///
    /// # Errors
    /// `EBADF` for a wrong handle or one not open for writing, `EROFS`; what `transfer` answers.
    pub fn write(
        &self,
        inode: u64,
        handle: u64,
        kill_priv: bool,
        transfer: impl FnOnce(&File) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let handle = self.handles.file(inode, handle)?;
        let node = self.check_writable(&handle)?;
        let written = transfer(&handle.file)?;
        if kill_priv {
            self.drop_set_id(&node)?;
        }
        Ok(written)
    }

    fn check_writable(&self, handle: &FileHandle) -> Result<Arc<Node>> {
        match &handle.node {
            Some(node) if handle.writable => {
                self.check_changeable(node)?;
                Ok(node.clone())
            }
            _ => Err(Errno::BADF),
        }
    }

    /// FUSE_FLUSH: a descriptor was closed in the guest. Everything written is with the host already.
    ///
    /// # Errors
    /// `EBADF` for a wrong handle.
    pub fn flush(&self, inode: u64, handle: u64) -> io::Result<()> {
        self.handles.file(inode, handle)?;
        Ok(())
    }

    /// FUSE_FSYNC.
    ///
    /// # Errors
    /// `EBADF` for a wrong handle; what the host answers.
    pub fn fsync(&self, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        let handle = self.handles.file(inode, handle)?;
        if datasync {
            rustix::fs::fdatasync(&handle.file)?;
        } else {
            rustix::fs::fsync(&handle.file)?;
        }
        Ok(())
    }

    /// FUSE_FALLOCATE; `range` is (offset, length).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for modes other than keep size, punch hole, zero, collapse and insert; `EROFS`; `EBADF`;
    /// what the host answers.
    pub fn fallocate(
        &self,
        inode: u64,
        handle: u64,
        mode: u32,
        range: (u64, u64),
    ) -> io::Result<()> {
        let known = FallocateFlags::KEEP_SIZE
            | FallocateFlags::PUNCH_HOLE
            | FallocateFlags::ZERO_RANGE
            | FallocateFlags::COLLAPSE_RANGE
            | FallocateFlags::INSERT_RANGE;
        let handle = self.handles.file(inode, handle)?;
        self.check_writable(&handle)?;
        let mode = FallocateFlags::from_bits(mode).filter(|mode| known.contains(*mode));
        let mode = mode.ok_or(Errno::NOTSUP)?;
        Ok(rustix::fs::fallocate(&handle.file, mode, range.0, range.1)?)
    }

    /// FUSE_RELEASE.
    ///
    /// # Errors
    /// `EBADF` for a wrong handle.
    pub fn release(&self, inode: u64, handle: u64) -> io::Result<()> {
        Ok(self.handles.close_file(inode, handle)?)
    }

    /// FUSE_LSEEK: `SEEK_DATA` (3) and `SEEK_HOLE` (4); the guest's kernel does the others.
    ///
    /// # Errors
    /// `EINVAL` for other values, `ENXIO` beyond the end, `EBADF` for a wrong handle.
    pub fn lseek(&self, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        let handle = self.handles.file(inode, handle)?;
        if i64::try_from(offset).is_err() {
            return Err(Errno::NXIO.into());
        }
        let position = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL.into()),
        };
        Ok(rustix::fs::seek(&handle.file, position)?)
    }

    /// FUSE_COPY_FILE_RANGE; each end is (node, handle, offset). May copy less than asked.
    ///
    /// # Errors
    /// `EINVAL` for flags, `EBADF` for wrong handles, `EROFS`; what the host answers.
    pub fn copy_file_range(
        &self,
        from: (u64, u64, u64),
        to: (u64, u64, u64),
        length: u64,
        flags: u64,
    ) -> io::Result<usize> {
        let source = self.handles.file(from.0, from.1)?;
        let target = self.handles.file(to.0, to.1)?;
        let node = self.check_writable(&target)?;
        if flags != 0 {
            return Err(Errno::INVAL.into());
        }
        if !source.readable {
            return Err(Errno::BADF.into());
        }
        let length = length.min(COPY_BYTES_MAX) as usize;
        let (mut at, mut onto) = (from.2, to.2);
        let copied = rustix::fs::copy_file_range(
            &source.file,
            Some(&mut at),
            &target.file,
            Some(&mut onto),
            length,
        )?;
        self.drop_set_id(&node)?;
        Ok(copied)
    }
}

/// Whether the content is surely what the guest cached when it opened the file before.
fn unchanged(node: &Node, meta: &Meta) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs() as i64);
    let settled = now.saturating_sub(meta.mtime.seconds.max(meta.ctime.seconds));
    let version: Version = (meta.mtime, meta.ctime, meta.size);
    let version = (settled >= UNSETTLED_SECONDS).then_some(version);
    let before = node.note_opened(version);
    version.is_some() && before == version
}
