//! Requests about attributes and ownership.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{AtFlags, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};
use rustix::io::{Errno, Result};

use super::{FileServer, HOST_TIMEOUT, SYNTHETIC_TIMEOUT, Target};
use crate::host::{self, Meta, ProcPath, TYPE_DIRECTORY, TYPE_REGULAR, TYPE_SYMLINK};
use crate::node::{Node, NodeFd};
use crate::owner::{OWNER_XATTR, OwnerRecord, SPECIAL_BITS};
use crate::reply::{Attr, Caller, NewTime, SetAttr, StatFs};
use crate::share::Access;

/// `access` mask: write.
const WRITE_OK: u32 = 2;
/// Nanoseconds in a second.
const SECOND: u32 = 1_000_000_000;

impl FileServer {
    /// FUSE_GETATTR.
    ///
    /// # Errors
    /// `ESTALE` for an unknown node or one that moved on the host; `EBADF` for a wrong handle.
    pub fn getattr(&self, inode: u64, handle: Option<u64>) -> io::Result<(Attr, Duration)> {
        let node = match self.target(inode)? {
            Target::Synthetic(node) => return Ok((self.tree.attr(node), SYNTHETIC_TIMEOUT)),
            Target::Host(node) => node,
        };
        if let Some(handle) = handle
            && node.kind() == TYPE_REGULAR
        {
            self.handles.file(inode, handle)?;
        }
        Ok((self.current_attr(&node)?, HOST_TIMEOUT))
    }

    /// FUSE_SETATTR.
    ///
    /// # Errors
    /// `EROFS` in read-only shares and protected paths; `EPERM` to change the owner of another host
    /// user's file; what the host answers.
    pub fn setattr(
        &self,
        inode: u64,
        handle: Option<u64>,
        change: &SetAttr,
    ) -> io::Result<(Attr, Duration)> {
        let node = self.host_node(inode)?;
        self.check_changeable(&node)?;
        if change.uid.is_some() || change.gid.is_some() {
            self.change_owner(&node, change.uid, change.gid)?;
        }
        if let Some(mode) = change.mode {
            self.change_mode(&node, mode)?;
        }
        if let Some(size) = change.size {
            self.change_size(&node, handle, size)?;
            if change.kill_priv {
                self.drop_set_id(&node)?;
            }
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps {
                last_access: host_time(change.atime)?,
                last_modification: host_time(change.mtime)?,
            };
            let fd = self.fd_of(&node)?;
            rustix::fs::utimensat(&fd, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        Ok((self.current_attr(&node)?, HOST_TIMEOUT))
    }

    /// FUSE_READLINK: the target exactly as stored; the guest's kernel resolves it.
    ///
    /// # Errors
    /// `EINVAL` if the node is no link.
    pub fn readlink(&self, inode: u64) -> io::Result<Vec<u8>> {
        match self.target(inode)? {
            Target::Host(node) if node.kind() == TYPE_SYMLINK => {
                let fd = self.fd_of(&node)?;
                Ok(rustix::fs::readlinkat(&fd, c"", Vec::new())?.into_bytes())
            }
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// FUSE_ACCESS. The guest's kernel judges permissions itself and does not ask.
    ///
    /// # Errors
    /// `EROFS` to write what takes no change, `EACCES` by owner, group and mode.
    pub fn access(&self, caller: Caller, inode: u64, mask: u32) -> io::Result<()> {
        let attr = match self.target(inode)? {
            Target::Synthetic(_) if mask & WRITE_OK != 0 => return Err(Errno::ROFS.into()),
            Target::Synthetic(node) => self.tree.attr(node),
            Target::Host(node) => {
                if mask & WRITE_OK != 0 && node.share.access == Access::ReadOnly {
                    return Err(Errno::ROFS.into());
                }
                self.current_attr(&node)?
            }
        };
        let granted = match caller {
            Caller { uid: 0, .. } => 7,
            Caller { uid, .. } if uid == attr.uid => attr.mode >> 6,
            Caller { gid, .. } if gid == attr.gid => attr.mode >> 3,
            Caller { .. } => attr.mode,
        };
        if mask & 7 & !granted != 0 {
            return Err(Errno::ACCESS.into());
        }
        Ok(())
    }

    /// FUSE_STATFS: the host file system behind the node.
    ///
    /// # Errors
    /// `ESTALE` for an unknown node.
    pub fn statfs(&self, inode: u64) -> io::Result<StatFs> {
        let node = match self.target(inode)? {
            Target::Synthetic(_) => {
                return Ok(StatFs {
                    bsize: 4096,
                    frsize: 4096,
                    namelen: 255,
                    ..StatFs::default()
                });
            }
            Target::Host(node) => node,
        };
        let stat = rustix::fs::fstatvfs(self.fd_of(&node)?)?;
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(StatFs {
            blocks: stat.f_blocks,
            bfree: stat.f_bfree,
            bavail: stat.f_bavail,
            files: stat.f_files,
            ffree: stat.f_ffree,
            bsize: narrow(stat.f_bsize),
            frsize: narrow(stat.f_frsize),
            namelen: narrow(stat.f_namemax),
        })
    }

    fn owner(&self, meta: &Meta, record: Option<OwnerRecord>) -> OwnerRecord {
        record.unwrap_or_else(|| self.owners.natural(meta))
    }

    fn change_owner(&self, node: &Arc<Node>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (meta, record) = self.current(node)?;
        let before = self.owner(&meta, record);
        let mut after = OwnerRecord {
            uid: uid.unwrap_or(before.uid),
            gid: gid.unwrap_or(before.gid),
            ..before
        };
        if node.kind() == TYPE_REGULAR {
            after = after.without_set_id(meta.mode);
        }
        self.store_owner(node, &meta, after)
    }

    fn change_mode(&self, node: &Arc<Node>, mode: u32) -> Result<()> {
        if node.kind() == TYPE_SYMLINK {
            return Err(Errno::NOTSUP);
        }
        let (meta, record) = self.current(node)?;
        let owner = self.owner(&meta, record);
        // Set-id and sticky bits a host directory has stay; none is ever added.
        let kept = if node.kind() == TYPE_DIRECTORY {
            meta.mode & SPECIAL_BITS
        } else {
            0
        };
        let host_mode = mode & 0o777 | kept;
        if meta.mode & 0o7777 != host_mode {
            let fd = self.fd_of(node)?;
            host::change_mode(&fd, host_mode)?;
        }
        let meta = Meta {
            mode: meta.mode & !0o7777 | host_mode,
            ..meta
        };
        let after = OwnerRecord {
            special: mode & SPECIAL_BITS,
            ..owner
        };
        self.store_owner(node, &meta, after)
    }

    fn change_size(&self, node: &Arc<Node>, handle: Option<u64>, size: u64) -> Result<()> {
        let handle = handle.map(|handle| self.handles.file(node.id, handle));
        if let Some(handle) = handle.transpose()?
            && handle.writable
        {
            return rustix::fs::ftruncate(&handle.file, size);
        }
        let (file, _) = self.open_host(node, OFlags::WRONLY)?;
        rustix::fs::ftruncate(&file, size)
    }

    /// Makes the guest see `after` as owner and special bits of the file.
    pub(super) fn store_owner(
        &self,
        node: &Arc<Node>,
        meta: &Meta,
        after: OwnerRecord,
    ) -> Result<()> {
        let share = &node.share;
        let fd = || self.fd_of(node);
        let stored = self.record_now(node, meta)?;
        if self.owner(meta, stored) == after {
            return Ok(());
        }
        if meta.uid != self.owners.host_uid {
            return Err(Errno::PERM);
        }
        node.forget_record();
        let takes_xattrs = share.takes_xattrs.load(Ordering::Relaxed)
            && matches!(node.kind(), TYPE_REGULAR | TYPE_DIRECTORY);
        if after == self.owners.natural(meta) {
            share.memory_records.remove(&node.identity);
            if !takes_xattrs {
                return Ok(());
            }
            return match rustix::fs::removexattr(ProcPath::of(fd()?).as_c_str(), OWNER_XATTR) {
                Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
                Err(_) => share.memory_records.store(node.identity, after),
            };
        }
        let kept_with_file = takes_xattrs
            && rustix::fs::setxattr(
                ProcPath::of(fd()?).as_c_str(),
                OWNER_XATTR,
                &after.encode(),
                XattrFlags::empty(),
            )
            .is_ok();
        if kept_with_file {
            share.memory_records.remove(&node.identity);
            return Ok(());
        }
        // No attributes here, or the file's own mode forbids them: remember it for this session.
        share.memory_records.store(node.identity, after)
    }

    fn record_now(&self, node: &Arc<Node>, meta: &Meta) -> Result<Option<OwnerRecord>> {
        if !matches!(node.kind(), TYPE_REGULAR | TYPE_DIRECTORY) {
            return Ok(node.share.memory_records.find(&node.identity));
        }
        let fd = self.fd_of(node)?;
        Ok(self.record(node, meta, || super::Path::Fd(&fd)))
    }

    /// Content changed: recorded set-id bits go.
    pub(super) fn drop_set_id(&self, node: &Arc<Node>) -> Result<()> {
        if !node.may_have_set_id() {
            return Ok(());
        }
        let (meta, record) = self.current(node)?;
        let before = self.owner(&meta, record);
        let after = before.without_set_id(meta.mode);
        if after != before {
            self.store_owner(node, &meta, after)?;
        }
        Ok(())
    }

    /// Gives a file just made its owner and special bits; the mode on the host becomes exactly `mode`.
    pub(super) fn settle_new(
        &self,
        node: &Arc<Node>,
        fd: &NodeFd,
        owner: OwnerRecord,
        mode: u32,
    ) -> Result<(Meta, Option<OwnerRecord>)> {
        let mut meta = host::stat_fd(fd)?;
        let kept = meta.mode & SPECIAL_BITS;
        let wanted = mode & 0o777 | kept;
        if node.kind() != TYPE_SYMLINK && meta.mode & 0o7777 != wanted {
            host::change_mode(fd, wanted)?;
            meta = host::stat_fd(fd)?;
        }
        if self.owners.natural(&meta) != owner {
            self.store_owner(node, &meta, owner)?;
            meta = host::stat_fd(fd)?;
        }
        Ok((meta, self.record(node, &meta, || super::Path::Fd(fd))))
    }
}

fn host_time(time: Option<NewTime>) -> Result<Timespec> {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match time {
        None => Ok(special(UTIME_OMIT)),
        Some(NewTime::Now) => Ok(special(UTIME_NOW)),
        Some(NewTime::At(at)) if at.nanoseconds >= SECOND => Err(Errno::INVAL),
        Some(NewTime::At(at)) => Ok(Timespec {
            tv_sec: at.seconds,
            tv_nsec: at.nanoseconds.into(),
        }),
    }
}
