//! Decompression, and the count and digest of what comes out of it.

use std::io::{self, Read};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::LayerError;
use super::source::Source;
use super::zstd_frames::ZstdFrames;
use crate::digest::ImageDigest;
use crate::manifest::Compression;
use crate::memory::MemoryBudget;

/// A layer's uncompressed bytes.
pub(super) struct Content {
    decoder: Decoder,
    hasher: Sha256,
    left: u64,
    failure: Option<io::Error>,
}

enum Decoder {
    Plain(Source),
    /// All members, as pigz and eStargz write them.
    Gzip(Box<MultiGzDecoder<Source>>),
    /// All frames, skippable ones included.
    Zstd(ZstdFrames),
}

pub(super) fn name(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "(missing)",
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
    }
}

impl Content {
    /// At most `limit` bytes of uncompressed content.
    pub(super) fn new(
        source: Source,
        compression: Compression,
        memory: Arc<MemoryBudget>,
        limit: u64,
    ) -> Self {
        let decoder = match compression {
            Compression::None => Decoder::Plain(source),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(source))),
            Compression::Zstd => Decoder::Zstd(ZstdFrames::new(source, memory)),
        };
        Self {
            decoder,
            hasher: Sha256::new(),
            left: limit,
            failure: None,
        }
    }

    /// The error that ended the stream, if one did.
    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Reads the compressed stream to its end and checks its digest; gives the digest of the content read so far.
    pub(super) fn verify_compressed(
        &mut self,
        expected: ImageDigest,
    ) -> Result<ImageDigest, LayerError> {
        let source = match &mut self.decoder {
            Decoder::Plain(source) => source,
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zstd(frames) => frames.source_mut(),
        };
        let actual = source.finish().map_err(|source| LayerError::Decode {
            compression: "stream's",
            source,
        })?;
        if actual == expected {
            Ok(ImageDigest::finish(self.hasher.clone()))
        } else {
            Err(LayerError::Digest { expected, actual })
        }
    }

    fn decode(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.decoder {
            Decoder::Plain(source) => source.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(frames) => frames.read(buffer),
        }?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other("more uncompressed bytes than a layer may have"))?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decode(buffer).map_err(|failure| {
            let told = io::Error::new(failure.kind(), failure.to_string());
            self.failure = Some(failure);
            told
        })
    }
}
