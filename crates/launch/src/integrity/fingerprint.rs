//! Fingerprints of files in a tree that a guest can change at any time.
//!
//! Everything is opened beneath the project's root, through no link, never waiting (a FIFO is not read), and no more than
//! the limits below is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat, statat};
use rustix::io::Errno;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::watched::{DIRECTORIES, FILES, GIT_RUNS, SUBMODULES};

/// The most of one file that is read, in bytes; of a longer one the rest counts by its length.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most that is read in all, in bytes.
const MAX_BYTES: u64 = 16 << 20;
/// The most files and directories that are looked at.
const MAX_ENTRIES: usize = 2048;
/// How deep directories are followed.
const MAX_DEPTH: usize = 8;

/// Not everything was looked at.
pub(super) const TOO_MUCH: &str = "there are too many watched files, or too large ones";
/// Something was there that could not be read.
pub(super) const UNREADABLE: &str = "a watched file could not be read";

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// A file: its content, length and permission bits.
    File {
        digest: [u8; 32],
        length: u64,
        mode: u32,
    },
    /// A login: all of its form but the values that a refresh changes.
    Login { form: [u8; 32], mode: u32 },
    /// A symbolic link, by what it says.
    Link([u8; 32]),
    /// Something behind a link.
    BehindLink,
    /// A device, a socket, a FIFO.
    Other(u32),
    /// Something that cannot be read.
    Unreadable,
}

/// Everything that was looked at.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) seen: BTreeMap<PathBuf, Seen>,
    pub(super) gaps: BTreeSet<&'static str>,
    entries: usize,
    bytes: u64,
}

/// Looks at all watched files.
pub(super) fn scan(project: &Path, logins: &[PathBuf]) -> Scan {
    let mut scan = Scan::default();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(project, flags, Mode::empty()) {
        Ok(root) => scan.project(&root),
        Err(_gone) => drop(scan.gaps.insert(UNREADABLE)),
    }
    for login in logins {
        if let Some(seen) = self::login(login) {
            scan.seen.insert(login.clone(), seen);
        }
    }
    scan
}

impl Scan {
    fn project(&mut self, root: &OwnedFd) {
        for path in FILES {
            self.look(root.as_fd(), Path::new(path));
        }
        for path in DIRECTORIES {
            self.tree(root.as_fd(), Path::new(path), 0, &|_| true);
        }
        // Of submodules' repositories, which hold everything git knows, only what it runs.
        let runs = |path: &Path| {
            let runs = |part: &std::ffi::OsStr| GIT_RUNS.iter().any(|name| part == *name);
            path.iter().any(runs)
        };
        self.tree(root.as_fd(), Path::new(SUBMODULES), 0, &runs);
    }

    /// Whether one more may be looked at.
    fn admits(&mut self) -> bool {
        self.entries += 1;
        let admits = self.entries <= MAX_ENTRIES && self.bytes < MAX_BYTES;
        if !admits {
            self.gaps.insert(TOO_MUCH);
        }
        admits
    }

    /// All that `wanted` says of a directory, and what is there in its stead.
    fn tree(
        &mut self,
        root: BorrowedFd<'_>,
        path: &Path,
        depth: usize,
        wanted: &dyn Fn(&Path) -> bool,
    ) {
        let Ok(directory) = beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY) else {
            return self.look(root, path);
        };
        if depth > MAX_DEPTH {
            self.gaps.insert(TOO_MUCH);
            return;
        }
        let Ok(entries) = rustix::fs::Dir::new(directory) else {
            self.gaps.insert(UNREADABLE);
            return;
        };
        for entry in entries {
            let Ok(entry) = entry else {
                self.gaps.insert(UNREADABLE);
                return;
            };
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if !self.admits() {
                return;
            }
            let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
            let path = path.join(name);
            if !passed_over(&path) {
                match entry.file_type() {
                    FileType::Directory => self.tree(root, &path, depth + 1, wanted),
                    _ if wanted(&path) => self.look(root, &path),
                    _ => {}
                }
            }
        }
    }

    /// One path; a directory and nothing at all are not noted.
    fn look(&mut self, root: BorrowedFd<'_>, path: &Path) {
        if !self.admits() {
            return;
        }
        let seen = match beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(found) => self.what(root, path, &found),
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(Errno::LOOP) => Some(Seen::BehindLink),
            Err(_) => Some(Seen::Unreadable),
        };
        if seen == Some(Seen::Unreadable) {
            self.gaps.insert(UNREADABLE);
        }
        self.seen.extend(seen.map(|seen| (path.to_owned(), seen)));
    }

    fn what(&mut self, root: BorrowedFd<'_>, path: &Path, found: &OwnedFd) -> Option<Seen> {
        let Ok(stat) = statat(found, "", AtFlags::EMPTY_PATH) else {
            return Some(Seen::Unreadable);
        };
        Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return None,
            FileType::Symlink => match readlinkat(found, "", Vec::new()) {
                Ok(target) => Seen::Link(Sha256::digest(target.to_bytes()).into()),
                Err(_) => Seen::Unreadable,
            },
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let opened = beneath(root, path, flags).map(File::from);
                let read = opened
                    .map_err(std::io::Error::from)
                    .and_then(|file| self.content(file));
                read.unwrap_or(Seen::Unreadable)
            }
            _ => Seen::Other(stat.st_mode),
        })
    }

    fn content(&mut self, file: File) -> std::io::Result<Seen> {
        let metadata = file.metadata()?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 64 * 1024];
        let mut file = file.take(MAX_FILE_BYTES);
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            self.bytes += count as u64;
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
        if metadata.len() > MAX_FILE_BYTES {
            self.gaps.insert(TOO_MUCH);
        }
        Ok(Seen::File {
            digest: hasher.finalize().into(),
            length: metadata.len(),
            mode,
        })
    }
}

/// What agents themselves write there while they work, and nobody acts upon.
fn passed_over(path: &Path) -> bool {
    [".claude/worktrees", ".opencode/node_modules"]
        .iter()
        .any(|passed| path == Path::new(passed))
}

fn beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// A login file of the host, which no guest reaches: its form is what a refresh of its tokens leaves alone.
fn login(path: &Path) -> Option<Seen> {
    let file = match fs_err::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(_) => return Some(Seen::Unreadable),
    };
    let mode = file
        .metadata()
        .map(|metadata| std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()));
    let mut bytes = Vec::new();
    let (Ok(mode), Ok(_)) = (mode, file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)) else {
        return Some(Seen::Unreadable);
    };
    let form = match serde_json::from_slice::<Value>(&bytes) {
        Ok(document) => Sha256::digest(form(&document).to_string()),
        // Not JSON: nothing in it is refreshed.
        Err(_) => Sha256::digest(&bytes),
    };
    Some(Seen::Login {
        form: form.into(),
        mode,
    })
}

/// The names in a document and the types of their values; whether a text is empty counts too.
fn form(document: &Value) -> Value {
    match document {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), form(value)))
            .collect(),
        Value::Array(_) => Value::from("list"),
        Value::String(text) => Value::from(if text.is_empty() { "empty" } else { "text" }),
        Value::Number(_) => Value::from("number"),
        Value::Bool(_) | Value::Null => document.clone(),
    }
}
