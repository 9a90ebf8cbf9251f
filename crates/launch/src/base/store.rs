//! Where bases are kept.
//!
//! ```text
//! ROOT/<id>/disk.ext4, base.json    a base; never written again
//! ROOT/new-<id>/                    one that is being made by who holds ROOT/locks/<id>; swept when nobody does
//! ROOT/draft-<scope>/               what the last `base shell` of a project (or the user) left, not kept yet
//! ROOT/hand/<scope>                 id of the changes kept by hand that a project (or the user) uses
//! ```
//! A base gets its name by one rename of its directory, after everything in it is on disk: a crash leaves the old state
//! or the new one. (Where the file system cannot exchange two names, one that is made again may be gone: it is made once
//! more.) Disks are opened before they are cloned, so that removing one never hurts a launch.

use std::cmp::Reverse;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use agent_vm_image::ImageDigest;
use agent_vm_state::{LockError, PassingLock};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::SetupRequest;
use super::chain::Chain;
use super::record::{BaseId, BaseKind, BaseProject, BaseRecord, Level, RECORD_FORMAT};

/// The disk's name in a base's directory.
const DISK: &str = "disk.ext4";
/// The record's name.
const RECORD: &str = "base.json";
/// Largest record, in bytes.
const MAX_RECORD_BYTES: u64 = 1 << 20;
/// How many bases of one project (or the user) and one image stay: going back to the script of before is free.
const KEPT_OF_A_KIND: usize = 2;

/// The bases of one user.
#[derive(Debug, Clone)]
pub struct BaseStore {
    root: PathBuf,
}

/// Why the bases cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaseStoreError {
    /// A file operation did not work; the source names the file.
    #[error("cannot use the bases in {}", root.display())]
    Io {
        /// The directory of all bases.
        root: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// A lock cannot be taken.
    #[error("cannot lock a base")]
    Lock(#[from] LockError),
}

/// Whose bases, on which image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The user's, or a project's.
    pub level: Level,
    /// The project; only its id counts, and only at its own level.
    pub project: BaseProject,
    /// The image's reference, as given.
    pub image: String,
}

/// A base as it lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedBase {
    /// All that is known of it.
    pub record: BaseRecord,
    /// What its disk occupies, in bytes; blocks shared with other disks are counted in each.
    pub allocated_bytes: u64,
    /// Left by `base shell` and not kept yet.
    pub draft: bool,
}

/// The directory of a base that is being made. Removed on drop unless published.
#[derive(Debug)]
pub(crate) struct NewBase {
    id: BaseId,
    directory: PathBuf,
    _lock: PassingLock,
}

impl Scope {
    fn name(&self) -> String {
        let project = match self.level {
            Level::User => "",
            Level::Project => self.project.id.as_str(),
        };
        let text = format!("{}\n{project}\n{}", self.level, self.image);
        BaseId::of(text.as_bytes()).to_string()
    }

    /// Whether a base belongs here.
    #[must_use]
    pub fn holds(&self, record: &BaseRecord) -> bool {
        let project = record.project.as_ref().map(|project| &project.id);
        let same_project = match self.level {
            Level::User => true,
            Level::Project => project == Some(&self.project.id),
        };
        record.level == self.level && same_project
    }
}

impl NewBase {
    /// Its name.
    pub(crate) fn id(&self) -> &BaseId {
        &self.id
    }

    /// Where its disk goes.
    pub(crate) fn disk(&self) -> PathBuf {
        self.directory.join(DISK)
    }
}

impl Drop for NewBase {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next one who makes a base.
        let _ = fs_err::remove_dir_all(&self.directory);
    }
}

impl BaseStore {
    /// The bases below `root`; nothing is made before it is needed.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// What is known of a base; `None` when there is none, or none that can be used.
    pub(crate) fn find(&self, id: &BaseId) -> Option<BaseRecord> {
        let directory = self.root.join(id.as_str());
        read_record(&directory).filter(|record| record.id == *id)
    }

    /// The disk of a base, opened; `None` when there is none.
    pub(crate) fn open_disk(&self, id: &BaseId) -> Option<File> {
        self.find(id)?;
        let path = self.root.join(id.as_str()).join(DISK);
        Some(fs_err::File::open(path).ok()?.into_parts().0)
    }

    /// Takes the right to make a base, or `None` while somebody has it.
    pub(crate) fn try_lock(&self, id: &BaseId) -> Result<Option<PassingLock>, BaseStoreError> {
        self.prepare().map_err(|source| self.io(source))?;
        let path = self.root.join("locks").join(id.as_str());
        Ok(PassingLock::try_exclusive(&path)?)
    }

    /// Begins a base; removes what crashed makers left.
    pub(crate) fn begin(&self, id: &BaseId, lock: PassingLock) -> Result<NewBase, BaseStoreError> {
        let make = || -> io::Result<PathBuf> {
            self.sweep(id)?;
            let directory = self.root.join(format!("new-{id}"));
            remove_tree(&directory)?;
            fs_err::create_dir(&directory)?;
            Ok(directory)
        };
        Ok(NewBase {
            id: id.clone(),
            directory: make().map_err(|source| self.io(source))?,
            _lock: lock,
        })
    }

    /// Makes a finished base durable under its name, in the place of an older one of that name; removes the oldest ones
    /// whose place it takes.
    pub(crate) fn publish(&self, new: NewBase, record: &BaseRecord) -> Result<(), BaseStoreError> {
        let publish = || -> io::Result<()> {
            complete(&new.directory, record)?;
            let target = self.root.join(new.id.as_str());
            self.put_in_place(&new.directory, &target)?;
            self.remove_replaced(record)
        };
        publish().map_err(|source| self.io(source))
    }

    /// The changes kept by hand that are used here.
    pub(crate) fn hand(&self, scope: &Scope) -> Option<BaseRecord> {
        let text = fs_err::read_to_string(self.root.join("hand").join(scope.name())).ok()?;
        let record = self.find(&text.trim().parse().ok()?)?;
        (record.kind == BaseKind::Snapshot && scope.holds(&record)).then_some(record)
    }

    /// Leaves a disk changed by hand to be kept or not.
    pub(crate) fn put_draft(
        &self,
        scope: &Scope,
        new: NewBase,
        record: &BaseRecord,
    ) -> Result<(), BaseStoreError> {
        let put = || -> io::Result<()> {
            complete(&new.directory, record)?;
            self.put_in_place(&new.directory, &self.draft_path(scope))
        };
        put().map_err(|source| self.io(source))
    }

    /// Keeps what the last `base shell` left, from now on used by every launch it fits; `None` when nothing was left.
    ///
    /// # Errors
    /// [`BaseStoreError`] when files cannot be written or renamed.
    pub fn keep_draft(&self, scope: &Scope) -> Result<Option<BaseRecord>, BaseStoreError> {
        let draft = self.draft_path(scope);
        let Some(record) = read_record(&draft) else {
            return Ok(None);
        };
        let keep = || -> io::Result<()> {
            self.put_in_place(&draft, &self.root.join(record.id.as_str()))?;
            let pointer = self.root.join("hand").join(scope.name());
            write_durably(
                &pointer.with_extension("new"),
                record.id.as_str().as_bytes(),
            )?;
            fs_err::rename(pointer.with_extension("new"), &pointer)?;
            sync_directory(&self.root.join("hand"))?;
            self.remove_replaced(&record)
        };
        keep().map_err(|source| self.io(source))?;
        Ok(Some(record))
    }

    /// Everything that is there, the user's first, then by project and age.
    ///
    /// # Errors
    /// [`BaseStoreError`] when the directory cannot be read.
    pub fn list(&self) -> Result<Vec<ListedBase>, BaseStoreError> {
        let stored = self.stored().map_err(|source| self.io(source))?;
        Ok(stored.into_iter().map(|(_, base)| base).collect())
    }

    /// Removes every base (and draft) that `unwanted` names; gives what was removed.
    ///
    /// # Errors
    /// [`BaseStoreError`] when one cannot be removed.
    pub fn remove(
        &self,
        unwanted: impl Fn(&BaseRecord) -> bool,
    ) -> Result<Vec<ListedBase>, BaseStoreError> {
        let remove = || {
            let mut removed = self.stored()?;
            removed.retain(|(_, base)| unwanted(&base.record));
            for (path, _) in &removed {
                remove_tree(path)?;
            }
            Ok(removed.into_iter().map(|(_, base)| base).collect())
        };
        remove().map_err(|source| self.io(source))
    }

    fn draft_path(&self, scope: &Scope) -> PathBuf {
        self.root.join(format!("draft-{}", scope.name()))
    }

    fn prepare(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        for directory in ["locks", "hand"] {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(self.root.join(directory))?;
        }
        Ok(())
    }

    /// Removes directories of dead makers, except that of `own`, whose lock is held.
    fn sweep(&self, own: &BaseId) -> io::Result<()> {
        for path in self.entries()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(id) = name.strip_prefix("new-") else {
                continue;
            };
            if id == own.as_str() || id.parse::<BaseId>().is_err() {
                continue;
            }
            let lock = self.root.join("locks").join(id);
            if let Ok(Some(_dead)) = PassingLock::try_exclusive(&lock) {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }

    /// Renames a complete directory to `target`. What is there changes places with it, and is then removed.
    fn put_in_place(&self, directory: &Path, target: &Path) -> io::Result<()> {
        match renameat_with(CWD, directory, CWD, target, RenameFlags::EXCHANGE) {
            Ok(()) => {
                sync_directory(&self.root)?;
                remove_tree(directory)
            }
            // Nothing is there, or the file system cannot do that.
            Err(Errno::NOENT | Errno::INVAL) => {
                remove_tree(target)?;
                fs_err::rename(directory, target)?;
                sync_directory(&self.root)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Of those whose place `record` takes, only the newest stay.
    fn remove_replaced(&self, record: &BaseRecord) -> io::Result<()> {
        let mut replaced = self.stored()?;
        replaced.retain(|(_, base)| !base.draft && record.replaces(&base.record));
        replaced.sort_by_key(|(_, base)| Reverse(base.record.made));
        for (path, _) in replaced.iter().skip(KEPT_OF_A_KIND - 1) {
            remove_tree(path)?;
        }
        Ok(())
    }

    /// Every base and draft with its directory, in the order of [`Self::list`]. Those that are being made are not looked at.
    fn stored(&self) -> io::Result<Vec<(PathBuf, ListedBase)>> {
        let mut stored = Vec::new();
        for path in self.entries()? {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            let draft = name.starts_with(b"draft-");
            if name.starts_with(b"new-") {
                continue;
            }
            if let Some(record) = read_record(&path) {
                let base = ListedBase {
                    allocated_bytes: allocated(&path.join(DISK)),
                    record,
                    draft,
                };
                stored.push((path, base));
            }
        }
        let project = |base: &ListedBase| base.record.project.as_ref().map(|p| p.path.clone());
        stored.sort_by_key(|(_, base)| (base.record.level, project(base), base.record.made));
        Ok(stored)
    }

    fn entries(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs_err::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    fn io(&self, source: io::Error) -> BaseStoreError {
        BaseStoreError::Io {
            root: self.root.clone(),
            source,
        }
    }
}

/// The bases a launch of `project` with this image and these recipes uses, bottom first: names only.
#[must_use]
pub fn expected_bases(
    store: &BaseStore,
    manifest: ImageDigest,
    scope: &Scope,
    setup: &SetupRequest,
) -> Vec<BaseId> {
    let chain = chain(store, manifest, scope, setup);
    chain.links.into_iter().map(|link| link.id).collect()
}

/// The chain of a launch, with what is kept by hand.
pub(crate) fn chain(
    store: &BaseStore,
    manifest: ImageDigest,
    scope: &Scope,
    setup: &SetupRequest,
) -> Chain {
    let hand = |level| {
        store.hand(&Scope {
            level,
            ..scope.clone()
        })
    };
    Chain::new(manifest, &scope.project, setup, scope.level, hand)
}

/// Writes the record and makes all of the directory durable; the disk is there already.
fn complete(directory: &Path, record: &BaseRecord) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(record).expect("a record is plain text and numbers");
    write_durably(&directory.join(RECORD), &text)?;
    let disk = directory.join(DISK);
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o400);
    fs_err::set_permissions(&disk, permissions)?;
    fs_err::File::open(&disk)?.sync_all()?;
    sync_directory(directory)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs_err::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fs_err::File::open(path)?.sync_all()
}

/// The record of a directory, when it is whole and of this version.
fn read_record(directory: &Path) -> Option<BaseRecord> {
    let file = fs_err::File::open(directory.join(RECORD)).ok()?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, MAX_RECORD_BYTES), &mut text).ok()?;
    let record: BaseRecord = serde_json::from_str(&text).ok()?;
    (record.format == RECORD_FORMAT).then_some(record)
}

fn allocated(disk: &Path) -> u64 {
    fs_err::metadata(disk).map_or(0, |metadata| metadata.blocks() * 512)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs_err::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
