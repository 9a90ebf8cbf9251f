//! Open files and directories, bounded.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rustix::io::{Errno, Result};

use crate::directory_stream::DirectoryStream;
use crate::node::Node;

/// An open regular file.
#[derive(Debug)]
pub(crate) struct FileHandle {
    /// Open with the asked access mode.
    pub(crate) file: File,
    /// Node id it belongs to.
    pub(crate) inode: u64,
    /// Whether it was opened for writing.
    pub(crate) writable: bool,
    /// Whether it was opened for reading.
    pub(crate) readable: bool,
    /// The node; none for synthetic files.
    pub(crate) node: Option<Arc<Node>>,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct DirectoryHandle {
    pub(crate) inode: u64,
    /// Listing state; none for synthetic directories.
    pub(crate) stream: Option<DirectoryStream>,
}

#[derive(Clone, Debug)]
enum Handle {
    File(Arc<FileHandle>),
    Directory(Arc<DirectoryHandle>),
}

#[derive(Debug)]
pub(crate) struct HandleTable {
    handles: RwLock<HashMap<u64, Handle>>,
    next: AtomicU64,
    limit: usize,
}

impl HandleTable {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            handles: RwLock::default(),
            next: AtomicU64::new(1),
            limit,
        }
    }

    /// Whether one more can be opened; asked before the host is touched.
    ///
    /// # Errors
    /// `ENFILE` at the limit.
    pub(crate) fn check_room(&self) -> Result<()> {
        if self.handles.read().len() >= self.limit {
            return Err(Errno::NFILE);
        }
        Ok(())
    }

    fn add(&self, handle: Handle) -> Result<u64> {
        let mut handles = self.handles.write();
        if handles.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        handles.insert(id, handle);
        Ok(id)
    }

    pub(crate) fn add_file(&self, handle: Arc<FileHandle>) -> Result<u64> {
        self.add(Handle::File(handle))
    }

    pub(crate) fn add_directory(&self, handle: DirectoryHandle) -> Result<u64> {
        self.add(Handle::Directory(Arc::new(handle)))
    }

    /// The open file `id` of node `inode`.
    ///
    /// # Errors
    /// `EBADF` if there is none such.
    pub(crate) fn file(&self, inode: u64, id: u64) -> Result<Arc<FileHandle>> {
        match self.handles.read().get(&id) {
            Some(Handle::File(handle)) if handle.inode == inode => Ok(handle.clone()),
            _ => Err(Errno::BADF),
        }
    }

    /// The open directory `id` of node `inode`.
    ///
    /// # Errors
    /// `EBADF` if there is none such.
    pub(crate) fn directory(&self, inode: u64, id: u64) -> Result<Arc<DirectoryHandle>> {
        match self.handles.read().get(&id) {
            Some(Handle::Directory(handle)) if handle.inode == inode => Ok(handle.clone()),
            _ => Err(Errno::BADF),
        }
    }

    /// Closes an open file.
    ///
    /// # Errors
    /// `EBADF` if there is none such.
    pub(crate) fn close_file(&self, inode: u64, id: u64) -> Result<()> {
        let handle = self.file(inode, id)?;
        self.handles.write().remove(&id);
        let node = handle.node.clone();
        drop(handle);
        if let Some(node) = node {
            node.drop_closed_handles();
        }
        Ok(())
    }

    /// Closes an open directory.
    ///
    /// # Errors
    /// `EBADF` if there is none such.
    pub(crate) fn close_directory(&self, inode: u64, id: u64) -> Result<()> {
        self.directory(inode, id)?;
        self.handles.write().remove(&id);
        Ok(())
    }

    /// Closes everything.
    pub(crate) fn clear(&self) {
        self.handles.write().clear();
    }
}
