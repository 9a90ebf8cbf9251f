//! A new disk that begins as a kept one.
//!
//! Where the file system can (`FICLONE`: Btrfs, XFS, bcachefs, overlay of these) both files share their blocks until one
//! is written. Elsewhere a disk that is soon thrown away is a file with changes over the kept one ([`disk_from`]), and for
//! a disk that stays only the data between holes is copied, inside the kernel where it can ([`clone_disk`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::changes::write_empty;
use super::{DiskError, MAX_DISK_BYTES, MIN_DISK_BYTES, new_file};

/// The most bytes asked of one copying system call.
const STEP_BYTES: u64 = 64 << 20;
/// Size of the buffer where the kernel does not copy by itself.
const BUFFER_BYTES: usize = 1 << 20;

/// How a disk was cloned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneMethod {
    /// Its blocks are shared until they are written.
    Reflink,
    /// What is not a hole was copied.
    SparseCopy,
}

/// Makes a new disk at `target` (which must not exist, mode 0600) with the content of the open disk `source`, and opens it
/// for reading and writing. It has `size` bytes, or as many as `source` when that is larger.
///
/// # Errors
/// [`DiskError`] for a size out of range, an existing target, or a full or read-only file system. What
/// was begun at `target` is removed.
pub fn clone_disk(
    source: &File,
    target: &Path,
    size: u64,
) -> Result<(File, CloneMethod), DiskError> {
    if !(MIN_DISK_BYTES..=MAX_DISK_BYTES).contains(&size) {
        return Err(DiskError::Size { size });
    }
    let to = new_file(target).map_err(io_error)?;
    match fill(source, &to, size) {
        Ok(method) => Ok((to, method)),
        Err(error) => {
            // The reason is what counts.
            let _ = fs_err::remove_file(target);
            Err(io_error(error))
        }
    }
}

/// What a disk is that begins as another one.
#[derive(Debug)]
pub enum DiskFrom {
    /// A raw image of its own, its blocks shared where nothing was written.
    Whole(File),
    /// A QCOW2 image of what differs; what does not is read from the other disk.
    Changes(File),
}

/// As [`clone_disk`], but never copies: takes the same moment whatever the size and the file system. The disk lasts as
/// long as `source` is left as it is.
///
/// # Errors
/// As [`clone_disk`].
pub fn disk_from(source: &File, target: &Path, size: u64) -> Result<DiskFrom, DiskError> {
    if !(MIN_DISK_BYTES..=MAX_DISK_BYTES).contains(&size) {
        return Err(DiskError::Size { size });
    }
    let to = new_file(target).map_err(io_error)?;
    let begun = begin(source, to, size);
    begun.map_err(|error| {
        // The reason is what counts.
        let _ = fs_err::remove_file(target);
        io_error(error)
    })
}

fn begin(from: &File, to: File, size: u64) -> io::Result<DiskFrom> {
    let size = size.max(from.metadata()?.len());
    if rustix::fs::ioctl_ficlone(&to, from).is_ok() {
        to.set_len(size)?;
        return Ok(DiskFrom::Whole(to));
    }
    write_empty(&to, size)?;
    Ok(DiskFrom::Changes(to))
}

fn fill(from: &File, to: &File, size: u64) -> io::Result<CloneMethod> {
    let length = from.metadata()?.len();
    let method = match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => CloneMethod::Reflink,
        // Not this file system, not between these two, or forbidden by a sandbox: copying tells what is really wrong.
        Err(_) => {
            to.set_len(length)?;
            copy_data(from, to, length)?;
            CloneMethod::SparseCopy
        }
    };
    if length < size {
        to.set_len(size)?;
    }
    Ok(method)
}

/// Copies what is not a hole.
fn copy_data(from: &File, to: &File, length: u64) -> io::Result<()> {
    let mut in_kernel = true;
    let mut at = 0;
    while at < length {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(from, SeekFrom::Hole(start))?.min(length);
        copy_range(from, to, start..end, &mut in_kernel)?;
        at = end;
    }
    Ok(())
}

fn copy_range(
    from: &File,
    to: &File,
    range: std::ops::Range<u64>,
    in_kernel: &mut bool,
) -> io::Result<()> {
    let mut at = range.start;
    while *in_kernel && at < range.end {
        let (mut source_at, mut target_at) = (at, at);
        let step = usize::try_from((range.end - at).min(STEP_BYTES)).expect("a step is small");
        let copied =
            rustix::fs::copy_file_range(from, Some(&mut source_at), to, Some(&mut target_at), step);
        match copied {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => at += count as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                *in_kernel = false;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    copy_by_hand(from, to, at..range.end)
}

fn copy_by_hand(from: &File, to: &File, range: std::ops::Range<u64>) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = range.start;
    while at < range.end {
        let step = (range.end - at).min(BUFFER_BYTES as u64);
        let part = &mut buffer[..usize::try_from(step).expect("no more than the buffer")];
        from.read_exact_at(part, at)?;
        to.write_all_at(part, at)?;
        at += step;
    }
    Ok(())
}

fn io_error(source: io::Error) -> DiskError {
    DiskError::Io { source }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const BLOCK: u64 = 4096;

    /// A sparse file with known data at a few places, one of them its end.
    fn sparse(path: &Path, length: u64) -> Vec<(u64, u8)> {
        let file = File::create_new(path).unwrap();
        file.set_len(length).unwrap();
        let places = [(0, 1), (77 * BLOCK, 2), (700 << 20, 3), (length - BLOCK, 4)];
        for (at, byte) in places {
            file.write_all_at(&[byte; BLOCK as usize], at).unwrap();
        }
        places.to_vec()
    }

    pub(in super::super) fn assert_same(path: &Path, places: &[(u64, u8)]) {
        let file = File::open(path).unwrap();
        for (at, byte) in places {
            let mut read = vec![0; BLOCK as usize];
            file.read_exact_at(&mut read, *at).unwrap();
            assert!(read.iter().all(|found| found == byte), "at {at}");
        }
        let mut between = vec![9; BLOCK as usize];
        file.read_exact_at(&mut between, 300 << 20).unwrap();
        assert!(between.iter().all(|found| *found == 0));
    }

    #[test]
    fn a_clone_has_the_data_keeps_the_holes_and_grows() {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (
            directory.path().join("source"),
            directory.path().join("target"),
        );
        let places = sparse(&source, 2 << 30);
        let (file, _) = clone_disk(&File::open(&source).unwrap(), &target, 5 << 30).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o777), (5 << 30, 0o600));
        assert!(metadata.blocks() * 512 < 1 << 20, "holes were filled");
        assert_same(&target, &places);
        // What is written to the clone stays there.
        file.write_all_at(&[8; BLOCK as usize], 0).unwrap();
        assert_same(&source, &places);
    }

    #[test]
    fn a_clone_is_never_smaller_than_its_source() {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (
            directory.path().join("source"),
            directory.path().join("target"),
        );
        let places = sparse(&source, 3 << 30);
        let (file, _) = clone_disk(&File::open(&source).unwrap(), &target, MIN_DISK_BYTES).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3 << 30);
        assert_same(&target, &places);
    }

    #[test]
    fn a_disk_that_is_thrown_away_begins_in_the_same_room_whatever_its_source_has() {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (
            directory.path().join("source"),
            directory.path().join("target"),
        );
        let places = sparse(&source, 2 << 30);
        let from = File::open(&source).unwrap();
        match disk_from(&from, &target, 5 << 30).unwrap() {
            DiskFrom::Whole(file) => {
                assert_eq!(file.metadata().unwrap().len(), 5 << 30);
                assert_same(&target, &places);
            }
            DiskFrom::Changes(file) => {
                assert!(file.metadata().unwrap().blocks() * 512 <= 64 << 10);
                let mut size = [0; 8];
                file.read_exact_at(&mut size, 24).unwrap();
                assert_eq!(u64::from_be_bytes(size), 5 << 30);
            }
        }
        assert!(disk_from(&from, &target, 5 << 30).is_err(), "it is there");
        assert!(disk_from(&from, &directory.path().join("t"), 1).is_err());
    }

    #[test]
    fn what_the_kernel_does_not_copy_is_copied_by_hand() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        let places = sparse(&source, 1 << 30);
        let target = File::create_new(directory.path().join("target")).unwrap();
        target.set_len(1 << 30).unwrap();
        let from = File::open(&source).unwrap();
        let mut in_kernel = false;
        for (at, _) in &places {
            copy_range(&from, &target, *at..at + BLOCK, &mut in_kernel).unwrap();
        }
        assert_same(&directory.path().join("target"), &places);
    }

    #[test]
    fn an_existing_target_is_left_alone_and_a_failed_clone_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        // What was opened for writing only cannot be read.
        let mut blind = fs_err::OpenOptions::new();
        let blind = blind.write(true).create_new(true);
        let blind = blind.open(directory.path().join("blind")).unwrap();
        blind.file().write_all_at(b"x", 0).unwrap();
        let unreadable = clone_disk(blind.file(), &target, MIN_DISK_BYTES);
        assert!(matches!(unreadable, Err(DiskError::Io { .. })));
        assert!(!target.exists());
        fs_err::write(&target, "mine").unwrap();
        let source = directory.path().join("source");
        sparse(&source, 1 << 30);
        assert!(clone_disk(&File::open(&source).unwrap(), &target, MIN_DISK_BYTES).is_err());
        assert_eq!(fs_err::read(&target).unwrap(), b"mine");
        assert!(matches!(
            clone_disk(
                &File::open(&source).unwrap(),
                &directory.path().join("t"),
                1
            ),
            Err(DiskError::Size { size: 1 })
        ));
    }
}
