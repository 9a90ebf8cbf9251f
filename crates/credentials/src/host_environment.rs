//! What the caller lets this crate see of the host: a home directory, variables, the time.
//!
//! Must hold: a read never blocks on a pipe or device someone put in a file's place, and never takes
//! more than [`MAX_CREDENTIAL_FILE_BYTES`].

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;
use zeroize::Zeroizing;

/// Most bytes of a credential file that are read.
pub const MAX_CREDENTIAL_FILE_BYTES: u64 = 1024 * 1024;

/// The host as far as credentials are concerned.
#[derive(Clone)]
pub struct HostEnvironment {
    /// Home directory of the user; absolute.
    pub home: PathBuf,
    /// Variables; a source `cmd:` gets them all.
    pub vars: BTreeMap<OsString, OsString>,
    /// The time against which expiry is judged.
    pub now: SystemTime,
}

impl std::fmt::Debug for HostEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be tokens.
        let names: Vec<_> = self.vars.keys().collect();
        f.debug_struct("HostEnvironment")
            .field("home", &self.home)
            .field("vars", &names)
            .finish()
    }
}

/// Why a file could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A directory, pipe, socket or device.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Larger than any credential file.
    #[error("{} is larger than {MAX_CREDENTIAL_FILE_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not text.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
}

impl HostEnvironment {
    /// A variable that is set, not empty and UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.vars
            .get(OsStr::new(name))?
            .to_str()
            .filter(|value| !value.is_empty())
    }

    /// The path with a leading `~` or `~/` replaced by the home directory.
    #[must_use]
    pub fn expand(&self, path: &str) -> PathBuf {
        match path.strip_prefix('~') {
            Some("") => self.home.clone(),
            Some(rest) if rest.starts_with('/') => self.home.join(rest.trim_start_matches('/')),
            Some(_) | None => PathBuf::from(path),
        }
    }

    /// The text of a regular file; `None` when there is none.
    pub(crate) fn read(&self, path: &Path) -> Result<Option<Zeroizing<String>>, ReadError> {
        read_text(path)
    }
}

/// The text of a regular file; `None` when there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<Zeroizing<String>>, ReadError> {
    let io = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    // NONBLOCK: opening a pipe without a writer would wait for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(io(errno.into())),
    };
    if !file.metadata().map_err(io)?.is_file() {
        return Err(ReadError::NotRegular {
            path: path.to_owned(),
        });
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_CREDENTIAL_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > MAX_CREDENTIAL_FILE_BYTES {
        return Err(ReadError::TooLarge {
            path: path.to_owned(),
        });
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| ReadError::NotText {
        path: path.to_owned(),
    })?;
    Ok(Some(Zeroizing::new(text.to_owned())))
}

#[cfg(test)]
pub(crate) fn test_environment(home: &Path, vars: &[(&str, &str)]) -> HostEnvironment {
    HostEnvironment {
        home: home.to_owned(),
        vars: vars
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        now: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_file_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let environment = test_environment(dir.path(), &[]);
        assert!(
            environment
                .read(&dir.path().join("none/file"))
                .unwrap()
                .is_none()
        );
        fs_err::write(dir.path().join("file"), "").unwrap();
        assert!(
            environment
                .read(&dir.path().join("file/below"))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn pipe_in_place_of_a_file_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        let result = test_environment(dir.path(), &[]).read(&path);
        assert!(matches!(result, Err(ReadError::NotRegular { .. })));
    }

    #[test]
    fn read_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        fs_err::write(&path, vec![b'x'; 1024 * 1024 + 1]).unwrap();
        let result = test_environment(dir.path(), &[]).read(&path);
        assert!(matches!(result, Err(ReadError::TooLarge { .. })));
        fs_err::write(&path, vec![b'x'; 1024 * 1024]).unwrap();
        let text = test_environment(dir.path(), &[])
            .read(&path)
            .unwrap()
            .unwrap();
        assert_eq!(text.len(), 1024 * 1024);
    }

    #[test]
    fn binary_file_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("binary");
        fs_err::write(&path, b"tok\xff").unwrap();
        let error = test_environment(dir.path(), &[]).read(&path).unwrap_err();
        assert!(
            error.to_string().ends_with("binary is not UTF-8 text"),
            "{error}"
        );
    }

    #[test]
    fn tilde_is_the_home_directory_only_as_a_whole_component() {
        let environment = test_environment(Path::new("/h"), &[]);
        assert_eq!(environment.expand("~"), Path::new("/h"));
        assert_eq!(environment.expand("~/a"), Path::new("/h/a"));
        assert_eq!(environment.expand("~//a"), Path::new("/h/a"));
        assert_eq!(environment.expand("~other/a"), Path::new("~other/a"));
        assert_eq!(environment.expand("/a"), Path::new("/a"));
    }

    #[test]
    fn empty_variable_counts_as_unset_and_debug_hides_values() {
        let environment = test_environment(Path::new("/h"), &[("A", ""), ("B", "hidden-value")]);
        assert_eq!(environment.text("A"), None);
        assert_eq!(environment.text("B"), Some("hidden-value"));
        assert!(!format!("{environment:?}").contains("hidden-value"));
    }
}
