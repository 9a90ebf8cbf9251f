//! The files of the audit log, shared by all sessions: the current one and the rotated ones behind it.
//!
//! Theory of operation. Every session appends whole lines to the file that has the log's name; `O_APPEND` keeps lines of
//! different sessions apart. Before a line is written, the name is compared with the open file, because another session
//! may have rotated. A file that is full is locked, renamed by whoever got the lock, and a new one begun; who does not get
//! the lock writes on, so nobody ever waits. Only the newest files are kept, and no session may write so much that
//! the lines of all others would be gone.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use fs_err::os::unix::fs::OpenOptionsExt as _;

use super::AuditError;

/// The size in bytes from which on a file is rotated.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// The most files that are kept, the current one among them.
pub const MAX_FILES: usize = 4;
/// The most that one session may write, in bytes: half of what is kept. A session that has is cut off.
pub const MAX_SESSION_BYTES: u64 = 128 * 1024 * 1024;

/// The files of the log at `path` that there may be, the oldest first, the current one last.
#[must_use]
pub fn audit_files(path: &Path) -> Vec<PathBuf> {
    let older = (1..MAX_FILES).rev().map(|age| rotated(path, age));
    older.chain([path.to_owned()]).collect()
}

fn rotated(path: &Path, age: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

/// How much is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) file: u64,
    pub(super) session: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file: MAX_FILE_BYTES,
            session: MAX_SESSION_BYTES,
        }
    }
}

/// The log as one session writes it.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: fs_err::File,
    /// Device and inode of `file`, which must be those of what has the log's name.
    id: (u64, u64),
    limits: Limits,
    /// Bytes this session has written.
    written: u64,
}

impl LogFile {
    /// Opens the current file for appending; makes it with mode 0600.
    pub(super) fn open(path: &Path, limits: Limits) -> Result<Self, AuditError> {
        let (file, id) = open(path).map_err(|source| AuditError::Open { source })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            id,
            limits,
            written: 0,
        })
    }

    /// Appends a line.
    pub(super) fn append(&mut self, line: &[u8]) -> Result<(), AuditError> {
        let length = line.len() as u64;
        if self.written + length > self.limits.session {
            return Err(AuditError::Full);
        }
        let mut append = || {
            self.follow(length)?;
            self.file.write_all(line)
        };
        append().map_err(|source| AuditError::Write { source })?;
        self.written += length;
        Ok(())
    }

    /// Goes on in the file that has the log's name, which is one that has room.
    fn follow(&mut self, length: u64) -> std::io::Result<()> {
        let size = match self.current_size()? {
            Some(size) => size,
            None => {
                self.reopen()?;
                self.file.metadata()?.len()
            }
        };
        if size + length <= self.limits.file {
            return Ok(());
        }
        match self.file.file().try_lock() {
            Ok(()) => {}
            // Somebody else rotates it, or nobody can: it grows a little longer.
            Err(_busy) => return Ok(()),
        }
        if self.current_size()?.is_some() {
            for age in (1..MAX_FILES).rev() {
                let from = match age {
                    1 => self.path.clone(),
                    age => rotated(&self.path, age - 1),
                };
                match fs_err::rename(&from, rotated(&self.path, age)) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        // The lock ends with the old file.
        self.reopen()
    }

    /// The size of the open file, when it is the one that has the log's name: one question for both, before each line.
    fn current_size(&self) -> std::io::Result<Option<u64>> {
        match fs_err::metadata(&self.path) {
            Ok(named) => Ok(((named.dev(), named.ino()) == self.id).then_some(named.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        (self.file, self.id) = open(&self.path)?;
        Ok(())
    }
}

fn open(path: &Path) -> std::io::Result<(fs_err::File, (u64, u64))> {
    let mut options = fs_err::OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).open(path)?;
    let own = file.metadata()?;
    Ok((file, (own.dev(), own.ino())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SMALL: Limits = Limits {
        file: 100,
        session: 10_000,
    };

    fn all(path: &Path) -> Vec<String> {
        let files = audit_files(path);
        let texts = files
            .iter()
            .filter_map(|file| fs_err::read_to_string(file).ok());
        texts
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn full_files_are_rotated_and_only_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = LogFile::open(&path, SMALL).unwrap();
        let lines: Vec<String> = (0..40).map(|number| format!("{number:019}")).collect();
        for line in &lines {
            log.append(format!("{line}\n").as_bytes()).unwrap();
        }
        // Five lines of 20 bytes in each of four files.
        assert_eq!(all(&path), lines[20..]);
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), MAX_FILES);
        for file in audit_files(&path) {
            let mode = fs_err::metadata(file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn sessions_that_write_at_once_lose_no_line_and_rotate_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut logs: Vec<_> = (0..3)
            .map(|_| LogFile::open(&path, SMALL).unwrap())
            .collect();
        let lines: Vec<String> = (0..15).map(|number| format!("{number:019}")).collect();
        for (number, line) in lines.iter().enumerate() {
            logs[number % 3]
                .append(format!("{line}\n").as_bytes())
                .unwrap();
        }
        assert_eq!(all(&path), lines);
    }

    #[test]
    fn threads_that_write_at_once_lose_no_line_while_none_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let limits = Limits {
            file: 8_000,
            session: 1_000_000,
        };
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    let mut log = LogFile::open(path, limits).unwrap();
                    let lines = (0..200).map(|number| format!("{writer}-{number:017}\n"));
                    lines.for_each(|line| log.append(line.as_bytes()).unwrap());
                });
            }
        });
        let mut lines = all(&path);
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), 800);
        assert!(lines.iter().all(|line| line.len() == 19));
    }

    #[test]
    fn a_file_that_somebody_locked_is_written_on_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = LogFile::open(&path, SMALL).unwrap();
        log.append(&[b'x'; 99]).unwrap();
        let other = std::fs::File::open(&path).unwrap();
        other.lock().unwrap();
        log.append(b"12\n").unwrap();
        assert_eq!(fs_err::metadata(&path).unwrap().len(), 102);
        drop(other);
        log.append(b"34\n").unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"34\n");
    }

    #[test]
    fn a_log_that_was_removed_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = LogFile::open(&path, SMALL).unwrap();
        log.append(b"1\n").unwrap();
        fs_err::remove_file(&path).unwrap();
        log.append(b"2\n").unwrap();
        assert_eq!(all(&path), ["2"]);
    }

    #[test]
    fn no_session_can_write_all_others_away() {
        assert!(MAX_SESSION_BYTES < (MAX_FILES as u64 - 1) * MAX_FILE_BYTES);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let limits = Limits {
            file: 100,
            session: 50,
        };
        let mut log = LogFile::open(&path, limits).unwrap();
        log.append(&[b'x'; 50]).unwrap();
        assert!(matches!(log.append(b"y"), Err(AuditError::Full)));
        let mut next = LogFile::open(&path, limits).unwrap();
        next.append(b"z\n").unwrap();
    }
}
