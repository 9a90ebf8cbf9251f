//! A file that holds only what differs from another disk: an empty QCOW2 image, for file systems that cannot share blocks.
//!
//! ```text
//! cluster 0  header        1  refcount table        2  refcount block        3…  level 1 table: nothing is allocated
//! ```
//! (QEMU's `docs/interop/qcow2.txt`, version 3.) The header names no backing file: which disk lies below is the caller's
//! word, so that no byte of a disk ever makes anybody open a file. Made in a moment, whatever the size.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::MAX_DISK_BYTES;

/// Unit of allocation: what is copied from below when a part of it is first written.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Bytes one entry of the level 1 table stands for: a level 2 table of one cluster, eight bytes for each cluster.
const LEVEL_1_SPAN: u64 = CLUSTER / 8 * CLUSTER;
/// Clusters before the level 1 table.
const FIXED_CLUSTERS: u64 = 3;
/// Bytes of the header.
const HEADER_BYTES: u32 = 104;
/// Log of the bits of a reference count.
const REFCOUNT_ORDER: u32 = 4;
/// Disks are counted in these.
const SECTOR: u64 = 512;

// The table of the largest disk is one cluster, and one block counts all clusters of an empty image.
const _: () = assert!(MAX_DISK_BYTES / LEVEL_1_SPAN * 8 <= CLUSTER);

/// Makes the empty file `to` an image of `size` bytes, rounded up to sectors, with no changes.
pub(super) fn write_empty(to: &File, size: u64) -> io::Result<()> {
    let size = size.next_multiple_of(SECTOR);
    let level_1 = u32::try_from(size.div_ceil(LEVEL_1_SPAN)).expect("a disk has a largest size");
    let mut header = Vec::with_capacity(HEADER_BYTES as usize);
    let mut long = |value: u64| header.extend(value.to_be_bytes());
    long(u64::from(u32::from_be_bytes(*b"QFI\xfb")) << 32 | 3);
    // No name of a backing file.
    long(0);
    long(u64::from(CLUSTER_BITS));
    long(size);
    // No encryption.
    long(u64::from(level_1));
    long(FIXED_CLUSTERS * CLUSTER);
    long(CLUSTER);
    // One cluster of refcount table, no snapshots.
    long(1 << 32);
    long(0);
    // No features.
    for _ in 0..3 {
        long(0);
    }
    long(u64::from(REFCOUNT_ORDER) << 32 | u64::from(HEADER_BYTES));
    to.set_len((FIXED_CLUSTERS + 1) * CLUSTER)?;
    to.write_all_at(&header, 0)?;
    to.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
    // Each cluster so far is used once.
    let counts: Vec<u8> = (0..=FIXED_CLUSTERS)
        .flat_map(|_| 1_u16.to_be_bytes())
        .collect();
    to.write_all_at(&counts, 2 * CLUSTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MIN_DISK_BYTES;

    fn image(size: u64) -> Vec<u8> {
        let file = tempfile::tempfile().unwrap();
        write_empty(&file, size).unwrap();
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn long(bytes: &[u8], at: usize) -> u64 {
        u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn header_has_its_fields_where_the_format_wants_them() {
        let bytes = image(MIN_DISK_BYTES + 1);
        assert_eq!((&bytes[..4], word(&bytes, 4)), (&b"QFI\xfb"[..], 3));
        assert_eq!(
            (long(&bytes, 8), word(&bytes, 16)),
            (0, 0),
            "a backing file"
        );
        assert_eq!(
            (word(&bytes, 20), long(&bytes, 24)),
            (16, MIN_DISK_BYTES + 512)
        );
        assert_eq!((word(&bytes, 32), word(&bytes, 36)), (0, 3));
        assert_eq!((long(&bytes, 40), long(&bytes, 48)), (3 << 16, 1 << 16));
        assert_eq!((word(&bytes, 56), word(&bytes, 60)), (1, 0));
        assert_eq!((word(&bytes, 96), word(&bytes, 100)), (4, 104));
        assert_eq!(long(&bytes, 1 << 16), 2 << 16);
        assert_eq!(bytes[2 << 16..][..10], [0, 1, 0, 1, 0, 1, 0, 1, 0, 0]);
        assert!(bytes[3 << 16..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn the_largest_disk_fits() {
        assert_eq!(word(&image(MAX_DISK_BYTES), 36), 2048);
        assert_eq!(image(MAX_DISK_BYTES).len(), 4 << 16);
    }
}
