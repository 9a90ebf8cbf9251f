//! Entry points for fuzzing what a stack of layers becomes. Those for single parsers are beside them.

use crate::archive::Archive;
use crate::convert::{self, Limits};
use crate::digest::ImageDigest;
use crate::erofs::{self, BLOCK_SIZE, DataWriter, write_merged, write_metadata};
use crate::merge::{Merge, MergeError};

/// Archive entries enough for an input of some kilobytes; a fuzzer's memory is bounded as well.
const MAX_ENTRIES: u32 = 4096;
/// Bytes of files, for the same reason.
const MAX_CONTENT: u64 = 1 << 20;

/// Two archives, one above the other, all the way to a merged image in memory.
///
/// # Panics
/// When layers this crate has written cannot be read back, or the merged image cannot be written or has impossible names.
pub fn fuzz_merge(lower: &[u8], upper: &[u8]) {
    let layers: Vec<_> = [lower, upper].into_iter().filter_map(stored).collect();
    let mut merge = Merge::new();
    let mut blocks = 0;
    for bytes in &layers {
        let base = u32::try_from(blocks).expect("a few megabytes");
        if !merged(&mut merge, bytes, base) {
            return;
        }
        blocks += bytes.len() as u64 / BLOCK_SIZE;
    }
    let mut tree = merge.into_tree();
    for dentry in tree.dentries().iter() {
        let name = tree.name(dentry);
        let odd = name.is_empty() || name.contains(&b'/') || matches!(name, b"." | b"..");
        assert!(!odd && !name.starts_with(b".wh."), "{name:?}");
    }
    let mut image = Vec::new();
    let written = write_merged(&mut tree, &mut image, ImageDigest::of(b""), blocks);
    assert!(written.is_ok(), "a merged image can be written");
    assert!(
        (image.len() as u64).is_multiple_of(BLOCK_SIZE),
        "whole blocks"
    );
}

/// Any bytes as the file of a layer in the store: fields of its superblock, then all blocks after the first. The checksum is right, for
/// a fuzzer would look for it for ever; so what is refused here is refused for what it says.
pub fn fuzz_stored_layer(bytes: &[u8]) {
    let Some((fields, blocks)) = bytes.split_first_chunk() else {
        return;
    };
    let layer = erofs::layer_of(fields, blocks);
    let _refused = Merge::new().add_layer(ImageDigest::of(b""), layer.as_slice(), 0);
}

/// The file of a layer, if the archive is one.
fn stored(archive: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut data = DataWriter::new(&mut bytes);
    let limits = Limits::new(MAX_ENTRIES, MAX_CONTENT);
    let mut tree = convert::convert(&mut Archive::new(archive), &mut data, &limits).ok()?;
    let written = write_metadata(&mut tree, data, ImageDigest::of(archive)).is_ok();
    assert!(written, "an accepted archive makes a whole layer");
    Some(bytes)
}

/// Whether the layer fits those below.
fn merged(merge: &mut Merge, layer: &[u8], base: u32) -> bool {
    match merge.add_layer(ImageDigest::of(b""), layer, base) {
        Ok(()) => true,
        Err(damage @ (MergeError::Damaged { .. } | MergeError::Read { .. })) => {
            panic!("a layer just written cannot be read: {damage:?}")
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests;
