//! One private directory per launch, removed when the launch ends, however it ends.
//!
//! A launch holds the lock `sessions/ID.lock` while it lives and owns `sessions/ID/` (mode 0700).
//! Both are made and swept under `sessions/.lock`, so a sweep never sees a directory whose lock is
//! not yet taken. A killed launch drops its lock with its process; the next launch removes the rest.

use std::fmt;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::directories::HostDirectories;
use crate::lock::{FileLock, LockError};

/// Most leftovers of dead launches that one launch removes; the rest waits for the next one.
const MAX_SWEPT: usize = 64;

/// Why a launch has no directory.
#[derive(Debug, Error)]
pub enum SessionError {
    /// A directory cannot be made.
    #[error("cannot create directory {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The directory of sessions cannot be listed.
    #[error("cannot list {}", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A lock cannot be taken.
    #[error("cannot lock the sessions directory")]
    Lock(#[from] LockError),
    /// The system gives no random numbers.
    #[error("no random numbers from the system")]
    Random(#[source] getrandom::Error),
}

/// Unique name of one launch: 16 random hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionId(String);

impl SessionId {
    fn random() -> Result<Self, SessionError> {
        let number = getrandom::u64().map_err(SessionError::Random)?;
        Ok(Self(format!("{number:016x}")))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory of one running launch; dropping it removes the directory and everything in it.
#[derive(Debug)]
pub struct SessionDirectory {
    id: SessionId,
    path: PathBuf,
    lock: FileLock,
}

impl SessionDirectory {
    /// Sweeps what dead launches left, then makes a directory for this one.
    ///
    /// # Errors
    /// [`SessionError`] when the state directory cannot be made, listed or locked.
    pub fn create(directories: &HostDirectories) -> Result<Self, SessionError> {
        let parent = directories.sessions();
        make_private(&parent, true)?;
        let _all = FileLock::exclusive(&parent.join(".lock"))?;
        sweep(&parent)?;
        let id = SessionId::random()?;
        let lock = FileLock::exclusive(&parent.join(format!("{id}.lock")))?;
        let path = parent.join(id.as_str());
        make_private(&path, false)?;
        Ok(Self { id, path, lock })
    }

    /// Unique name of this launch.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// The directory, mode 0700.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SessionDirectory {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next launch.
        let _ = fs_err::remove_dir_all(&self.path);
        let _ = fs_err::remove_file(self.lock.path());
    }
}

fn make_private(path: &Path, with_parents: bool) -> Result<(), SessionError> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(with_parents)
        .create(path)
        .and_then(|()| fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o700)))
        .map_err(|source| SessionError::Create {
            path: path.to_owned(),
            source,
        })
}

fn sweep(parent: &Path) -> Result<(), SessionError> {
    let list = |source| SessionError::List {
        path: parent.to_owned(),
        source,
    };
    let mut swept = 0;
    for entry in fs_err::read_dir(parent).map_err(list)? {
        let path = entry.map_err(list)?.path();
        if swept == MAX_SWEPT {
            break;
        }
        if path
            .extension()
            .is_some_and(|extension| extension == "lock")
        {
            swept += usize::from(remove_if_dead(&path));
        }
    }
    Ok(())
}

/// Removes the lock file and its directory if no process holds the lock.
fn remove_if_dead(lock_path: &Path) -> bool {
    let Ok(Some(lock)) = FileLock::try_exclusive(lock_path) else {
        return false;
    };
    let directory = lock_path.with_extension("");
    let gone = match fs_err::remove_dir_all(&directory) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    gone && fs_err::remove_file(lock.path()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directories::BaseDirectories;

    fn directories(dir: &tempfile::TempDir) -> HostDirectories {
        HostDirectories::from_base(&BaseDirectories {
            home: dir.path().to_owned(),
            ..BaseDirectories::default()
        })
    }

    fn names(directories: &HostDirectories) -> Vec<String> {
        let mut names: Vec<String> = fs_err::read_dir(directories.sessions())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn directory_is_private_and_gone_after_drop() {
        let home = tempfile::tempdir().unwrap();
        let directories = directories(&home);
        let session = SessionDirectory::create(&directories).unwrap();
        let path = session.path().to_owned();
        assert_eq!(
            fs_err::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        fs_err::write(path.join("console.log"), "x").unwrap();
        drop(session);
        assert_eq!(names(&directories), [".lock"]);
    }

    #[test]
    fn sweeps_what_a_dead_launch_left() {
        let home = tempfile::tempdir().unwrap();
        let directories = directories(&home);
        let dead = directories.sessions().join("00000000deadbeef");
        fs_err::create_dir_all(dead.join("deep")).unwrap();
        fs_err::write(dead.join("deep/file"), "x").unwrap();
        fs_err::write(directories.sessions().join("00000000deadbeef.lock"), "").unwrap();
        let session = SessionDirectory::create(&directories).unwrap();
        assert!(!dead.exists());
        assert_eq!(names(&directories).len(), 3, "{session:?}");
    }

    #[test]
    fn never_sweeps_a_live_launch() {
        let home = tempfile::tempdir().unwrap();
        let directories = directories(&home);
        let first = SessionDirectory::create(&directories).unwrap();
        let second = SessionDirectory::create(&directories).unwrap();
        assert!(first.path().exists());
        assert_ne!(first.id(), second.id());
    }

    #[test]
    fn sweep_does_not_follow_a_symlink_out_of_the_sessions() {
        let home = tempfile::tempdir().unwrap();
        let directories = directories(&home);
        let precious = home.path().join("precious");
        fs_err::create_dir_all(&precious).unwrap();
        fs_err::write(precious.join("file"), "x").unwrap();
        let dead = directories.sessions().join("00000000deadbeef");
        fs_err::create_dir_all(&dead).unwrap();
        std::os::unix::fs::symlink(&precious, dead.join("link")).unwrap();
        fs_err::write(directories.sessions().join("00000000deadbeef.lock"), "").unwrap();
        let _session = SessionDirectory::create(&directories).unwrap();
        assert!(!dead.exists());
        assert!(precious.join("file").exists());
    }

    #[test]
    fn concurrent_launches_get_their_own_directories() {
        let home = tempfile::tempdir().unwrap();
        let directories = directories(&home);
        let sessions: Vec<SessionDirectory> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| SessionDirectory::create(&directories).unwrap()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(sessions.iter().all(|session| session.path().is_dir()));
        let ids: std::collections::HashSet<_> = sessions.iter().map(|s| s.id().clone()).collect();
        assert_eq!(ids.len(), 8);
    }

    #[test]
    fn names_the_directory_that_cannot_be_made() {
        let home = tempfile::tempdir().unwrap();
        fs_err::write(home.path().join(".local"), "a file").unwrap();
        let error = SessionDirectory::create(&directories(&home)).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot create directory /"),
            "{error}"
        );
    }
}
