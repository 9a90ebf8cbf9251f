//! The locks that the clients themselves take while they renew a login or write its file.
//!
//! Found out from the clients (Claude Code 2.1.329 by its source, Codex 0.169.0 by its system calls):
//! - Claude Code holds two directories made by `mkdir`, in the manner of the npm package `proper-lockfile`:
//!   `DIR/.oauth_refresh.lock` and, as older versions do, `DIR.lock`, where `DIR` is `~/.claude` (the second with links
//!   followed). A holder touches them every 5 s; one that was not touched for 60 s is stale and taken over. Older versions
//!   take 10 s for stale, so ours are touched every 3 s. The lock is held from before the file is read until it is written.
//! - Codex holds flock(2) on `auth.lock`, then on `auth.json.lock`, while it writes `auth.json`.
//! - OpenCode and Gemini CLI have none: they write their files without a lock.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use agent_vm_state::FileLock;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use serde::{Deserialize, Serialize};

use super::host_file::write_private;
use crate::refresh_endpoint::ClientLock;

/// How long a client may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a taken lock is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// How long a lock directory lives without being touched (Claude Code).
const STALE: Duration = Duration::from_secs(60);
/// How often ours are touched.
const TOUCH: Duration = Duration::from_secs(3);

/// A client's locks, held until dropped.
#[derive(Debug)]
pub(super) enum HeldLock {
    None,
    Directories(#[expect(dead_code, reason = "held, not looked at")] Directories),
    Files(#[expect(dead_code, reason = "held, not looked at")] Vec<FileLock>),
}

impl HeldLock {
    /// What the client holds while it renews `file`'s login.
    /// `note` is where the locks are noted, so that who holds the login's lock after a killed launcher can remove them.
    pub(super) fn for_renewing(kind: ClientLock, file: &Path, note: &Path) -> io::Result<Self> {
        match kind {
            ClientLock::ClaudeDirectories => {
                let parent = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
                Directories::take(parent, note).map(Self::Directories)
            }
            ClientLock::CodexFiles | ClientLock::None => Ok(Self::None),
        }
    }

    /// What the client holds while it writes `file`, beyond what it holds for renewing.
    pub(super) fn for_writing(kind: ClientLock, file: &Path) -> io::Result<Self> {
        if kind != ClientLock::CodexFiles {
            return Ok(Self::None);
        }
        let beside = [
            file.with_file_name("auth.lock"),
            file.with_extension("json.lock"),
        ];
        let deadline = Instant::now() + PATIENCE;
        let locks = beside.iter().map(|path| {
            until(deadline, || {
                FileLock::try_exclusive(path).map_err(io::Error::other)
            })
        });
        locks.collect::<io::Result<_>>().map(Self::Files)
    }
}

/// Lock directories that are ours.
#[derive(Debug)]
pub(super) struct Directories {
    made: Vec<PathBuf>,
    note: PathBuf,
    /// Dropped to end the thread that touches them.
    stop: Option<Sender<()>>,
    toucher: Option<JoinHandle<()>>,
}

impl Directories {
    fn take(parent: &Path, note: &Path) -> io::Result<Self> {
        remove_left_behind(note);
        let mut sibling = fs_err::canonicalize(parent)?.into_os_string();
        sibling.push(".lock");
        let (current, older) = (parent.join(".oauth_refresh.lock"), PathBuf::from(sibling));
        let deadline = Instant::now() + PATIENCE;
        let mut held = Self {
            made: Vec::new(),
            note: note.to_owned(),
            stop: None,
            toucher: None,
        };
        until(deadline, || make(&current))?;
        held.made.push(current);
        match until(deadline, || make(&older)) {
            Ok(()) => held.made.push(older),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
            // As the client does: a directory that cannot be written is no reason to keep an expired token.
            Err(_) => {}
        }
        let born: Vec<_> = held.made.iter().filter_map(|path| Born::of(path)).collect();
        write_private(note, &serde_json::to_vec(&born)?)?;
        let (stop, stopped) = mpsc::channel::<()>();
        let ours = held.made.clone();
        held.stop = Some(stop);
        held.toucher = Some(std::thread::spawn(move || {
            while stopped.recv_timeout(TOUCH) == Err(RecvTimeoutError::Timeout) {
                ours.iter().for_each(|path| touch(path));
            }
        }));
        Ok(held)
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(toucher) = self.toucher.take() {
            let _ended = toucher.join();
        }
        for path in self.made.iter().rev() {
            let _ = fs_err::remove_dir(path);
        }
        let _ = fs_err::remove_file(&self.note);
    }
}

/// Which directory a lock was.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Born {
    path: PathBuf,
    inode: u64,
    at: SystemTime,
}

impl Born {
    fn of(path: &Path) -> Option<Self> {
        let found = fs_err::symlink_metadata(path).ok()?;
        Some(Self {
            path: path.to_owned(),
            inode: found.ino(),
            at: found.created().ok()?,
        })
    }
}

/// Removes the locks of a launcher that was killed: who calls this holds the login's lock, so it is no more.
fn remove_left_behind(note: &Path) {
    let noted = fs_err::read(note).ok();
    let noted = noted.and_then(|text| serde_json::from_slice::<Vec<Born>>(&text).ok());
    for born in noted.unwrap_or_default() {
        if Born::of(&born.path).as_ref() == Some(&born) {
            let _ = fs_err::remove_dir(&born.path);
        }
    }
}

/// Makes a lock directory; `None` when somebody holds it.
fn make(path: &Path) -> io::Result<Option<()>> {
    match fs_err::create_dir(path) {
        Ok(()) => return Ok(Some(())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let touched = fs_err::symlink_metadata(path).and_then(|found| found.modified());
    let age = touched.map(|touched| SystemTime::now().duration_since(touched));
    if age.is_ok_and(|age| age.is_ok_and(|age| age > STALE)) {
        // Only when it is empty; the next try makes it anew.
        let _ = fs_err::remove_dir(path);
    }
    Ok(None)
}

fn touch(path: &Path) {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    let _ = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
}

/// Tries until it is had.
fn until<T>(
    deadline: Instant,
    mut attempt: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<T> {
    loop {
        if let Some(had) = attempt()? {
            return Ok(had);
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claudes_directories_are_made_waited_for_and_removed() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".claude");
        fs_err::create_dir(&dir).unwrap();
        let file = dir.join(".credentials.json");
        let (kind, note) = (ClientLock::ClaudeDirectories, home.path().join("note"));
        let held = HeldLock::for_renewing(kind, &file, &note).unwrap();
        let both = [
            dir.join(".oauth_refresh.lock"),
            home.path().join(".claude.lock"),
        ];
        assert!(both.iter().all(|path| path.is_dir()));
        drop(held);
        assert!(both.iter().all(|path| !path.exists()));
        // The client holds the second for a moment.
        fs_err::create_dir(&both[1]).unwrap();
        let second = both[1].clone();
        let client = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            fs_err::remove_dir(second).unwrap();
        });
        let begun = Instant::now();
        let held = HeldLock::for_renewing(kind, &file, &note).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(200));
        client.join().unwrap();
        drop(held);
    }

    #[test]
    fn the_directories_of_a_killed_launcher_are_removed_but_nobody_elses() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".claude");
        fs_err::create_dir(&dir).unwrap();
        let note = home.path().join("note");
        let killed = Directories::take(&dir, &note).unwrap();
        let text = fs_err::read(&note).unwrap();
        let made = killed.made.clone();
        drop(killed);
        fs_err::create_dir(&made[0]).unwrap();
        fs_err::write(&note, &text).unwrap();
        remove_left_behind(&note);
        assert!(made[0].exists(), "another one at the same place");
        let born = vec![Born::of(&made[0]).unwrap()];
        fs_err::write(&note, serde_json::to_vec(&born).unwrap()).unwrap();
        drop(Directories::take(&dir, &note).unwrap());
        assert!(!made[0].exists());
    }

    #[test]
    fn a_directory_that_nobody_touches_any_more_is_taken_over() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x.lock");
        fs_err::create_dir(&path).unwrap();
        assert!(make(&path).unwrap().is_none());
        let long_ago = SystemTime::now() - STALE - Duration::from_secs(5);
        std::fs::File::open(&path)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        assert!(make(&path).unwrap().is_none(), "removed, not yet made");
        assert!(make(&path).unwrap().is_some());
    }

    #[test]
    fn codexs_files_are_locked_as_it_locks_them() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("auth.json");
        let held = HeldLock::for_writing(ClientLock::CodexFiles, &file).unwrap();
        for name in ["auth.lock", "auth.json.lock"] {
            assert!(
                FileLock::try_exclusive(&home.path().join(name))
                    .unwrap()
                    .is_none()
            );
        }
        drop(held);
        assert!(
            FileLock::try_exclusive(&home.path().join("auth.lock"))
                .unwrap()
                .is_some()
        );
    }
}
