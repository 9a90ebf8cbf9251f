//! Hostile and ordinary requests against a real server over temporary directories.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use tempfile::TempDir;

use super::FileServer;
use crate::builder::FileServerBuilder;
use crate::owner::OwnerMap;
use crate::reply::{Caller, Entry, NewFile, Opened};
use crate::share::{Access, ProtectedPath, Share, WhenMissing};

mod access;
mod content;
mod landlocked;
mod limits;
mod listing;
mod names;
mod ownership;

pub(super) const O_RDONLY: u32 = 0;
pub(super) const O_WRONLY: u32 = 1;
pub(super) const O_RDWR: u32 = 2;
pub(super) const O_CREAT: u32 = 0o100;
pub(super) const O_EXCL: u32 = 0o200;
pub(super) const O_TRUNC: u32 = 0o1000;
pub(super) const O_APPEND: u32 = 0o2000;
pub(super) const ROOT_CALLER: Caller = Caller { uid: 0, gid: 0 };

/// A directory on the host with a share in it and a secret beside it.
pub(super) struct Host {
    dir: TempDir,
}

pub(super) const SECRET: &str = "host secret";

impl Host {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("share")).unwrap();
        fs_err::write(dir.path().join("secret"), SECRET).unwrap();
        Self { dir }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("share").join(name)
    }

    pub(super) fn outside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn write(&self, name: &str, content: &str) {
        fs_err::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs_err::write(self.path(name), content).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs_err::read_to_string(self.path(name)).unwrap()
    }

    pub(super) fn serve(&self, access: Access) -> FileServer {
        self.serve_protecting(access, &[])
    }

    pub(super) fn serve_protecting(
        &self,
        access: Access,
        protected: &[(&str, WhenMissing)],
    ) -> FileServer {
        let share = Share {
            root: path_fd(&self.path("")),
            access,
            protected: protected
                .iter()
                .map(|(path, when_missing)| ProtectedPath {
                    path: path.into(),
                    when_missing: *when_missing,
                })
                .collect(),
        };
        builder().share(share).build().unwrap()
    }
}

pub(super) fn builder() -> FileServerBuilder {
    let mut init = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut init, b"init program").unwrap();
    let owners = OwnerMap {
        host_uid: rustix::process::geteuid().as_raw(),
        host_gid: rustix::process::getegid().as_raw(),
        guest_uid: 0,
        guest_gid: 0,
    };
    FileServerBuilder::new(init, owners)
        .directory("dev")
        .directory("proc")
}

pub(super) fn path_fd(path: &Path) -> OwnedFd {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

pub(super) fn file_mode(mode: u32) -> NewFile {
    NewFile {
        mode,
        ..NewFile::default()
    }
}

/// Shorthands as a well-behaved guest would use them.
impl FileServer {
    /// Looks up a path from the root, without `/` at its start.
    pub(super) fn walk(&self, path: &str) -> io::Result<Entry> {
        let mut entry = Entry {
            inode: 1,
            ..Entry::default()
        };
        for name in path.split('/') {
            entry = self.lookup(entry.inode, &CString::new(name).unwrap())?;
        }
        Ok(entry)
    }

    pub(super) fn share_root(&self) -> u64 {
        self.walk("shares/0").unwrap().inode
    }

    pub(super) fn read_all(&self, inode: u64) -> io::Result<String> {
        let Opened { handle, .. } = self.open(inode, false, O_RDONLY)?;
        let content = self.read_handle(inode, handle);
        self.release(inode, handle)?;
        content
    }

    pub(super) fn read_handle(&self, inode: u64, handle: u64) -> io::Result<String> {
        let mut bytes = vec![0; 4096];
        let length = self.read(inode, handle, |file: &File| file.read_at(&mut bytes, 0))?;
        bytes.truncate(length);
        Ok(String::from_utf8(bytes).unwrap())
    }

    pub(super) fn write_handle(&self, inode: u64, handle: u64, text: &str) -> io::Result<usize> {
        self.write(inode, handle, false, |file: &File| {
            file.write_at(text.as_bytes(), 0)
        })
    }

    pub(super) fn create_file(&self, parent: u64, name: &str, flags: u32) -> (Entry, u64) {
        let name = CString::new(name).unwrap();
        let new = NewFile {
            mode: 0o644,
            flags,
            ..NewFile::default()
        };
        let (entry, opened) = self.create(ROOT_CALLER, parent, &name, new).unwrap();
        (entry, opened.handle)
    }
}

/// The errno of a refusal.
#[track_caller]
pub(super) fn refused<T: std::fmt::Debug>(result: io::Result<T>) -> Errno {
    let error = result.expect_err("must be refused");
    Errno::from_raw_os_error(error.raw_os_error().expect("a real errno"))
}
