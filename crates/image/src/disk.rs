//! The writable disk of a launch: an empty ext4 file system in a sparse file, made in a millisecond without any tool, or
//! a clone of a disk that was kept ([`clone_disk`]).
//!
//! The file system was made once by `crates/image/assets/make-blank.sh` and is embedded as its few non-zero extents, compressed. It is
//! smaller than the disk; the guest grows it to the disk's size while it is mounted (`EXT4_IOC_RESIZE_FS`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::store::Store;

mod changes;
mod clone;

pub use clone::{CloneMethod, DiskFrom, clone_disk, disk_from};

/// The embedded file system: for each extent its offset and length (both u64, little-endian), then all their bytes; zstd.
const BLANK: &[u8] = include_bytes!("../assets/blank-v1.ext4.extents.zst");
/// Size of the embedded file system, and so of the smallest disk, in bytes.
pub const MIN_DISK_BYTES: u64 = 1 << 30;
/// The largest disk, in bytes: what the file system's reserved descriptors let it grow to.
pub const MAX_DISK_BYTES: u64 = 1 << 40;
/// The most bytes the embedded extents have together.
const MAX_BLANK_BYTES: usize = 4 << 20;

/// Why there is no writable disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A size out of range.
    #[error("a disk of {size} bytes is not possible: from {MIN_DISK_BYTES} to {MAX_DISK_BYTES}")]
    Size {
        /// The size asked for.
        size: u64,
    },
    /// The file could not be made.
    #[error("the writable disk cannot be made")]
    Io {
        /// What happened; names the file.
        #[source]
        source: io::Error,
    },
}

impl Store {
    /// Makes a new writable disk of `size` bytes at `target` (which must not exist) and opens it for reading and writing.
    ///
    /// The file is sparse, mode 0600. Its file system has [`MIN_DISK_BYTES`]; the guest grows it.
    ///
    /// # Errors
    /// [`DiskError`] for a size out of range, an existing file, or a full or read-only host file system.
    pub fn writable_disk(&self, target: &Path, size: u64) -> Result<File, DiskError> {
        if !(MIN_DISK_BYTES..=MAX_DISK_BYTES).contains(&size) {
            return Err(DiskError::Size { size });
        }
        write_blank(target, size).map_err(|source| DiskError::Io { source })
    }
}

/// Whether the file system on a disk says that it was unmounted in order: nothing waits in its journal. Its bytes are the
/// guest's; a lie harms nobody but the guests that use the disk.
///
/// # Errors
/// When the disk cannot be read.
pub fn is_clean(disk: &File) -> io::Result<bool> {
    let mut superblock = [0; 1024];
    disk.read_exact_at(&mut superblock, 1024)?;
    let short = |at: usize| u16::from_le_bytes([superblock[at], superblock[at + 1]]);
    // Kernel documentation, ext4, "The Super Block": s_magic, s_state, s_feature_incompat.
    const MAGIC: u16 = 0xef53;
    const UNMOUNTED: u16 = 1;
    const NEEDS_RECOVERY: u16 = 4;
    Ok(short(0x38) == MAGIC && short(0x3a) == UNMOUNTED && short(0x60) & NEEDS_RECOVERY == 0)
}

/// A new file, for its owner only.
fn new_file(target: &Path) -> io::Result<File> {
    use fs_err::os::unix::fs::OpenOptionsExt as _;
    let file = fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)?;
    Ok(file.into_parts().0)
}

fn write_blank(target: &Path, size: u64) -> io::Result<File> {
    let blank = zstd::bulk::decompress(BLANK, MAX_BLANK_BYTES)?;
    let file = new_file(target)?;
    file.set_len(size)?;
    for (offset, bytes) in extents(&blank) {
        file.write_all_at(bytes, offset)?;
    }
    Ok(file)
}

/// The embedded extents; the count comes first.
fn extents(blank: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let word =
        move |at: usize| u64::from_le_bytes(blank[at..at + 8].try_into().expect("eight bytes"));
    let index = move |at: usize| usize::try_from(word(at)).expect("an embedded number");
    let count = index(0);
    let mut at = 8 + 16 * count;
    (0..count).map(move |number| {
        let (offset, length) = (word(8 + 16 * number), index(16 + 16 * number));
        at += length;
        (offset, &blank[at - length..at])
    })
}

#[cfg(test)]
mod tests;
