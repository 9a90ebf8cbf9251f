//! The file server: state, node resolution and the requests about nodes.
//!
//! Theory of operation. A request names nodes by id and, for most changes, one entry of a directory
//! node by name. Ids are looked up in the synthetic tree first, then in the node table. A name is
//! parsed into one component before anything else happens. A host file is reached either through a
//! descriptor that is open, or from its parent directory by the name it was last seen under; then it
//! must still be the same file (device, inode number, type, birth time), else the answer is `ESTALE`,
//! upon which the guest's kernel looks the name up again. Read-only shares and protected paths are
//! refused here, on the host, before the host's file system is asked.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::{Errno, Result};

use crate::component::Component;
use crate::descriptor_cache::DescriptorCache;
use crate::guard::Guard;
use crate::handle_table::HandleTable;
use crate::host::{self, Meta, ProcFd, ProcPath, TYPE_DIRECTORY, TYPE_REGULAR};
use crate::node::{Identity, Node, NodeFd};
use crate::node_table::NodeTable;
use crate::owner::{OWNER_XATTR, OwnerMap, OwnerRecord, SPECIAL_BITS};
use crate::reply::{ATTR_SUBMOUNT, Attr, Entry, init_flag};
use crate::share::Access;
use crate::synthetic::{Child, Synthetic, SyntheticTree};

mod attributes;
mod content;
mod directories;
mod listing;
mod xattrs;

#[cfg(test)]
mod tests;

/// How long the guest may keep names and attributes of host files: edits on the host show within a second.
pub const HOST_TIMEOUT: Duration = Duration::from_millis(900);

/// The same for the synthetic tree, which never changes.
const SYNTHETIC_TIMEOUT: Duration = Duration::from_secs(3600);

/// Deepest chain of directories walked to reach a node again.
const DEPTH_MAX: usize = 4096;

/// The server behind one virtio-fs device, usable from several threads.
///
/// Each method is one FUSE request; all answer the host's real errno where the host refused.
#[derive(Debug)]
pub struct FileServer {
    pub(crate) proc: ProcFd,
    pub(crate) owners: OwnerMap,
    pub(crate) tree: SyntheticTree,
    pub(crate) nodes: NodeTable,
    pub(crate) descriptors: DescriptorCache,
    pub(crate) handles: HandleTable,
}

/// What a node id refers to.
enum Target {
    Synthetic(Synthetic),
    Host(Arc<Node>),
}

impl FileServer {
    /// FUSE_INIT: takes the guest's flags (`flags | flags2 << 32`), answers those wanted of them.
    /// Begins a session: nodes and handles of one before are gone.
    pub fn init(&self, capable: u64) -> u64 {
        use init_flag::*;
        self.destroy();
        capable
            & (ASYNC_READ
                | ATOMIC_O_TRUNC
                | BIG_WRITES
                | AUTO_INVAL_DATA
                | DO_READDIRPLUS
                | READDIRPLUS_AUTO
                | PARALLEL_DIROPS
                | MAX_PAGES
                | SUBMOUNTS
                | HANDLE_KILLPRIV_V2)
    }

    /// FUSE_DESTROY: forgets every node and closes every handle.
    pub fn destroy(&self) {
        self.handles.clear();
        for node in self.nodes.clear() {
            self.descriptors.close(&node);
        }
    }

    /// FUSE_LOOKUP.
    ///
    /// # Errors
    /// `ENOENT`, also for an empty name; `EINVAL` for `.`, `..` and names with a slash; `ENFILE` if the
    /// guest holds too many nodes; what the host answers.
    pub fn lookup(&self, parent: u64, name: &CStr) -> io::Result<Entry> {
        let name = Component::parse(name)?;
        match self.target(parent)? {
            Target::Synthetic(Synthetic::Init) => Err(Errno::NOTDIR.into()),
            Target::Synthetic(directory) => {
                let child = self.tree.child(directory.id(), name.as_c_str());
                Ok(self.synthetic_entry(child.ok_or(Errno::NOENT)?)?)
            }
            Target::Host(node) => {
                let fd = self.directory_fd(&node)?;
                Ok(self.enter(&node, &fd, name, None)?)
            }
        }
    }

    /// FUSE_FORGET, also for each part of FUSE_BATCH_FORGET.
    pub fn forget(&self, inode: u64, count: u64) {
        if let Some(node) = self.nodes.forget(inode, count) {
            self.descriptors.close(&node);
        }
    }

    fn target(&self, inode: u64) -> Result<Target> {
        if let Some(node) = self.tree.find(inode) {
            return Ok(Target::Synthetic(node));
        }
        self.nodes.find(inode).map(Target::Host).ok_or(Errno::STALE)
    }

    /// A node on the host; the synthetic tree takes no change.
    fn host_node(&self, inode: u64) -> Result<Arc<Node>> {
        match self.target(inode)? {
            Target::Synthetic(_) => Err(Errno::ROFS),
            Target::Host(node) => Ok(node),
        }
    }

    fn synthetic_entry(&self, child: Child<'_>) -> Result<Entry> {
        match child {
            Child::Synthetic(node) => Ok(Entry {
                inode: node.id(),
                attr: self.tree.attr(node),
                attr_timeout: SYNTHETIC_TIMEOUT,
                entry_timeout: SYNTHETIC_TIMEOUT,
                ..Entry::default()
            }),
            Child::Share(node) => {
                let attr = self.current_attr(node)?;
                let is_directory = node.kind() == TYPE_DIRECTORY;
                Ok(Entry {
                    inode: node.id,
                    attr,
                    attr_flags: if is_directory { ATTR_SUBMOUNT } else { 0 },
                    attr_timeout: HOST_TIMEOUT,
                    entry_timeout: SYNTHETIC_TIMEOUT,
                    ..Entry::default()
                })
            }
        }
    }

    /// Gives the guest the node of `name` in `parent`, counting one lookup.
    fn enter(
        &self,
        parent: &Node,
        parent_fd: &NodeFd,
        name: Component<'_>,
        meta: Option<Meta>,
    ) -> Result<Entry> {
        let meta = match meta {
            Some(meta) => meta,
            None => host::stat_at(parent_fd, name)?,
        };
        let node = self.node_of(parent, name, &meta)?;
        let record = self.record(&node, &meta, || Path::Child(parent_fd, name));
        Ok(self.host_entry(&node, &meta, record))
    }

    /// The node of a file seen as `name` in `parent`, with one more lookup.
    fn node_of(&self, parent: &Node, name: Component<'_>, meta: &Meta) -> Result<Arc<Node>> {
        let share = &parent.share;
        let identity = Identity::of(share.index, meta);
        let place = (parent.id, name.as_c_str());
        let node = self
            .nodes
            .look_up(identity, |id| Node::new(id, share.clone(), identity, place))?;
        node.move_to(parent.id, name.as_c_str());
        node.raise_guard(share.guards.child(parent.guard(), name.as_bytes()));
        node.raise_guard(share.guards.by_identity(meta.dev, meta.ino));
        Ok(node)
    }

    fn host_entry(&self, node: &Node, meta: &Meta, record: Option<OwnerRecord>) -> Entry {
        Entry {
            inode: node.id,
            attr: self.attr(node, meta, record),
            attr_timeout: HOST_TIMEOUT,
            entry_timeout: HOST_TIMEOUT,
            ..Entry::default()
        }
    }

    /// Attributes as the guest sees them.
    fn attr(&self, node: &Node, meta: &Meta, record: Option<OwnerRecord>) -> Attr {
        let owner = record.unwrap_or_else(|| self.owners.natural(meta));
        let lone_file = node.permanent && node.kind() == TYPE_REGULAR;
        Attr {
            // A share of one file lives in the synthetic file system, whose numbers are the ids.
            ino: if lone_file {
                node.id
            } else {
                node.share.shown_ino(meta.dev, meta.ino)
            },
            size: meta.size,
            blocks: meta.blocks,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            mode: meta.mode & !SPECIAL_BITS | owner.special,
            nlink: meta.nlink,
            uid: owner.uid,
            gid: owner.gid,
            rdev: 0,
            blksize: meta.blksize,
        }
    }

    /// The ownership record of a file, from memory, from what was read before, or from the file.
    fn record<'a>(
        &self,
        node: &Node,
        meta: &Meta,
        path: impl FnOnce() -> Path<'a>,
    ) -> Option<OwnerRecord> {
        let share = &node.share;
        if let Some(record) = share.memory_records.find(&node.identity) {
            return Some(record);
        }
        let takes_xattrs = share.takes_xattrs.load(Ordering::Relaxed);
        if !takes_xattrs || !matches!(node.kind(), TYPE_REGULAR | TYPE_DIRECTORY) {
            return None;
        }
        if let Some(known) = node.cached_record(meta.ctime) {
            return known;
        }
        let mut value = [0u8; 32];
        let record = match path().read_xattr(OWNER_XATTR, &mut value) {
            Ok(length) => OwnerRecord::decode(&value[..length]),
            Err(Errno::NODATA | Errno::RANGE) => None,
            Err(Errno::NOTSUP) => {
                if meta.dev == share.root_dev {
                    share.takes_xattrs.store(false, Ordering::Relaxed);
                }
                None
            }
            Err(_) => return None,
        };
        node.cache_record(meta.ctime, record);
        record
    }

    /// A descriptor of the node, opened again by name if need be.
    fn fd_of(&self, node: &Arc<Node>) -> Result<NodeFd> {
        if let Some(fd) = node.open_fd() {
            return Ok(fd);
        }
        let mut chain = vec![node.clone()];
        let mut fd = loop {
            let (parent, _) = chain[chain.len() - 1].location();
            let parent = self.nodes.find(parent).ok_or(Errno::STALE)?;
            if let Some(fd) = parent.open_fd() {
                break fd;
            }
            if chain.len() >= DEPTH_MAX {
                return Err(Errno::STALE);
            }
            chain.push(parent);
        };
        while let Some(node) = chain.pop() {
            let (_, name) = node.location();
            let name = Component::parse(&name)?;
            let path = Arc::new(host::open_path_at(&fd, name).map_err(gone)?);
            check_same(&node, &host::stat_fd(&path)?)?;
            self.descriptors.keep(&node, path.clone())?;
            fd = NodeFd::Path(path);
        }
        Ok(fd)
    }

    fn directory_fd(&self, node: &Arc<Node>) -> Result<NodeFd> {
        if node.kind() != TYPE_DIRECTORY {
            return Err(Errno::NOTDIR);
        }
        self.fd_of(node)
    }

    /// A descriptor of the directory the node was last seen in.
    fn parent_fd(&self, node: &Node) -> Result<(NodeFd, std::ffi::CString)> {
        let (parent, name) = node.location();
        let parent = self.nodes.find(parent).ok_or(Errno::STALE)?;
        Ok((self.fd_of(&parent)?, name))
    }

    /// What the host says about a node now, and its ownership record, without opening it.
    fn current(&self, node: &Arc<Node>) -> Result<(Meta, Option<OwnerRecord>)> {
        if let Some(fd) = node.open_fd() {
            let meta = host::stat_fd(&fd)?;
            return Ok((meta, self.record(node, &meta, || Path::Fd(&fd))));
        }
        let (parent_fd, name) = self.parent_fd(node)?;
        let name = Component::parse(&name)?;
        let meta = host::stat_at(&parent_fd, name).map_err(gone)?;
        check_same(node, &meta)?;
        let record = self.record(node, &meta, || Path::Child(&parent_fd, name));
        Ok((meta, record))
    }

    fn current_attr(&self, node: &Arc<Node>) -> Result<Attr> {
        let (meta, record) = self.current(node)?;
        Ok(self.attr(node, &meta, record))
    }

    /// Whether the guest may change content and attributes of the node.
    fn check_changeable(&self, node: &Node) -> Result<()> {
        let protected = match node.guard() {
            Guard::Free => false,
            // A file or link on the way would lead elsewhere if changed (a `.git` file).
            Guard::Prefix(_) => node.kind() != TYPE_DIRECTORY,
            Guard::Inside => true,
        };
        if protected || node.share.access == Access::ReadOnly {
            return Err(Errno::ROFS);
        }
        Ok(())
    }
}

/// Where an extended attribute is read from.
enum Path<'a> {
    Fd(&'a NodeFd),
    Child(&'a NodeFd, Component<'a>),
}

impl Path<'_> {
    fn read_xattr(&self, name: &CStr, value: &mut [u8]) -> Result<usize> {
        match self {
            Self::Fd(fd) => rustix::fs::getxattr(ProcPath::of(fd).as_c_str(), name, value),
            Self::Child(fd, child) => {
                rustix::fs::lgetxattr(ProcPath::of_child(fd, *child).as_c_str(), name, value)
            }
        }
    }
}

/// A known file that is no longer where it was.
fn gone(errno: Errno) -> Errno {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO => Errno::STALE,
        other => other,
    }
}

fn check_same(node: &Node, meta: &Meta) -> Result<()> {
    if Identity::of(node.share.index, meta) == node.identity {
        Ok(())
    } else {
        Err(Errno::STALE)
    }
}
