//! Files of the store: made under a temporary name, made durable, then renamed; read up to a limit; taken away by renaming first.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::lock::{self, Guard};
use super::{Store, StoreError};
use crate::convert::Journal;
use crate::digest::ImageDigest;

/// Begins the name of a file that is being written.
const PART_PREFIX: &str = "part-";
/// Begins the name of a file that is being removed.
const GONE_PREFIX: &str = "gone-";

impl Store {
    /// A new temporary file, locked against the removal of leftovers; removed on drop unless published.
    pub(crate) fn temporary(&self) -> io::Result<tempfile::NamedTempFile> {
        let _guard = Guard::shared(self)?;
        self.locked_file("tmp")
    }

    /// A list of entries whose file, if it needs one, is in the store.
    pub(crate) fn journal(&self) -> Journal {
        Journal::new(&self.root.join("tmp"))
    }

    /// A new file in a part of the store, locked by us; the guard is held by the caller.
    pub(super) fn locked_file(&self, part: &str) -> io::Result<tempfile::NamedTempFile> {
        let file = tempfile::Builder::new()
            .prefix(PART_PREFIX)
            .tempfile_in(self.root.join(part))?;
        flock(file.as_file(), FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }

    /// Makes a finished temporary file durable under its final name: content, name, directory.
    pub(crate) fn publish(&self, file: tempfile::NamedTempFile, target: &Path) -> io::Result<()> {
        file.as_file().sync_all()?;
        file.persist(target).map_err(|refused| refused.error)?;
        let directory = target
            .parent()
            .expect("every published file is in a directory of the store");
        sync_directory(directory)
    }

    pub(crate) fn put(&self, target: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let write = || -> io::Result<()> {
            let mut file = self.temporary()?;
            io::Write::write_all(&mut file, bytes)?;
            self.publish(file, target)
        };
        write().map_err(|source| self.io(source))
    }

    /// A file named by the digest of its content.
    pub(super) fn content(
        &self,
        kind: &str,
        digest: ImageDigest,
        limit: u64,
    ) -> Result<(PathBuf, Vec<u8>), StoreError> {
        let path = self.content_path(kind, digest);
        match self.read_bounded(&path, limit)? {
            Some(bytes) if ImageDigest::of(&bytes) == digest => Ok((path, bytes)),
            _ => Err(StoreError::Damaged { path }),
        }
    }

    pub(super) fn content_path(&self, kind: &str, digest: ImageDigest) -> PathBuf {
        self.root.join(kind).join(format!("{}.json", digest.hex()))
    }

    pub(crate) fn read_bounded(
        &self,
        path: &Path,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let read = |file: fs_err::File| -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            file.take(limit + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match fs_err::File::open(path).and_then(read) {
            Ok(bytes) if bytes.len() as u64 > limit => Err(StoreError::Damaged {
                path: path.to_owned(),
            }),
            Ok(bytes) => Ok(Some(bytes)),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.io(source)),
        }
    }

    /// Takes a file out of its place at once and says where it is now; it is a leftover from then on.
    pub(crate) fn take_away(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let target = self.root.join("tmp").join(format!("{GONE_PREFIX}{name}"));
        match fs_err::rename(path, &target) {
            Ok(()) => Ok(Some(target)),
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(source),
        }
    }

    /// Removes temporary files, and what was taken away, and leases, whose makers are dead. Skipped while another process makes one or
    /// cleans: the next open will do it.
    pub(crate) fn remove_leftovers(&self) -> io::Result<()> {
        let Some(_guard) = Guard::try_exclusive(self)? else {
            return Ok(());
        };
        for part in ["tmp", "leases"] {
            for entry in fs_err::read_dir(self.root.join(part))? {
                remove_if_dead(&entry?.path())?;
            }
        }
        Ok(())
    }
}

fn remove_if_dead(path: &Path) -> io::Result<()> {
    let file = match fs_err::File::open(path) {
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    if lock::try_flock(&file, FlockOperation::NonBlockingLockExclusive)? {
        gone_is_fine(fs_err::remove_file(path))?;
    }
    Ok(())
}

/// Somebody else was quicker.
pub(crate) fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    fs_err::File::open(directory)?.sync_all()
}
