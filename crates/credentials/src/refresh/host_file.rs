//! A credential file of the host, replaced whole: the new one is written beside it, brought to disk and renamed over it,
//! with the old one's mode and owner. A reader sees the old document or the new one.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};

/// What tells that a file is another one, or has another content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file at `path`, links followed; `None` when there is none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let found = fs_err::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// A place beside a file that will replace it. Made before a token is spent, so that what cannot be written is found out
/// in time. Removed on drop unless it has taken the file's place.
#[derive(Debug)]
pub(super) struct Replacement {
    file: File,
    path: PathBuf,
    target: PathBuf,
    placed: bool,
}

impl Replacement {
    /// A place for a new `target`, which must be a regular file and no link. Only who holds the login's lock may call
    /// this: what a holder before left behind is removed.
    pub(super) fn prepare(target: &Path) -> io::Result<Self> {
        let old = fs_err::symlink_metadata(target)?;
        let parent = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        // A file that is mounted by itself cannot be replaced by renaming.
        if !old.is_file() || fs_err::metadata(parent)?.dev() != old.dev() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(".agent-vm");
        let path = parent.join(beside);
        match fs_err::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags | OFlags::NOFOLLOW, Mode::RUSR | Mode::WUSR)?;
        let replacement = Self {
            file: File::from(fd),
            path,
            target: target.to_owned(),
            placed: false,
        };
        let made = replacement.file.metadata()?;
        if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
            let (uid, gid) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
            rustix::fs::fchown(&replacement.file, Some(uid), Some(gid))?;
        }
        let mode = Mode::from_raw_mode(old.permissions().mode() & 0o777);
        rustix::fs::fchmod(&replacement.file, mode)?;
        Ok(replacement)
    }

    /// Writes `content` and puts it in the target's place; on disk when this returns.
    pub(super) fn place(mut self, content: &[u8]) -> io::Result<()> {
        self.file.write_all(content)?;
        self.file.sync_all()?;
        fs_err::rename(&self.path, &self.target)?;
        self.placed = true;
        sync_parent(&self.target)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.placed {
            // What stays is empty or is removed by the next one.
            let _ = fs_err::remove_file(&self.path);
        }
    }
}

/// Writes a file of our own whole, with mode 0600.
pub(super) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&beside, flags | OFlags::NOFOLLOW, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(fd);
    file.write_all(content)?;
    file.sync_all()?;
    fs_err::rename(&beside, path)?;
    sync_parent(path)
}

/// Brings the names in a file's directory to disk.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs_err::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_keeps_its_mode_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        fs_err::write(&path, "old").unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let before = Stamp::of(&path).unwrap();
        fs_err::write(dir.path().join(".auth.json.agent-vm"), "left behind").unwrap();
        Replacement::prepare(&path).unwrap().place(b"new").unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "new");
        let mode = fs_err::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_ne!(Stamp::of(&path).unwrap(), before);
        drop(Replacement::prepare(&path).unwrap());
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_replaced_is_found_out_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        assert!(Replacement::prepare(&path).is_err(), "there is none");
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(Replacement::prepare(&path).is_err(), "a link");
        assert!(Replacement::prepare(dir.path()).is_err(), "a directory");
    }
}
