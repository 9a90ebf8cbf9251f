//! What must not be lost when the launcher is killed while it renews a login, in a file of the state directory (0600).
//!
//! Theory of operation. A provider may replace the refresh token at every use: from its answer on, the one in the host's
//! file is worthless. So the answer is brought to disk here first, with a hash of the refresh token it was got for. Who
//! next takes the login's lock finds it. If the file still holds that refresh token, what is here is written to the file;
//! if it holds another one, somebody has logged in or renewed since, and what is here is dropped. The record is begun
//! before the request is sent, so that a full or read-only disk is found out while the token is still good.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use agent_vm_secret::Secret;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::grant::GrantAnswer;
use super::host_file::write_private;

/// The largest record that is read, in bytes: an answer and little more, as JSON text.
const MAX_RECORD_BYTES: u64 = 2 * 1024 * 1024;

/// The record of one login.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
}

/// What a record says.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    /// Hash of the refresh token that was sent.
    sent: String,
    /// Seconds since 1970 when the answer came, and the answer's body; absent while it is awaited.
    answer: Option<(u64, Zeroizing<String>)>,
}

impl Journal {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Records that `refresh` is about to be sent.
    pub(super) fn begin(&self, refresh: &Secret) -> io::Result<()> {
        self.write(&Record {
            sent: hash(refresh),
            answer: None,
        })
    }

    /// Records the answer that `refresh` was given at `at`.
    pub(super) fn answered(
        &self,
        refresh: &Secret,
        answer: &GrantAnswer,
        at: SystemTime,
    ) -> io::Result<()> {
        let body = std::str::from_utf8(&answer.body).map_err(|_| io::ErrorKind::InvalidData)?;
        let since = at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.write(&Record {
            sent: hash(refresh),
            answer: Some((since.as_secs(), Zeroizing::new(body.to_owned()))),
        })
    }

    /// What a launcher left behind; a record that cannot be read is none.
    pub(super) fn left_behind(&self) -> Option<Record> {
        let found = fs_err::symlink_metadata(&self.path).ok()?;
        if !found.is_file() || found.len() > MAX_RECORD_BYTES {
            return None;
        }
        let bytes = Zeroizing::new(fs_err::read(&self.path).ok()?);
        serde_json::from_slice(&bytes).ok()
    }

    /// Forgets the record.
    pub(super) fn end(&self) -> io::Result<()> {
        match fs_err::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        write_private(&self.path, &Zeroizing::new(serde_json::to_vec(record)?))
    }
}

impl Record {
    /// The answer and when it came, if it was given to `refresh`.
    pub(super) fn answer_to(self, refresh: &Secret) -> Option<(GrantAnswer, SystemTime)> {
        let (at, body) = self.answer.filter(|_| self.sent == hash(refresh))?;
        let answer = GrantAnswer {
            status: 200,
            retry_after: None,
            body: Zeroizing::new(body.as_bytes().to_vec()),
        };
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at))?;
        Some((answer, at))
    }
}

/// SHA-256 of a token, as hexadecimal digits.
pub(super) fn hash(token: &Secret) -> String {
    digits(token.expose().as_bytes())
}

/// The beginning of the names of what belongs to `file`, or to the login at `fields` in it.
pub(super) fn key(file: &Path, fields: &[&str]) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let path = file.as_os_str().as_bytes();
    let mut name = digits(&[path, b"\0", fields.join("\0").as_bytes()].concat());
    name.truncate(32);
    name
}

fn digits(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut digits = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        write!(digits, "{byte:02x}").expect("writing to a String does not fail");
    }
    digits
}
