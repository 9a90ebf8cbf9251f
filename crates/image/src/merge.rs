//! All layers of an image in one tree, bottom layer first, with the meaning the OCI image-spec (`layer.md`) gives to a stack of layers:
//! as if each were unpacked over the ones below.
//!
//! | in a layer | in the image |
//! |---|---|
//! | `.wh.NAME`, anywhere in the archive | lower layers' NAME is gone; what the layer itself has there stays |
//! | `.wh..wh..opq` | all that lower layers have in the directory is gone, at the root as well |
//! | `.wh.NAME` and NAME | the layer's alone: a directory starts empty, with the layer's attributes |
//! | a file or symlink over anything, a directory over anything else | takes its place |
//! | a directory over a directory | one directory with the upper one's attributes |
//! | a directory the layer only implies | keeps the lower one's attributes; over a symlink it is the directory that leads to, inside the image |
//! | a hard link to a lower file | one more name of that very file |
//! | `.wh..wh.plnk` and other names of aufs | nothing: bookkeeping of a long-gone file system |
//!
//! All that a layer says about lower layers counts before all that it adds, whatever the order in its archive; hard links name files of the
//! layers below as they were before. Symlinks are followed at most forty times, `..` stops at the root. A hard link whose file no lower
//! layer has, and symlinks that go round under an implied directory, are refused, and so is an image of more names
//! than its memory has room for, those of lower layers that are replaced or gone counted as well.
//!
//! The result has no whiteouts and no overlay attributes. Layers are read piece by piece; only the tree is in memory.

use std::io;

use crate::convert::PathError;
use crate::digest::ImageDigest;
use crate::erofs::{BlockInput, LayerReader};
use crate::escape::Escaped;
use crate::memory::MEMORY_BUDGET;
use crate::tree::Tree;

mod follow;
mod top_layer;

use top_layer::{Refusal, TopLayer};

/// The most parts of symlink targets that are followed for one image.
const MAX_STEPS: u32 = 4 << 20;

/// Why layers cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A layer file does not hold what its name says.
    #[error("layer {layer} in the store is damaged: remove its file, then pull the image again")]
    Damaged {
        /// The layer's diff id.
        layer: ImageDigest,
    },
    /// A layer file cannot be read.
    #[error("layer {layer} in the store cannot be read")]
    Read {
        /// The layer's diff id.
        layer: ImageDigest,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// An entry that fits none of the layers below.
    #[error("entry `{entry}` of layer {layer} is refused: {what}")]
    Entry {
        /// The layer's diff id.
        layer: ImageDigest,
        /// The entry.
        entry: Escaped,
        /// What is wrong.
        what: &'static str,
    },
    /// Symlinks of lower layers that do not lead anywhere.
    #[error("entry `{entry}` of layer {layer} lies behind symlinks that cannot be followed")]
    Links {
        /// The layer's diff id.
        layer: ImageDigest,
        /// The entry.
        entry: Escaped,
        /// What is wrong.
        #[source]
        source: PathError,
    },
    /// More than an image may have.
    #[error("the image has too much of something up to layer {layer}: {what}")]
    Limit {
        /// The layer's diff id.
        layer: ImageDigest,
        /// Of what.
        what: &'static str,
    },
    /// The merged metadata could not be written.
    #[error("the metadata of the image cannot be written")]
    Write {
        /// What happened; names the file where the operating system does.
        #[source]
        source: io::Error,
    },
}

/// The tree of the layers so far.
pub(crate) struct Merge {
    tree: Tree,
    /// Parts of symlink targets followed so far.
    steps: u32,
}

impl Merge {
    pub(crate) fn new() -> Self {
        Self {
            tree: Tree::new(MEMORY_BUDGET),
            steps: 0,
        }
    }

    /// Puts `layer` on top. Its contents are at `base`, in blocks from the beginning of the first layer.
    pub(crate) fn add_layer<I: BlockInput>(
        &mut self,
        layer: ImageDigest,
        input: I,
        base: u32,
    ) -> Result<(), MergeError> {
        let refuse = |refusal| match refusal {
            Refusal::Damaged => MergeError::Damaged { layer },
            Refusal::Read(source) => MergeError::Read { layer, source },
            Refusal::Entry(entry, what) => MergeError::Entry { layer, entry, what },
            Refusal::Links(entry, source) => MergeError::Links {
                layer,
                entry,
                source,
            },
            Refusal::Limit(what) => MergeError::Limit { layer, what },
        };
        let reader = LayerReader::open(input).map_err(|error| refuse(error.into()))?;
        TopLayer::new(self, reader, base).apply().map_err(refuse)
    }

    /// All layers together.
    pub(crate) fn into_tree(self) -> Tree {
        self.tree
    }
}

#[cfg(test)]
mod tests;
