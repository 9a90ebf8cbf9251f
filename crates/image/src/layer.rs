//! One layer: a stream of compressed bytes becomes a verified EROFS file in the store, in one pass and one write.
//!
//! ```text
//! channel → count + SHA-256 (compressed digest) → gzip | zstd | plain → count + SHA-256 (diff id) → tar → EROFS → fsync → rename
//! ```
//! Runs on a blocking thread. Memory: the channel, one write buffer, and a share of the [`MemoryBudget`]: first for the decoder's window
//! (8 MiB as usual), then, when the stream is over, for the tree of the layer's files. The tree is made, and the file published, only after
//! both digests are known to be right. Nothing of an unfinished layer outlives its pull: a broken connection is resumed, an ended process
//! begins the layer anew.

use std::io::{self, BufReader, Read as _};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::archive::Archive;
use crate::convert::{self, ConvertError, Journal, Limits};
use crate::digest::ImageDigest;
use crate::erofs::{BlockOutput, DataWriter, write_metadata};
use crate::manifest::{Blob, LayerBlob};
use crate::memory::{MEMORY_BUDGET, MemoryBudget, MemoryShare};
use crate::registry::RegistryError;
use crate::store::{LayerLock, Store};
use crate::tree::Tree;

mod decode;
mod output;
mod source;
mod zstd_frames;

pub(crate) use source::{Batch, Source};

use output::DirectFile;

/// Bytes that go to the converter together.
pub(crate) const BATCH_BYTES: usize = 256 << 10;
/// Batches between the network and the converter.
const CHANNEL_BATCHES: usize = 4;
/// What is decoded ahead for headers and small files, in bytes; the contents of larger files go past this buffer.
const HEADER_BUFFER: usize = 64 << 10;
/// The most bytes of an uncompressed archive: all contents, headers and padding.
const MAX_ARCHIVE_BYTES: u64 = 24 << 30;
/// The most bytes after the end of an archive. Writers fill up a record of some kilobytes; what is far beyond only costs time.
const MAX_TRAILING_BYTES: u64 = 64 << 20;

/// Why a layer was not made.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The registry did not give it.
    #[error("it cannot be downloaded")]
    Registry {
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// More bytes than the manifest says.
    #[error("the registry sends more than the {expected} bytes the manifest says")]
    TooLong {
        /// The size in the manifest.
        expected: u64,
    },
    /// Fewer bytes than the manifest says.
    #[error("the registry sends {actual} bytes, the manifest says {expected}")]
    TooShort {
        /// The size in the manifest.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// The compressed bytes are not what the manifest names.
    #[error("its bytes have the digest {actual}, the manifest says {expected}")]
    Digest {
        /// The digest in the manifest.
        expected: ImageDigest,
        /// That of the bytes.
        actual: ImageDigest,
    },
    /// The uncompressed bytes are not what the configuration names.
    #[error("its uncompressed content has the digest {actual}, the configuration says {expected}")]
    DiffId {
        /// The digest in the configuration.
        expected: ImageDigest,
        /// That of the content.
        actual: ImageDigest,
    },
    /// Damaged compression, or more behind it than can be.
    #[error("its {compression} compression cannot be read")]
    Decode {
        /// `gzip`, `zstd` or `no`.
        compression: &'static str,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The archive is over, but not its bytes.
    #[error("it has more bytes after the end of the archive than the {limit} that are accepted")]
    Trailing {
        /// How many are accepted.
        limit: u64,
    },
    /// The archive is malformed or has what a layer must not have.
    #[error("its content is refused")]
    Content {
        /// Why, and at which entry.
        #[source]
        source: ConvertError,
    },
    /// The image file could not be written; the source names the file where the operating system does.
    #[error("its image file cannot be written")]
    Write {
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The conversion was ended from outside, or hit a defect.
    #[error("its conversion was interrupted")]
    Interrupted,
}

/// What is to be made.
pub(crate) struct Job {
    pub(crate) layer: LayerBlob,
    pub(crate) diff_id: ImageDigest,
    /// Held until the layer is published.
    pub(crate) lock: LayerLock,
    /// Shared by all layers of the pull.
    pub(crate) memory: Arc<MemoryBudget>,
    /// The number of entries is shared by all layers of the pull.
    pub(crate) limits: Limits,
}

/// The way from the network to [`convert`].
pub(crate) fn channel(blob: Blob) -> (mpsc::Sender<Batch>, Source) {
    let (sender, receiver) = mpsc::channel(CHANNEL_BATCHES);
    (sender, Source::new(receiver, blob.size))
}

/// Makes the layer from its compressed bytes and publishes it. Blocks.
pub(crate) fn convert(store: &Store, job: Job, source: Source) -> Result<(), LayerError> {
    let Job {
        layer,
        diff_id,
        lock,
        memory,
        limits,
    } = job;
    let written = |source| LayerError::Write { source };
    let file = store.temporary().map_err(written)?;
    let stream = Stream {
        source,
        layer,
        diff_id,
        memory,
        limits,
        journal: store.journal(),
    };
    let made = transform(stream, DirectFile::new(file.as_file())).map(drop);
    made.and_then(|()| {
        store
            .publish(file, &store.layer_path(diff_id))
            .map_err(written)
    })?;
    drop(lock);
    Ok(())
}

/// Compressed bytes and what they must be.
pub(crate) struct Stream {
    pub(crate) source: Source,
    pub(crate) layer: LayerBlob,
    pub(crate) diff_id: ImageDigest,
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) limits: Limits,
    pub(crate) journal: Journal,
}

/// [`convert`] into any output, without a store.
pub(crate) fn transform<O: BlockOutput>(stream: Stream, output: O) -> Result<O, LayerError> {
    let (memory, limits, diff_id) = (
        Arc::clone(&stream.memory),
        stream.limits.clone(),
        stream.diff_id,
    );
    let (mut journal, data) = read(stream, output)?;
    // From here on this layer holds no share for its decoder.
    let (mut tree, _share) = make_tree(&mut journal, &limits, &memory)
        .map_err(|source| LayerError::Content { source })?;
    drop(journal);
    write_metadata(&mut tree, data, diff_id).map_err(|source| LayerError::Write { source })
}

/// Makes the tree with a share of the memory: what it will take as far as is known, and all of it if that was not enough.
fn make_tree(
    journal: &mut Journal,
    limits: &Limits,
    memory: &Arc<MemoryBudget>,
) -> Result<(Tree, MemoryShare), ConvertError> {
    let mut share = memory.take(journal.room());
    let mut made = convert::tree(journal, limits, share.bytes());
    if matches!(made, Err(ConvertError::Room { .. })) && share.bytes() < MEMORY_BUDGET {
        // Nothing is held while waiting for more.
        drop(share);
        share = memory.take(MEMORY_BUDGET);
        made = convert::tree(journal, limits, share.bytes());
    }
    made.map(|tree| (tree, share))
}

/// Reads the stream to its end and checks both digests; contents are written, entries kept.
fn read<O: BlockOutput>(stream: Stream, output: O) -> Result<(Journal, DataWriter<O>), LayerError> {
    let Stream {
        source,
        layer,
        diff_id,
        memory,
        limits,
        mut journal,
    } = stream;
    let compression = decode::name(layer.compression);
    let undecodable = |source| LayerError::Decode {
        compression,
        source,
    };
    let content = decode::Content::new(source, layer.compression, memory, MAX_ARCHIVE_BYTES);
    let mut archive = Archive::new(BufReader::with_capacity(HEADER_BUFFER, content));
    let mut data = DataWriter::new(output);
    let converted = convert::read(&mut archive, &mut data, &limits, &mut journal);
    let mut buffered = archive.into_inner();
    // What follows the end of the archive belongs to the digests.
    let converted = converted.map_err(|source| LayerError::Content { source });
    let read = converted.and_then(|()| {
        let mut rest = (&mut buffered).take(MAX_TRAILING_BYTES + 1);
        let trailing = io::copy(&mut rest, &mut io::sink()).map_err(undecodable)?;
        if trailing > MAX_TRAILING_BYTES {
            return Err(LayerError::Trailing {
                limit: MAX_TRAILING_BYTES,
            });
        }
        Ok(())
    });
    let mut content = buffered.into_inner();
    let failure = content.take_failure();
    if failure.is_some()
        || matches!(
            &read,
            Err(LayerError::Content {
                source: ConvertError::Archive { .. }
            })
        )
    {
        // Damaged bytes are told as such, not as whatever the decoder or the archive reader made of them.
        content.verify_compressed(layer.blob.digest)?;
    }
    failure.map_or(read, |source| Err(undecodable(source)))?;
    let actual = content.verify_compressed(layer.blob.digest)?;
    if actual != diff_id {
        return Err(LayerError::DiffId {
            expected: diff_id,
            actual,
        });
    }
    Ok((journal, data))
}

/// Fuzz entry: any bytes as an uncompressed archive, all the way to an image in memory.
pub fn fuzz_tar(bytes: &[u8]) {
    let limits = Limits::new(4096, 16 << 20);
    let mut data = DataWriter::new(Memory::default());
    if let Ok(mut tree) = convert::convert(&mut Archive::new(bytes), &mut data, &limits) {
        let image = write_metadata(&mut tree, data, ImageDigest::of(bytes));
        assert!(
            image.is_ok_and(|image| image.length.is_multiple_of(4096)),
            "an accepted archive makes a whole image"
        );
    }
}

/// An image nobody keeps.
#[derive(Debug, Default)]
struct Memory {
    length: u64,
}

impl BlockOutput for Memory {
    fn write_at(&mut self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.length = length;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
