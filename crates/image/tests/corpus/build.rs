//! Images made by hand, well-formed where a case does not say otherwise.

use std::io::{Read as _, Write as _};

use agent_vm_image::ImageDigest;
use serde_json::{Value, json};

pub(crate) use crate::oci::{
    OCI_CONFIG, OCI_GZIP, OCI_INDEX, OCI_MANIFEST, OCI_TAR, OCI_ZSTD, native,
};
use crate::test_archive::{TestArchive, TestEntry};

/// A whole image as a registry serves it, in its parts.
pub(crate) struct Hostile {
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Vec<u8>,
    /// What the tag stands for comes last; before it what it leads to.
    pub(crate) documents: Vec<Document>,
}

/// One layer; `diff_id` is what the configuration will say.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) media_type: &'static str,
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: ImageDigest,
}

/// A manifest or index with the media type it is served as.
#[derive(Clone)]
pub(crate) struct Document {
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
    /// The digest it is served under, where it is not its own.
    pub(crate) served_as: Option<ImageDigest>,
}

impl Layer {
    /// An uncompressed layer.
    pub(crate) fn tar(archive: Vec<u8>) -> Self {
        let diff_id = ImageDigest::of(&archive);
        Self {
            media_type: OCI_TAR,
            blob: archive,
            diff_id,
        }
    }

    pub(crate) fn gzip(archive: &[u8]) -> Self {
        Self::compressed(OCI_GZIP, gzip(archive), archive)
    }

    pub(crate) fn zstd(archive: &[u8]) -> Self {
        Self::compressed(OCI_ZSTD, zstd::bulk::compress(archive, 3).unwrap(), archive)
    }

    /// `blob` is what is served, `archive` what the configuration has the digest of.
    pub(crate) fn compressed(media_type: &'static str, blob: Vec<u8>, archive: &[u8]) -> Self {
        Self {
            media_type,
            blob,
            diff_id: ImageDigest::of(archive),
        }
    }

    /// The layer uncompressed.
    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        match self.media_type {
            OCI_GZIP => drop(
                flate2::read::MultiGzDecoder::new(&self.blob[..])
                    .read_to_end(&mut archive)
                    .unwrap(),
            ),
            OCI_ZSTD => zstd::stream::copy_decode(&self.blob[..], &mut archive).unwrap(),
            _ => archive.clone_from(&self.blob),
        }
        archive
    }

    fn descriptor(&self) -> Value {
        descriptor(self.media_type, &self.blob)
    }
}

impl Document {
    pub(crate) fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self {
            media_type: media_type.to_owned(),
            bytes,
            served_as: None,
        }
    }

    pub(crate) fn digest(&self) -> ImageDigest {
        self.served_as
            .unwrap_or_else(|| ImageDigest::of(&self.bytes))
    }

    /// An index entry that leads here.
    pub(crate) fn entry(&self, os: &str, architecture: &str, variant: Option<&str>) -> Value {
        let mut platform = json!({ "os": os, "architecture": architecture });
        if let Some(variant) = variant {
            platform["variant"] = variant.into();
        }
        json!({
            "mediaType": self.media_type, "digest": self.digest().to_string(), "size": self.bytes.len(),
            "platform": platform,
        })
    }
}

impl Hostile {
    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        let config = config(&layers).to_string().into_bytes();
        let manifest = manifest(&config, &layers);
        Self {
            documents: vec![Document::new(
                OCI_MANIFEST,
                manifest.to_string().into_bytes(),
            )],
            layers,
            config,
        }
    }

    /// One uncompressed layer of these entries.
    pub(crate) fn of(entries: impl IntoIterator<Item = TestEntry>) -> Self {
        Self::archive(TestArchive::of(entries))
    }

    /// One uncompressed layer, byte by byte.
    pub(crate) fn archive(archive: Vec<u8>) -> Self {
        Self::new(vec![Layer::tar(archive)])
    }

    /// Several uncompressed layers, bottom first.
    pub(crate) fn stack<const LAYERS: usize>(layers: [Vec<TestEntry>; LAYERS]) -> Self {
        let archives = layers.into_iter().map(TestArchive::of);
        Self::new(archives.map(Layer::tar).collect())
    }

    /// Changes the configuration; the manifest follows.
    pub(crate) fn with_config(self, change: impl FnOnce(&mut Value)) -> Self {
        let mut config: Value = serde_json::from_slice(&self.config).unwrap();
        change(&mut config);
        self.with_raw_config(config.to_string().into_bytes())
    }

    pub(crate) fn with_raw_config(mut self, config: Vec<u8>) -> Self {
        let manifest = manifest(&config, &self.layers);
        self.documents = vec![Document::new(
            OCI_MANIFEST,
            manifest.to_string().into_bytes(),
        )];
        self.config = config;
        self
    }

    /// Changes the manifest.
    pub(crate) fn with_manifest(self, change: impl FnOnce(&mut Value)) -> Self {
        let document = self.documents.last().unwrap();
        let mut manifest: Value = serde_json::from_slice(&document.bytes).unwrap();
        change(&mut manifest);
        let media_type = document.media_type.clone();
        self.with_raw_manifest(&media_type, manifest.to_string().into_bytes())
    }

    /// Puts another document in the place of the manifest.
    pub(crate) fn with_raw_manifest(mut self, media_type: &str, bytes: Vec<u8>) -> Self {
        self.documents = vec![Document::new(media_type, bytes)];
        self
    }

    /// Puts an index with these entries above what there is.
    pub(crate) fn under_index(mut self, entries: impl FnOnce(&Document) -> Vec<Value>) -> Self {
        let entries = entries(self.documents.last().unwrap());
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        self.documents
            .push(Document::new(OCI_INDEX, index.to_string().into_bytes()));
        self
    }
}

/// A layer nobody could object to.
pub(crate) fn plain_layer() -> Layer {
    Layer::tar(TestArchive::of([TestEntry::file("f", "x")]))
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": ImageDigest::of(bytes).to_string(), "size": bytes.len() })
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(layers: &[Layer]) -> Value {
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect();
    json!({
        "os": "linux", "architecture": native(),
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "config": { "Env": ["PATH=/bin"] },
    })
}

fn manifest(config: &[u8], layers: &[Layer]) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, config),
        "layers": layers.iter().map(Layer::descriptor).collect::<Vec<_>>(),
    })
}
