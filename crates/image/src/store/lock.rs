//! Locks of the store, all `flock`: the kernel drops them when their holder dies, however it dies.
//!
//! - The guard `ROOT/lock`: held shared, shortly, by whoever looks an image up or makes a file that claims something; held exclusively by
//!   whoever removes. So nobody sees half a removal, and nothing is removed between a look and the lease that follows it.
//! - `ROOT/locks/<diff id>`: who makes a layer. Its file may be removed while nobody holds it, so a taker looks whether it still exists.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::{Store, StoreError};
use crate::digest::ImageDigest;

/// How long a removal waits for those who look something up; each of them takes milliseconds.
const GUARD_WAIT: Duration = Duration::from_secs(20);
/// How often it looks.
const GUARD_POLL: Duration = Duration::from_millis(2);

/// The guard of a store, held until dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    _file: fs_err::File,
}

impl Guard {
    /// Waits for removals to end.
    pub(crate) fn shared(store: &Store) -> io::Result<Self> {
        let file = open(&store.root.join("lock"))?;
        loop {
            match flock(&file, FlockOperation::LockShared) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(refused) => return Err(refused.into()),
            }
        }
    }

    /// `None` while anybody holds it.
    pub(super) fn try_exclusive(store: &Store) -> io::Result<Option<Self>> {
        let file = open(&store.root.join("lock"))?;
        let free = try_flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(free.then_some(Self { _file: file }))
    }

    /// Waits until nobody holds it, but not for ever.
    pub(crate) fn exclusive(store: &Store) -> io::Result<Self> {
        let begun = Instant::now();
        loop {
            if let Some(guard) = Self::try_exclusive(store)? {
                return Ok(guard);
            }
            if begun.elapsed() > GUARD_WAIT {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(GUARD_POLL);
        }
    }
}

/// The exclusive right to make one layer; released on drop or death.
#[derive(Debug)]
pub(crate) struct LayerLock {
    _file: fs_err::File,
}

impl Store {
    /// Takes the right to make a layer, or `None` while another pull has it.
    pub(crate) fn try_lock_layer(
        &self,
        diff_id: ImageDigest,
    ) -> Result<Option<LayerLock>, StoreError> {
        let path = self.root.join("locks").join(diff_id.hex());
        let lock = || -> io::Result<Option<LayerLock>> {
            loop {
                let file = open(&path)?;
                if !try_flock(&file, FlockOperation::NonBlockingLockExclusive)? {
                    return Ok(None);
                }
                // A prune may have removed the file between the open and the lock: then the lock is nobody's.
                if file.metadata()?.nlink() > 0 {
                    return Ok(Some(LayerLock { _file: file }));
                }
            }
        };
        lock().map_err(|source| self.io(source))
    }

    /// Removes the files of locks nobody holds.
    pub(crate) fn remove_idle_locks(&self) -> io::Result<()> {
        for entry in fs_err::read_dir(self.root.join("locks"))? {
            let path = entry?.path();
            let file = open(&path)?;
            if try_flock(&file, FlockOperation::NonBlockingLockExclusive)? {
                fs_err::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

pub(super) fn open(path: &Path) -> io::Result<fs_err::File> {
    fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

pub(super) fn try_flock(file: &fs_err::File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(refused) => Err(refused.into()),
    }
}
