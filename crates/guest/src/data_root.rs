//! Docker's data lies directly on the writable file system: its layers are overlays themselves, and an overlay cannot
//! have its changes on another overlay, which the root is.
//!
//! A directory of the disk is bound over each place. Where the image brings data of its own in such a place (an image
//! with pulled containers in it), that is left as it is: hiding it would lose it.

use std::io;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::root::DISK;
use crate::tree::{Tree, TreeError};

/// Place in the root, name on the disk, permission bits as the programs make them.
const PLACES: &[(&str, &str, u32)] = &[
    ("/var/lib/docker", "docker", 0o710),
    ("/var/lib/containerd", "containerd", 0o711),
];

/// Binds every place of `tree`. Gives a line for each that could not be bound; it then lies on the overlay.
#[must_use]
pub fn bind(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for (place, name, mode) in PLACES {
        let source = format!("{DISK}/{name}");
        if let Err(error) = bind_one(tree, place, &source, *mode) {
            problems.push(format!("{place} is not on the disk itself: {error}"));
        }
    }
    problems
}

fn bind_one(tree: &Tree, place: &str, source: &str, mode: u32) -> io::Result<()> {
    match rustix::fs::mkdir(source, Mode::from_raw_mode(mode)) {
        // The process's mask may have taken bits.
        Ok(()) => rustix::fs::chmod(source, Mode::from_raw_mode(mode))?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let target = tree.directory_at(place).map_err(into_io)?;
    if !is_empty(&target)? {
        return Ok(());
    }
    Ok(rustix::mount::mount_bind(source, Tree::handle(&target))?)
}

fn is_empty(directory: &impl std::os::fd::AsFd) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    for entry in Dir::new(readable)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            return Ok(false);
        }
    }
    Ok(true)
}

fn into_io(error: TreeError) -> io::Error {
    match error {
        TreeError::Io { source, .. } => source,
        TreeError::Path { .. } => io::ErrorKind::InvalidInput.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap()
        };
        assert!(is_empty(&open()).unwrap());
        std::fs::create_dir(directory.path().join(".hidden")).unwrap();
        assert!(!is_empty(&open()).unwrap());
    }
}
