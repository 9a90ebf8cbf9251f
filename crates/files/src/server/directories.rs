//! Requests that make, remove and move names.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, Result};

use super::content::OpenMode;
use super::{FileServer, check_same};
use crate::component::Component;
use crate::guard::Guard;
use crate::host::{
    self, Meta, ProcPath, TYPE_DIRECTORY, TYPE_FIFO, TYPE_MASK, TYPE_REGULAR, TYPE_SOCKET,
};
use crate::node::{Identity, Node, NodeFd};
use crate::owner::{OwnerRecord, SPECIAL_BITS};
use crate::reply::{Caller, Entry, NewFile, Opened};

/// Longest link target in bytes.
const TARGET_LENGTH_MAX: usize = 4095;
const O_EXCL: u32 = 0o200;
const SET_GROUP_ID: u32 = 0o2000;

/// A directory the guest may change, open.
struct Directory {
    node: Arc<Node>,
    fd: NodeFd,
}

impl FileServer {
    /// FUSE_MKDIR.
    ///
    /// # Errors
    /// As [`FileServer::lookup`] for the name; `EROFS`; what the host answers.
    pub fn mkdir(
        &self,
        caller: Caller,
        parent: u64,
        name: &CStr,
        new: NewFile,
    ) -> io::Result<Entry> {
        let name = Component::parse(name)?;
        let directory = self.changeable_directory(parent)?;
        // A directory on the way to a protected path may be made: it is guarded from then on.
        if directory.guard_of(name) == Guard::Inside {
            return Err(Errno::ROFS.into());
        }
        let mode = new.mode & !new.umask;
        let host_mode = Mode::from_raw_mode(mode & 0o777);
        rustix::fs::mkdirat(&directory.fd, name.as_c_str(), host_mode)?;
        Ok(self.enter_new(caller, &directory, name, mode | TYPE_DIRECTORY)?)
    }

    /// FUSE_MKNOD: regular files, fifos and sockets.
    ///
    /// # Errors
    /// `EPERM` for devices; as [`FileServer::mkdir`].
    pub fn mknod(
        &self,
        caller: Caller,
        parent: u64,
        name: &CStr,
        new: NewFile,
    ) -> io::Result<Entry> {
        let name = Component::parse(name)?;
        let directory = self.changeable_directory(parent)?;
        directory.check_free(name)?;
        let mode = new.mode & !new.umask;
        let host_mode = Mode::from_raw_mode(mode & 0o777);
        let node = |kind| rustix::fs::mknodat(&directory.fd, name.as_c_str(), kind, host_mode, 0);
        let kind = match new.mode & TYPE_MASK {
            0 | TYPE_REGULAR => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                host::open_at(&directory.fd, name.as_c_str(), flags, host_mode)?;
                TYPE_REGULAR
            }
            TYPE_FIFO => node(FileType::Fifo).map(|()| TYPE_FIFO)?,
            TYPE_SOCKET => node(FileType::Socket).map(|()| TYPE_SOCKET)?,
            _ => return Err(Errno::PERM.into()),
        };
        Ok(self.enter_new(caller, &directory, name, mode & !TYPE_MASK | kind)?)
    }

    /// FUSE_SYMLINK: the target is stored as it is.
    ///
    /// # Errors
    /// As [`FileServer::mkdir`]; `ENOENT` for an empty target, `ENAMETOOLONG` above 4095 bytes.
    pub fn symlink(
        &self,
        caller: Caller,
        target: &CStr,
        parent: u64,
        name: &CStr,
    ) -> io::Result<Entry> {
        let name = Component::parse(name)?;
        if target.to_bytes().len() > TARGET_LENGTH_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let directory = self.changeable_directory(parent)?;
        directory.check_free(name)?;
        rustix::fs::symlinkat(target, &directory.fd, name.as_c_str())?;
        Ok(self.enter_new(caller, &directory, name, 0o777)?)
    }

    /// FUSE_CREATE: makes and opens a regular file, or opens what is there unless `O_EXCL`.
    ///
    /// # Errors
    /// As [`FileServer::mkdir`] and [`FileServer::open`].
    pub fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &CStr,
        new: NewFile,
    ) -> io::Result<(Entry, Opened)> {
        let name = Component::parse(name)?;
        let open_mode = OpenMode::parse(new.flags)?;
        let directory = self.changeable_directory(parent)?;
        directory.check_free(name)?;
        self.handles.check_room()?;
        let mode = new.mode & !new.umask;
        let flags = open_mode.flags | OFlags::CREATE | OFlags::EXCL;
        let host_mode = Mode::from_raw_mode(mode & 0o777);
        let fd = match host::open_at(&directory.fd, name.as_c_str(), flags, host_mode) {
            Err(Errno::EXIST) if new.flags & O_EXCL == 0 => {
                return self.open_existing(&directory, name, new);
            }
            other => other?,
        };
        let meta = host::stat_fd(&fd)?;
        let node = self.node_of(&directory.node, name, &meta)?;
        let undo = Undo::new(self, node.id);
        let opened = self.add_file(File::from(fd), node.clone(), open_mode, 0)?;
        let settled = self.settle(caller, &directory, &node, mode);
        let (meta, record) = settled.inspect_err(|_| {
            // The guest will not hear of the handle.
            let _ = self.handles.close_file(node.id, opened.handle);
        })?;
        undo.keep();
        Ok((self.host_entry(&node, &meta, record), opened))
    }

    fn open_existing(
        &self,
        directory: &Directory,
        name: Component<'_>,
        new: NewFile,
    ) -> io::Result<(Entry, Opened)> {
        let entry = self.enter(&directory.node, &directory.fd, name, None)?;
        let undo = Undo::new(self, entry.inode);
        let opened = self.open(entry.inode, new.kill_priv, new.flags)?;
        let (attr, _) = self.getattr(entry.inode, Some(opened.handle))?;
        undo.keep();
        Ok((Entry { attr, ..entry }, opened))
    }

    /// FUSE_LINK.
    ///
    /// # Errors
    /// `EPERM` for directories and guarded files, `EXDEV` between shares; as [`FileServer::mkdir`].
    pub fn link(&self, inode: u64, new_parent: u64, new_name: &CStr) -> io::Result<Entry> {
        let name = Component::parse(new_name)?;
        let node = self.host_node(inode)?;
        let directory = self.changeable_directory(new_parent)?;
        if !Arc::ptr_eq(&node.share, &directory.node.share) || node.permanent {
            return Err(Errno::XDEV.into());
        }
        if node.kind() == TYPE_DIRECTORY {
            return Err(Errno::PERM.into());
        }
        check_guard(node.guard())?;
        directory.check_free(name)?;
        let source = ProcPath::of(self.fd_of(&node)?);
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(
            CWD,
            source.as_c_str(),
            &directory.fd,
            name.as_c_str(),
            flags,
        )?;
        Ok(self.enter(&directory.node, &directory.fd, name, None)?)
    }

    /// FUSE_UNLINK.
    ///
    /// # Errors
    /// `EROFS`, `EPERM` for what leads to a protected path; what the host answers.
    pub fn unlink(&self, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(parent, name, AtFlags::empty())
    }

    /// FUSE_RMDIR.
    ///
    /// # Errors
    /// As [`FileServer::unlink`].
    pub fn rmdir(&self, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(parent, name, AtFlags::REMOVEDIR)
    }

    fn remove(&self, parent: u64, name: &CStr, flags: AtFlags) -> io::Result<()> {
        let name = Component::parse(name)?;
        let directory = self.changeable_directory(parent)?;
        let (meta, node) = self.free_entry(&directory, name)?;
        self.keep_other_link(&directory, name, &meta, node.as_ref());
        rustix::fs::unlinkat(&directory.fd, name.as_c_str(), flags)?;
        if let Some(node) = node {
            node.forget_record();
        }
        if meta.nlink <= 1 {
            let identity = Identity::of(directory.node.share.index, &meta);
            directory.node.share.memory_records.remove(&identity);
        }
        Ok(())
    }

    /// FUSE_RENAME and FUSE_RENAME2; both ends are (directory node, name). Flags are 0,
    /// `RENAME_NOREPLACE` (1) or `RENAME_EXCHANGE` (2).
    ///
    /// # Errors
    /// `EINVAL` for other flags, `EXDEV` between shares, `EROFS`, `EPERM` for what is or leads to a
    /// protected path; what the host answers.
    pub fn rename(&self, from: (u64, &CStr), to: (u64, &CStr), flags: u32) -> io::Result<()> {
        let old_name = Component::parse(from.1)?;
        let new_name = Component::parse(to.1)?;
        let flags = match flags {
            0 => RenameFlags::empty(),
            1 => RenameFlags::NOREPLACE,
            2 => RenameFlags::EXCHANGE,
            _ => return Err(Errno::INVAL.into()),
        };
        let old = self.changeable_directory(from.0)?;
        let new = self.changeable_directory(to.0)?;
        if !Arc::ptr_eq(&old.node.share, &new.node.share) {
            return Err(Errno::XDEV.into());
        }
        let (_, moved) = self.free_entry(&old, old_name)?;
        new.check_free(new_name)?;
        let replaced = match self.free_entry(&new, new_name) {
            Err(Errno::NOENT) => None,
            other => Some(other?),
        };
        if let Some((meta, node)) = &replaced {
            self.keep_other_link(&new, new_name, meta, node.as_ref());
        }
        let (old_c, new_c) = (old_name.as_c_str(), new_name.as_c_str());
        rustix::fs::renameat_with(&old.fd, old_c, &new.fd, new_c, flags)?;
        if let Some(node) = moved {
            node.move_to(new.node.id, new_c);
        }
        if let (RenameFlags::EXCHANGE, Some((_, Some(node)))) = (flags, replaced) {
            node.move_to(old.node.id, old_c);
        }
        Ok(())
    }

    fn changeable_directory(&self, inode: u64) -> Result<Directory> {
        let node = self.host_node(inode)?;
        let fd = self.directory_fd(&node)?;
        self.check_changeable(&node)?;
        Ok(Directory { node, fd })
    }

    /// What `name` is now, if the guest may remove, move or replace it, and its node if known.
    fn free_entry(
        &self,
        directory: &Directory,
        name: Component<'_>,
    ) -> Result<(Meta, Option<Arc<Node>>)> {
        directory.check_free(name)?;
        let meta = host::stat_at(&directory.fd, name)?;
        let share = &directory.node.share;
        check_guard(share.guards.by_identity(meta.dev, meta.ino))?;
        let node = self.nodes.find_identity(&Identity::of(share.index, &meta));
        if let Some(node) = &node {
            check_guard(node.guard())?;
        }
        Ok((meta, node))
    }

    /// Opens a file about to lose the name it is known by while others remain. Best effort: the guest's
    /// kernel looks the other name up again upon `ESTALE`.
    fn keep_other_link(
        &self,
        directory: &Directory,
        name: Component<'_>,
        meta: &Meta,
        node: Option<&Arc<Node>>,
    ) {
        let Some(node) = node.filter(|node| meta.nlink > 1 && node.open_fd().is_none()) else {
            return;
        };
        let keep = || {
            let fd = Arc::new(host::open_path_at(&directory.fd, name)?);
            check_same(node, &host::stat_fd(&fd)?)?;
            self.descriptors.keep(node, fd)
        };
        let _: Result<()> = keep();
    }

    /// Enters what was just made as `name`.
    fn enter_new(
        &self,
        caller: Caller,
        directory: &Directory,
        name: Component<'_>,
        mode: u32,
    ) -> Result<Entry> {
        let meta = host::stat_at(&directory.fd, name)?;
        let node = self.node_of(&directory.node, name, &meta)?;
        let undo = Undo::new(self, node.id);
        let (meta, record) = self.settle(caller, directory, &node, mode)?;
        undo.keep();
        Ok(self.host_entry(&node, &meta, record))
    }

    /// Mode and owner of something just made, as on a local file system: a directory with
    /// set-group-id hands on its group.
    fn settle(
        &self,
        caller: Caller,
        directory: &Directory,
        node: &Arc<Node>,
        mode: u32,
    ) -> Result<(Meta, Option<OwnerRecord>)> {
        let (meta, record) = self.current(&directory.node)?;
        let parent = record.unwrap_or_else(|| self.owners.natural(&meta));
        let mut owner = OwnerRecord {
            uid: caller.uid,
            gid: caller.gid,
            special: mode & SPECIAL_BITS,
        };
        if parent.special & SET_GROUP_ID != 0 {
            owner.gid = parent.gid;
            if node.kind() == TYPE_DIRECTORY {
                owner.special |= SET_GROUP_ID;
            }
        }
        let fd = self.fd_of(node)?;
        self.settle_new(node, &fd, owner, mode)
    }
}

impl Directory {
    fn guard_of(&self, name: Component<'_>) -> Guard {
        let share = &self.node.share;
        share.guards.child(self.node.guard(), name.as_bytes())
    }

    /// Whether the guest may put something else on `name`.
    fn check_free(&self, name: Component<'_>) -> Result<()> {
        check_guard(self.guard_of(name))
    }
}

fn check_guard(guard: Guard) -> Result<()> {
    match guard {
        Guard::Free => Ok(()),
        Guard::Prefix(_) => Err(Errno::PERM),
        Guard::Inside => Err(Errno::ROFS),
    }
}

/// Takes the lookup back unless the guest is told of the node.
struct Undo<'a> {
    server: &'a FileServer,
    inode: Option<u64>,
}

impl<'a> Undo<'a> {
    fn new(server: &'a FileServer, inode: u64) -> Self {
        Self {
            server,
            inode: Some(inode),
        }
    }

    fn keep(mut self) {
        self.inode = None;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(inode) = self.inode {
            self.server.forget(inode, 1);
        }
    }
}
