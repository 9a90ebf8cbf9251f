//! A file tree as lines of text, sorted, one for each name, with everything a tree has but what is as usual:
//!
//! ```text
//! a/ 755              a directory          owner 0:0, time 0, no attributes
//! a/f 644 "text"      a file with short printable content; others as #SIZE:DIGEST
//! l -> target         a symlink
//! n c1:3 600          a device (c, b), a fifo (p)
//! x 644 "" 7:8 @5.25 {user.a="v"} =a/f      owner, time, attributes; the same file as a/f
//! ```
//! The root is listed as `/` only where it is not as usual.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use agent_vm_image::{Escaped, ImageDigest};

/// The largest file that is read.
const MAX_READ: u64 = 64 << 20;
/// The longest content that is shown as it is.
const MAX_SHOWN: usize = 40;

/// Lists all below `root`. Times of `now` and later are the lister's own doing, not the tree's: they count as zero.
pub(crate) fn list(root: &Path, now: i64) -> Vec<String> {
    let mut paths = vec![Vec::new()];
    collect(root, b"", &mut paths);
    paths.sort();
    let mut first_names: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut lines = Vec::new();
    for path in paths {
        let full = root.join(std::ffi::OsStr::from_bytes(&path));
        let metadata = fs_err::symlink_metadata(&full).unwrap();
        let mut line = what(&path, &full, &metadata);
        attributes(&mut line, &full, &metadata, now);
        if !metadata.is_dir() && metadata.nlink() > 1 {
            let first = first_names
                .entry((metadata.dev(), metadata.ino()))
                .or_insert_with(|| path.clone());
            if *first != path {
                write!(line, " ={}", Escaped::new(&first[..])).unwrap();
            }
        }
        if !path.is_empty() || line != "/ 755" {
            lines.push(line);
        }
    }
    lines
}

fn collect(root: &Path, prefix: &[u8], paths: &mut Vec<Vec<u8>>) {
    for entry in fs_err::read_dir(root.join(std::ffi::OsStr::from_bytes(prefix))).unwrap() {
        let entry = entry.unwrap();
        let separator: &[u8] = if prefix.is_empty() { b"" } else { b"/" };
        let path = [prefix, separator, entry.file_name().as_bytes()].concat();
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, paths);
        }
        paths.push(path);
    }
}

/// Name, kind, permissions and content.
fn what(path: &[u8], full: &Path, metadata: &std::fs::Metadata) -> String {
    let name = Escaped::new(path);
    let mode = metadata.mode() & 0o7777;
    let kind = metadata.file_type();
    let device = |letter| {
        let (major, minor) = (
            rustix::fs::major(metadata.rdev()),
            rustix::fs::minor(metadata.rdev()),
        );
        format!("{name} {letter}{major}:{minor} {mode:o}")
    };
    if kind.is_dir() {
        format!("{name}/ {mode:o}")
    } else if kind.is_symlink() {
        let target = fs_err::read_link(full).unwrap();
        format!("{name} -> {}", Escaped::new(target.as_os_str().as_bytes()))
    } else if kind.is_char_device() {
        device('c')
    } else if kind.is_block_device() {
        device('b')
    } else if kind.is_fifo() {
        format!("{name} p {mode:o}")
    } else {
        format!("{name} {mode:o} {}", content(full, metadata.len()))
    }
}

fn content(full: &Path, size: u64) -> String {
    if size > MAX_READ {
        return format!("#{size}");
    }
    let bytes = fs_err::read(full).unwrap();
    assert_eq!(bytes.len() as u64, size, "{}", full.display());
    shown(&bytes)
}

/// Bytes as they are, if there are few of them, else their number and digest.
fn shown(bytes: &[u8]) -> String {
    if bytes.len() <= MAX_SHOWN {
        format!("\"{}\"", Escaped::new(bytes))
    } else {
        let digest = ImageDigest::of(bytes).hex();
        format!("#{}:{}", bytes.len(), &digest[..8])
    }
}

/// Owner, time and extended attributes.
fn attributes(line: &mut String, full: &Path, metadata: &std::fs::Metadata, now: i64) {
    if (metadata.uid(), metadata.gid()) != (0, 0) {
        write!(line, " {}:{}", metadata.uid(), metadata.gid()).unwrap();
    }
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    if (seconds, nanoseconds) != (0, 0) && !(now..now + 3600).contains(&seconds) {
        write!(line, " @{seconds}").unwrap();
        if nanoseconds != 0 {
            write!(
                line,
                ".{}",
                format!("{nanoseconds:09}").trim_end_matches('0')
            )
            .unwrap();
        }
    }
    let named = xattrs(full);
    if !named.is_empty() {
        write!(line, " {{{}}}", named.join(",")).unwrap();
    }
}

/// Extended attributes, sorted by name; more than a few as their number and digest.
fn xattrs(full: &Path) -> Vec<String> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(full, &mut names).unwrap();
    let mut named: Vec<_> = names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let length = rustix::fs::lgetxattr(full, name, &mut value).unwrap();
            format!("{}={}", Escaped::new(name), shown(&value[..length]))
        })
        .collect();
    named.sort();
    if named.len() > 8 {
        let digest = ImageDigest::of(named.join(",").as_bytes()).hex();
        return vec![format!("{} attributes:{}", named.len(), &digest[..8])];
    }
    named
}
