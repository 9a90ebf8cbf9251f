//! Work inside a directory tree we do not trust: the image's symbolic links are followed, but never out of the tree
//! (`openat2` with `RESOLVE_IN_ROOT`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use agent_vm_protocol::{GuestPath, GuestPathError};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use thiserror::Error;

/// Largest file [`Tree::read`] takes, in bytes.
const MAX_READ: u64 = 16 * 1024 * 1024;

/// A directory that serves as root for paths.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

/// An operation inside the tree did not work.
#[derive(Debug, Error)]
pub enum TreeError {
    /// The path is not valid.
    #[error("bad path {path}")]
    Path {
        /// As given.
        path: String,
        /// What is wrong.
        #[source]
        source: GuestPathError,
    },
    /// A system call on the path failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where in the tree.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Owner and permission bits of a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Lower 12 mode bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Attributes {
    /// 0644, root.
    pub const PLAIN: Self = Self {
        mode: 0o644,
        uid: 0,
        gid: 0,
    };
}

impl Tree {
    /// The tree below the host-chosen directory `path`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &str) -> Result<Self, TreeError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| failed("open", path, errno))?;
        Ok(Self { root })
    }

    /// A name of an open descriptor that `mount` understands.
    #[must_use]
    pub fn handle(fd: &OwnedFd) -> String {
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    }

    /// The directory at `path`, made with its parents (0755, root) where missing.
    ///
    /// # Errors
    /// Something on the way is no directory, a dangling link, or cannot be made.
    pub fn directory(&self, path: &GuestPath) -> Result<OwnedFd, TreeError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open_in(path.as_bytes(), flags) {
            Err(Errno::NOENT) => self.make_directories(path),
            other => other.map_err(|errno| failed("open the directory", &path.to_string(), errno)),
        }
    }

    /// Like [`Tree::directory`] for a path of this program.
    ///
    /// # Errors
    /// As there.
    pub fn directory_at(&self, path: &str) -> Result<OwnedFd, TreeError> {
        self.directory(&parse(path)?)
    }

    /// The file at `path`, made empty with its parents where missing; for mounting onto.
    ///
    /// # Errors
    /// It is a directory, a dangling link, or cannot be made.
    pub fn file(&self, path: &GuestPath) -> Result<OwnedFd, TreeError> {
        let shown = path.to_string();
        match self.open_in(path.as_bytes(), OFlags::PATH) {
            Ok(fd) => {
                let stat =
                    rustix::fs::fstat(&fd).map_err(|errno| failed("examine", &shown, errno))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    return Err(failed("mount a file on", &shown, Errno::ISDIR));
                }
                Ok(fd)
            }
            Err(Errno::NOENT) => {
                let (parent, name) = self.parent(path)?;
                let flags = OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::WRONLY
                    | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))
                    .map_err(|errno| failed("create", &shown, errno))
            }
            Err(errno) => Err(failed("open", &shown, errno)),
        }
    }

    /// Writes a file at `path`, with its parents. What is there, also a link, is replaced, except a directory.
    ///
    /// # Errors
    /// A parent cannot be made, or the file cannot be replaced or written.
    pub fn write(
        &self,
        path: &GuestPath,
        content: &[u8],
        attributes: Attributes,
    ) -> Result<(), TreeError> {
        let shown = path.to_string();
        let (parent, name) = self.parent(path)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("replace", &shown, errno)),
        }
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| failed("create", &shown, errno))?;
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        if rustix::process::geteuid().is_root() {
            rustix::fs::fchown(&fd, Some(uid), Some(gid))
                .map_err(|errno| failed("chown", &shown, errno))?;
        }
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(attributes.mode & 0o7777))
            .map_err(|errno| failed("chmod", &shown, errno))?;
        let written = File::from(fd).write_all(content);
        written.map_err(|source| TreeError::Io {
            action: "write",
            path: shown,
            source,
        })
    }

    /// Like [`Tree::write`] with [`Attributes::PLAIN`] for a path of this program.
    ///
    /// # Errors
    /// As there.
    pub fn write_at(&self, path: &str, content: &[u8]) -> Result<(), TreeError> {
        self.write(&parse(path)?, content, Attributes::PLAIN)
    }

    /// The content of the file at `path`, links followed inside the tree; `None` when it does not exist.
    ///
    /// # Errors
    /// It is larger than 16 MiB or cannot be read.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, TreeError> {
        let fd = match self.open_in(path.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(failed("open", path, errno)),
        };
        let mut content = Vec::new();
        let read = File::from(fd).take(MAX_READ + 1).read_to_end(&mut content);
        read.map_err(|source| TreeError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        if content.len() as u64 > MAX_READ {
            return Err(failed("read", path, Errno::FBIG));
        }
        Ok(Some(content))
    }

    /// Overwrites the existing file at `path` in place, links followed inside the tree.
    ///
    /// # Errors
    /// It does not exist or cannot be written.
    pub fn overwrite(&self, path: &str, content: &[u8]) -> Result<(), TreeError> {
        let fd = self
            .open_in(
                path.as_bytes(),
                OFlags::WRONLY | OFlags::TRUNC | OFlags::NONBLOCK,
            )
            .map_err(|errno| failed("open", path, errno))?;
        let written = File::from(fd).write_all(content);
        written.map_err(|source| TreeError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }

    /// Makes the link `path` with `target` unless something is there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn link(&self, path: &str, target: &str) -> Result<(), TreeError> {
        let parsed = parse(path)?;
        let (parent, name) = self.parent(&parsed)?;
        match rustix::fs::symlinkat(target, &parent, name) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed("link", path, errno)),
        }
    }

    fn parent<'a>(&self, path: &'a GuestPath) -> Result<(OwnedFd, &'a [u8]), TreeError> {
        let bytes = path.as_bytes();
        let at = bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let (parent, name) = (&bytes[..at.max(1)], &bytes[at + 1..]);
        if name.is_empty() {
            return Err(failed("create", "/", Errno::ISDIR));
        }
        let parent = GuestPath::new(parent).map_err(|source| TreeError::Path {
            path: path.to_string(),
            source,
        })?;
        Ok((self.directory(&parent)?, name))
    }

    fn make_directories(&self, path: &GuestPath) -> Result<OwnedFd, TreeError> {
        let shown = path.to_string();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut here = self
            .open_in(b"/", flags)
            .map_err(|errno| failed("open", &shown, errno))?;
        let mut prefix = Vec::new();
        for component in path.components() {
            prefix.push(b'/');
            prefix.extend_from_slice(component);
            here = match self.open_in(&prefix, flags) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&here, component, Mode::from_raw_mode(0o755))
                        .map_err(|errno| failed("make the directory", &shown, errno))?;
                    self.open_in(&prefix, flags)
                }
                other => other,
            }
            .map_err(|errno| failed("open the directory", &shown, errno))?;
        }
        Ok(here)
    }

    fn open_in(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(
            self.root.as_fd(),
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
    }
}

fn parse(path: &str) -> Result<GuestPath, TreeError> {
    GuestPath::new(path).map_err(|source| TreeError::Path {
        path: path.to_owned(),
        source,
    })
}

fn failed(action: &'static str, path: &str, errno: Errno) -> TreeError {
    TreeError::Io {
        action,
        path: path.to_owned(),
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests;
