//! Requests that list directories.

use std::io;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{FileServer, Target};
use crate::component::Component;
use crate::directory_stream::{DirectoryStream, Listed};
use crate::handle_table::DirectoryHandle;
use crate::host;
use crate::reply::{Attr, DirEntry, Entry, Opened};
use crate::synthetic::{Child, Synthetic};

const DT_DIRECTORY: u32 = 4;
const DT_REGULAR: u32 = 8;

type Add<'a> = dyn FnMut(DirEntry<'_>) -> io::Result<usize> + 'a;
type AddPlus<'a> = dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize> + 'a;

impl FileServer {
    /// FUSE_OPENDIR.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENFILE` at the limit of handles, what the host answers.
    pub fn opendir(&self, inode: u64) -> io::Result<Opened> {
        self.handles.check_room()?;
        let stream = match self.target(inode)? {
            Target::Synthetic(Synthetic::Init) => return Err(Errno::NOTDIR.into()),
            Target::Synthetic(_) => None,
            Target::Host(node) => {
                let fd = self.directory_fd(&node)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let fd = host::open_at(&fd, c".", flags, Mode::empty())?;
                Some(DirectoryStream::new(fd))
            }
        };
        let handle = self
            .handles
            .add_directory(DirectoryHandle { inode, stream })?;
        Ok(Opened { handle, flags: 0 })
    }

    /// FUSE_READDIR: calls `add` for entry after entry until it answers `Ok(0)` (full).
    ///
    /// # Errors
    /// `EBADF` for a wrong handle; what the host or, at the first entry, `add` answers.
    pub fn readdir(
        &self,
        inode: u64,
        handle: u64,
        offset: u64,
        add: &mut Add<'_>,
    ) -> io::Result<()> {
        let handle = self.handles.directory(inode, handle)?;
        let Some(stream) = &handle.stream else {
            return self.list_synthetic(inode, offset, &mut |entry, _| add(entry));
        };
        let Target::Host(node) = self.target(inode)? else {
            return Err(Errno::BADF.into());
        };
        let dev = node.identity.dev;
        list(stream, offset, |listed| {
            add(DirEntry {
                ino: node.share.shown_ino(dev, listed.ino),
                offset: listed.offset,
                kind: listed.kind,
                name: listed.name.to_bytes(),
            })
        })
    }

    /// FUSE_READDIRPLUS: as `readdir`, each entry with its node, which counts one lookup.
    ///
    /// # Errors
    /// As [`FileServer::readdir`]. An entry that cannot be looked up comes without a node.
    pub fn readdirplus(
        &self,
        inode: u64,
        handle: u64,
        offset: u64,
        add: &mut AddPlus<'_>,
    ) -> io::Result<()> {
        let handle = self.handles.directory(inode, handle)?;
        let Some(stream) = &handle.stream else {
            return self.list_synthetic(inode, offset, add);
        };
        let Target::Host(node) = self.target(inode)? else {
            return Err(Errno::BADF.into());
        };
        let fd = self.directory_fd(&node)?;
        let dev = node.identity.dev;
        list(stream, offset, |listed| {
            let ino = node.share.shown_ino(dev, listed.ino);
            // Parsing refuses "." and "..", which come without a node.
            let entry = Component::parse(listed.name)
                .and_then(|name| self.enter(&node, &fd, name, None))
                .unwrap_or_else(|_| without_node(ino, listed.kind));
            let plain = DirEntry {
                ino,
                offset: listed.offset,
                kind: listed.kind,
                name: listed.name.to_bytes(),
            };
            let added = add(plain, entry);
            if !matches!(added, Ok(1..)) && entry.inode != 0 {
                self.forget(entry.inode, 1);
            }
            added
        })
    }

    fn list_synthetic(&self, inode: u64, offset: u64, add: &mut AddPlus<'_>) -> io::Result<()> {
        let dots = [(c".", inode), (c"..", crate::synthetic::ROOT)];
        for index in offset..u64::MAX {
            let position = index as usize;
            let added = if let Some((name, ino)) = dots.get(position) {
                let plain = DirEntry {
                    ino: *ino,
                    offset: index + 1,
                    kind: DT_DIRECTORY,
                    name: name.to_bytes(),
                };
                add(plain, without_node(*ino, DT_DIRECTORY))?
            } else {
                let Some((name, child)) = self.tree.nth(inode, position - dots.len()) else {
                    return Ok(());
                };
                let is_init = matches!(child, Child::Synthetic(Synthetic::Init));
                let kind = match &child {
                    Child::Share(node) => node.kind() >> 12,
                    Child::Synthetic(_) if is_init => DT_REGULAR,
                    Child::Synthetic(_) => DT_DIRECTORY,
                };
                let entry = self
                    .synthetic_entry(child)
                    .unwrap_or_else(|_| without_node(inode, kind));
                let plain = DirEntry {
                    ino: entry.attr.ino,
                    offset: index + 1,
                    kind,
                    name: name.to_bytes(),
                };
                add(plain, entry)?
            };
            if added == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// FUSE_FSYNCDIR.
    ///
    /// # Errors
    /// `EBADF` for a wrong handle; what the host answers.
    pub fn fsyncdir(&self, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        let handle = self.handles.directory(inode, handle)?;
        match &handle.stream {
            None => Ok(()),
            Some(stream) if datasync => Ok(rustix::fs::fdatasync(stream.fd())?),
            Some(stream) => Ok(rustix::fs::fsync(stream.fd())?),
        }
    }

    /// FUSE_RELEASEDIR.
    ///
    /// # Errors
    /// `EBADF` for a wrong handle.
    pub fn releasedir(&self, inode: u64, handle: u64) -> io::Result<()> {
        Ok(self.handles.close_directory(inode, handle)?)
    }
}

/// Passes entries on until full. An error after the first entry ends the piece; it comes again first
/// in the next.
fn list(
    stream: &DirectoryStream,
    offset: u64,
    mut add: impl FnMut(Listed<'_>) -> io::Result<usize>,
) -> io::Result<()> {
    let mut cursor = stream.at(offset)?;
    let mut any = false;
    loop {
        let added = match cursor.peek() {
            Ok(None) => return Ok(()),
            Ok(Some(listed)) => add(listed),
            Err(errno) => Err(errno.into()),
        };
        match added {
            Ok(0) => return Ok(()),
            Ok(_) => cursor.advance(),
            Err(_) if any => return Ok(()),
            Err(error) => return Err(error),
        }
        any = true;
    }
}

fn without_node(ino: u64, kind: u32) -> Entry {
    Entry {
        attr: Attr {
            ino,
            mode: kind << 12,
            ..Attr::default()
        },
        ..Entry::default()
    }
}
