//! The merged image of a manifest in the store: made when the layers are there, found again by every launch, made anew when it is missing
//! or when a layer is another file than it was made of.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::digest::ImageDigest;
use crate::erofs::{self, LayerHeader};
use crate::merge::{Merge, MergeError};
use crate::reference::Reference;
use crate::store::{Store, StoreError};

/// A layer in the store.
#[derive(Clone, Copy)]
struct StoredLayer {
    diff_id: ImageDigest,
    header: LayerHeader,
    /// Where its blocks begin, from the first of the bottom layer.
    base: u32,
}

impl Store {
    /// The files that are the image together: see [`crate::Image::extents`]. Makes the merged metadata if needed, which takes as long as
    /// the layers have files: some microseconds each.
    pub(crate) fn extents(
        &self,
        reference: &Reference,
        manifest: ImageDigest,
        diff_ids: &[ImageDigest],
    ) -> Result<Vec<PathBuf>, StoreError> {
        let (layers, blocks) = self.stored_layers(reference, diff_ids)?;
        let merged = Merged {
            path: self.merged_path(manifest),
            identity: identity(&layers),
            blocks,
        };
        if !merged.is_there().map_err(|source| self.io(source))? {
            merged
                .make(self, &layers)
                .map_err(|source| StoreError::Merge {
                    reference: reference.clone(),
                    source,
                })?;
        }
        let mut extents = vec![merged.path];
        extents.extend(distinct(&layers).map(|layer| self.layer_path(layer.diff_id)));
        Ok(extents)
    }

    /// Where the merged image of a manifest is.
    pub(crate) fn merged_path(&self, manifest: ImageDigest) -> PathBuf {
        let name = format!("{}.erofs", manifest.hex());
        self.root().join("images").join(name)
    }

    /// The layers bottom first, each with the place of its blocks, and the blocks of all.
    fn stored_layers(
        &self,
        reference: &Reference,
        diff_ids: &[ImageDigest],
    ) -> Result<(Vec<StoredLayer>, u64), StoreError> {
        let mut layers: Vec<StoredLayer> = Vec::with_capacity(diff_ids.len());
        let mut blocks = 0;
        for &diff_id in diff_ids {
            if let Some(&again) = layers.iter().find(|layer| layer.diff_id == diff_id) {
                layers.push(again);
                continue;
            }
            let Some(header) = self.layer(diff_id)? else {
                return Err(StoreError::LayerMissing {
                    reference: reference.clone(),
                    layer: diff_id,
                });
            };
            // A layer has less than 2^23 blocks, an image at most 127 layers.
            let base = u32::try_from(blocks)
                .map_err(|_| self.io(io::Error::other("the image has more than 2^32 blocks")))?;
            layers.push(StoredLayer {
                diff_id,
                header,
                base,
            });
            blocks += u64::from(header.blocks);
        }
        Ok((layers, blocks))
    }
}

/// Layers without repetitions.
fn distinct(layers: &[StoredLayer]) -> impl Iterator<Item = &StoredLayer> {
    layers.iter().enumerate().filter_map(|(index, layer)| {
        let first = layers
            .iter()
            .position(|other| other.diff_id == layer.diff_id);
        (first == Some(index)).then_some(layer)
    })
}

/// A name for the very layer files an image is merged from.
fn identity(layers: &[StoredLayer]) -> ImageDigest {
    let mut hasher = Sha256::new();
    for StoredLayer {
        diff_id, header, ..
    } in layers
    {
        hasher.update(diff_id.as_bytes());
        hasher.update(header.blocks.to_le_bytes());
        hasher.update(header.checksum.to_le_bytes());
    }
    ImageDigest::finish(hasher)
}

/// The merged image as it should be.
struct Merged {
    path: PathBuf,
    identity: ImageDigest,
    /// Blocks of the layers.
    blocks: u64,
}

impl Merged {
    fn is_there(&self) -> io::Result<bool> {
        match fs_err::File::open(&self.path) {
            Ok(file) => erofs::is_merged(file.file(), self.identity, self.blocks),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(refused) => Err(refused),
        }
    }

    /// Makes and publishes it. Two may do so at once: they make the same bytes.
    fn make(&self, store: &Store, layers: &[StoredLayer]) -> Result<(), MergeError> {
        let mut merge = Merge::new();
        for layer in layers {
            let file = open(&store.layer_path(layer.diff_id), layer.diff_id)?;
            merge.add_layer(layer.diff_id, file, layer.base)?;
        }
        let write = || -> io::Result<()> {
            let file = store.temporary()?;
            let mut tree = merge.into_tree();
            erofs::write_merged(&mut tree, file.as_file(), self.identity, self.blocks)?;
            store.publish(file, &self.path)
        };
        write().map_err(|source| MergeError::Write { source })
    }
}

fn open(path: &Path, layer: ImageDigest) -> Result<std::fs::File, MergeError> {
    let opened = fs_err::File::open(path).map(|file| file.into_parts().0);
    opened.map_err(|source| MergeError::Read { layer, source })
}

#[cfg(test)]
mod tests;
