//! Advisory file locks (flock(2)) that end with the process that holds them.
//!
//! Must hold: a lock file is never followed through a symlink, and never inherited by a child.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

/// Why a lock could not be taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// The lock file cannot be opened or made.
    #[error("cannot open lock file {}", path.display())]
    Open {
        /// The lock file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// flock(2) does not work on it, for example on some network file systems.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

/// An exclusive lock, held until dropped or until the process ends.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    path: PathBuf,
}

/// An exclusive lock whose file is there only while somebody holds it, for locks named by what changes.
#[derive(Debug)]
pub struct PassingLock(FileLock);

impl FileLock {
    /// Waits until the lock at `path` is free, then takes it. The file is made when missing
    /// (mode 0600); its directory must exist. Waits without limit: hold locks shortly.
    ///
    /// # Errors
    /// [`LockError`] when the file cannot be opened or the file system has no locks.
    pub fn exclusive(path: &Path) -> Result<Self, LockError> {
        let taken = Self::take(path, FlockOperation::LockExclusive)?;
        Ok(taken.expect("who waits for a lock gets it"))
    }

    /// Takes the lock at `path` if nobody holds it; `None` when somebody does.
    ///
    /// # Errors
    /// [`LockError`] when the file cannot be opened or the file system has no locks.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>, LockError> {
        Self::take(path, FlockOperation::NonBlockingLockExclusive)
    }

    fn take(path: &Path, operation: FlockOperation) -> Result<Option<Self>, LockError> {
        loop {
            let file = open(path)?;
            match rustix::fs::flock(&file, operation) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(refused(path, errno)),
            }
            let stat = rustix::fs::fstat(&file).map_err(|errno| refused(path, errno))?;
            // Its holder may have removed the file between the open and the lock: then the lock is nobody's.
            if stat.st_nlink > 0 {
                let path = path.to_owned();
                return Ok(Some(Self { file, path }));
            }
        }
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open lock file, for a child that must keep the lock alive.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl PassingLock {
    /// As [`FileLock::try_exclusive`].
    ///
    /// # Errors
    /// As [`FileLock::try_exclusive`].
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>, LockError> {
        Ok(FileLock::try_exclusive(path)?.map(Self))
    }
}

impl Drop for PassingLock {
    fn drop(&mut self) {
        // While it is held: who opened the file meanwhile sees that it is gone. A file that stays is only untidy.
        let _ = fs_err::remove_file(self.0.path());
    }
}

fn open(path: &Path) -> Result<File, LockError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd: OwnedFd =
        rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).map_err(|errno| {
            LockError::Open {
                path: path.to_owned(),
                source: errno.into(),
            }
        })?;
    Ok(File::from(fd))
}

fn refused(path: &Path, errno: Errno) -> LockError {
    LockError::Lock {
        path: path.to_owned(),
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_refused_until_first_drops() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let first = FileLock::try_exclusive(&path).unwrap().unwrap();
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(first);
        assert!(FileLock::try_exclusive(&path).unwrap().is_some());
    }

    #[test]
    fn exclusive_waits_for_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let first = FileLock::exclusive(&path).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiter = {
            let path = path.clone();
            std::thread::spawn(move || {
                let _lock = FileLock::exclusive(&path).unwrap();
                sender.send(()).unwrap();
            })
        };
        assert!(
            receiver
                .recv_timeout(std::time::Duration::from_millis(50))
                .is_err()
        );
        drop(first);
        receiver
            .recv_timeout(std::time::Duration::from_secs(10))
            .unwrap();
        waiter.join().unwrap();
    }

    #[test]
    fn passing_lock_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = PassingLock::try_exclusive(&path).unwrap().unwrap();
        assert!(PassingLock::try_exclusive(&path).unwrap().is_none());
        assert!(path.exists(), "who is refused removes nothing");
        drop(lock);
        assert!(!path.exists());
    }

    /// Each takes the lock of a file that the one before removes: a lock on a removed file would let two in.
    #[test]
    fn passing_lock_has_one_holder_at_a_time() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let (inside, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let take = || {
            let Some(_lock) = PassingLock::try_exclusive(&path).unwrap() else {
                return;
            };
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            std::thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
            taken.fetch_add(1, Ordering::Relaxed);
        };
        let take_often = || {
            while taken.load(Ordering::Relaxed) < 300 {
                take()
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(take_often);
            }
        });
        assert!(!path.exists());
    }

    #[test]
    fn refuses_a_symlink_as_lock_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(
            FileLock::exclusive(&path),
            Err(LockError::Open { .. })
        ));
        assert!(!dir.path().join("elsewhere").exists());
    }

    #[test]
    fn names_the_file_when_its_directory_is_missing() {
        let error = FileLock::exclusive(Path::new("/nonexistent/a.lock")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot open lock file /nonexistent/a.lock"
        );
    }
}
