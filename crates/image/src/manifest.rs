//! Manifests and indexes as registries send them, parsed into values that hold only what a pull can use.
//!
//! Untrusted input: the size is bounded by the caller ([`MAX_MANIFEST_BYTES`]), the depth by the JSON parser (128), duplicate keys are
//! refused, digests and media types are checked here, so that nothing unchecked becomes a path or a URL. OCI image-spec 1.1
//! (`manifest.md`, `image-index.md`, `descriptor.md`) and Docker's schema 2 with the same meaning.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::digest::{DigestParseError, ImageDigest};
use crate::escape::Escaped;

/// The largest manifest or index, in bytes (what registries themselves accept).
pub(crate) const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// The largest image configuration, in bytes.
pub(crate) const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// The most layers of an image. Docker's own limit; each layer is a disk of the guest.
pub(crate) const MAX_LAYERS: usize = 127;
/// The most entries of an index.
pub(crate) const MAX_INDEX_ENTRIES: usize = 1024;
/// The largest compressed layer, in bytes.
pub(crate) const MAX_LAYER_BYTES: u64 = 16 << 30;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What a pull asks for: the two kinds of document, each in both dialects.
pub(crate) const ACCEPTED_MANIFESTS: [&str; 4] =
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];

/// A parsed manifest or index.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<IndexEntry>),
}

/// An image manifest: one platform.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Blob,
    pub(crate) layers: Vec<LayerBlob>,
}

/// A descriptor reduced to what identifies and bounds the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: ImageDigest,
    /// Exact size in bytes.
    pub(crate) size: u64,
}

/// One layer as stored at the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerBlob {
    pub(crate) blob: Blob,
    pub(crate) compression: Compression,
}

/// How a layer's tar stream is compressed, by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// One entry of an index.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    blob: Blob,
    os: String,
    architecture: String,
    variant: Option<String>,
    is_manifest: bool,
}

/// The processor the image must be built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64, `amd64` in OCI terms.
    Amd64,
    /// AArch64, `arm64` in OCI terms.
    Arm64,
}

impl Architecture {
    /// The architecture this program was built for.
    pub const fn native() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Arm64
        } else {
            Self::Amd64
        }
    }

    /// The OCI name (GOARCH).
    pub fn oci_name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// How well an entry's variant suits, lower is better: the unmarked baseline, then the explicit baseline.
    fn variant_rank(self, variant: Option<&str>) -> Option<u8> {
        match (self, variant) {
            (_, None | Some("")) => Some(0),
            (Self::Amd64, Some("v1")) | (Self::Arm64, Some("v8")) => Some(1),
            _ => None,
        }
    }
}

/// Why a manifest, an index or a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of the documented shape.
    #[error("the document is not valid JSON of the documented form")]
    Json {
        /// The parser's complaint.
        #[source]
        source: serde_json::Error,
    },
    /// Docker schema 1 or an unknown future form.
    #[error("schema version {found} is not supported, only 2")]
    SchemaVersion {
        /// The version found.
        found: u64,
    },
    /// The document is of another kind (an artifact, a Helm chart, …).
    #[error(
        "media type `{media_type}` is not an image manifest, index, configuration or layer that can be used"
    )]
    MediaType {
        /// The media type.
        media_type: Escaped,
    },
    /// The HTTP header and the document name different media types, so two readers could understand two different documents.
    #[error("the document says it is `{document}`, the registry says `{header}`")]
    MediaTypeConflict {
        /// The `mediaType` field.
        document: Escaped,
        /// The `Content-Type` header.
        header: Escaped,
    },
    /// The document has the fields of an index and of a manifest, or those of neither.
    #[error("the document is not clearly either an image manifest or an index")]
    Confused,
    /// A descriptor's digest is not `sha256:…`.
    #[error("a descriptor has an unusable digest")]
    Digest {
        /// What is wrong with it.
        #[source]
        source: DigestParseError,
    },
    /// A layer is to be fetched from somewhere else than the registry.
    #[error(
        "layer {digest} is a foreign layer, to be fetched from other servers than the registry; such images are not supported"
    )]
    Foreign {
        /// The layer.
        digest: ImageDigest,
    },
    /// More layers or index entries than are accepted.
    #[error("{count} {what} are more than the {limit} that are accepted")]
    TooMany {
        /// `layers` or `index entries`.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many are accepted.
        limit: usize,
    },
    /// A descriptor announces more bytes than are accepted.
    #[error("{digest} has {size} bytes, more than the {limit} that are accepted")]
    TooLarge {
        /// The content.
        digest: ImageDigest,
        /// Its announced size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The index has nothing for this machine.
    #[error("the image has no variant for linux/{wanted}; it has: {available}")]
    NoPlatform {
        /// The architecture looked for.
        wanted: &'static str,
        /// What there is.
        available: Escaped,
    },
    /// An index entry for this platform is itself an index.
    #[error("the index entry {digest} is not an image manifest; nested indexes are not supported")]
    Nested {
        /// The entry.
        digest: ImageDigest,
    },
    /// The configuration is for another platform.
    #[error("the image is built for {os}/{architecture}, not for linux/{wanted}")]
    WrongPlatform {
        /// Operating system in the configuration.
        os: Escaped,
        /// Architecture in the configuration.
        architecture: Escaped,
        /// The architecture looked for.
        wanted: &'static str,
    },
    /// Configuration and manifest disagree about the layers.
    #[error("the configuration names {diff_ids} layers, the manifest {layers}")]
    LayerCount {
        /// Number of diff ids in the configuration.
        diff_ids: usize,
        /// Number of layers in the manifest.
        layers: usize,
    },
    /// A string of the configuration cannot be handed to a program.
    #[error("the configuration field {field} holds a NUL byte")]
    Nul {
        /// The field.
        field: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: String,
    digest: String,
    size: u64,
    urls: Option<Vec<String>>,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

/// Parses a manifest or an index; `content_type` is the HTTP header it came with, if any.
pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, ManifestError> {
    let raw: RawDocument =
        serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { source })?;
    if raw.schema_version != 2 || raw.fs_layers.is_some() {
        return Err(ManifestError::SchemaVersion {
            found: raw.schema_version,
        });
    }
    let header = content_type.map(|value| value.split(';').next().unwrap_or(value).trim());
    let header = header.filter(|value| ACCEPTED_MANIFESTS.contains(value));
    if let (Some(document), Some(header)) = (raw.media_type.as_deref(), header)
        && document != header
    {
        return Err(ManifestError::MediaTypeConflict {
            document: Escaped::new(document),
            header: Escaped::new(header),
        });
    }
    let declared_index = match raw.media_type.as_deref().or(header) {
        Some(OCI_INDEX | DOCKER_INDEX) => Some(true),
        Some(OCI_MANIFEST | DOCKER_MANIFEST) => Some(false),
        Some(other) => {
            return Err(ManifestError::MediaType {
                media_type: Escaped::new(other),
            });
        }
        None => None,
    };
    match (declared_index, raw.config, raw.layers, raw.manifests) {
        (None | Some(false), Some(config), Some(layers), None) => {
            manifest(&config, &layers).map(Document::Manifest)
        }
        (None | Some(true), None, None, Some(entries)) => index(entries).map(Document::Index),
        _ => Err(ManifestError::Confused),
    }
}

fn manifest(config: &RawDescriptor, layers: &[RawDescriptor]) -> Result<Manifest, ManifestError> {
    if !matches!(
        config.media_type.as_str(),
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
    ) {
        return Err(ManifestError::MediaType {
            media_type: Escaped::new(&config.media_type),
        });
    }
    check_count("layers", layers.len(), MAX_LAYERS)?;
    Ok(Manifest {
        config: blob(config, MAX_CONFIG_BYTES)?,
        layers: layers.iter().map(layer).collect::<Result<_, _>>()?,
    })
}

fn layer(raw: &RawDescriptor) -> Result<LayerBlob, ManifestError> {
    let blob = blob(raw, MAX_LAYER_BYTES)?;
    let compression = match raw.media_type.as_str() {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        other if other.contains("nondistributable") || other.contains("rootfs.foreign") => {
            return Err(ManifestError::Foreign {
                digest: blob.digest,
            });
        }
        other => {
            return Err(ManifestError::MediaType {
                media_type: Escaped::new(other),
            });
        }
    };
    if raw.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
        return Err(ManifestError::Foreign {
            digest: blob.digest,
        });
    }
    Ok(LayerBlob { blob, compression })
}

fn index(entries: Vec<RawDescriptor>) -> Result<Vec<IndexEntry>, ManifestError> {
    check_count("index entries", entries.len(), MAX_INDEX_ENTRIES)?;
    entries
        .into_iter()
        // Entries without a platform (attestations, artifacts) can never be chosen; what they look like does not matter.
        .filter_map(|raw| {
            let platform = raw.platform.as_ref()?;
            let (os, architecture) = (platform.os.clone()?, platform.architecture.clone()?);
            let variant = platform.variant.clone();
            let is_manifest = matches!(raw.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST);
            Some(blob(&raw, u64::MAX).map(|blob| IndexEntry {
                blob,
                os,
                architecture,
                variant,
                is_manifest,
            }))
        })
        .collect()
}

fn blob(raw: &RawDescriptor, limit: u64) -> Result<Blob, ManifestError> {
    let digest = raw
        .digest
        .parse()
        .map_err(|source| ManifestError::Digest { source })?;
    if raw.size > limit {
        return Err(ManifestError::TooLarge {
            digest,
            size: raw.size,
            limit,
        });
    }
    Ok(Blob {
        digest,
        size: raw.size,
    })
}

fn check_count(what: &'static str, count: usize, limit: usize) -> Result<(), ManifestError> {
    if count > limit {
        Err(ManifestError::TooMany { what, count, limit })
    } else {
        Ok(())
    }
}

/// The manifest for linux on `architecture`: the plainest variant, the first of equals (image-spec: "the first matching entry").
pub(crate) fn select(
    entries: &[IndexEntry],
    architecture: Architecture,
) -> Result<Blob, ManifestError> {
    let suits =
        |entry: &&IndexEntry| entry.os == "linux" && entry.architecture == architecture.oci_name();
    let rank = |entry: &IndexEntry| architecture.variant_rank(entry.variant.as_deref());
    let best = entries
        .iter()
        .filter(suits)
        .filter_map(|entry| Some((rank(entry)?, entry)))
        .min_by_key(|(rank, _)| *rank);
    let Some((_, entry)) = best else {
        let available: Vec<_> = entries
            .iter()
            .map(|entry| format!("{}/{}", entry.os, entry.architecture))
            .collect();
        return Err(ManifestError::NoPlatform {
            wanted: architecture.oci_name(),
            available: Escaped::new(available.join(", ")),
        });
    };
    if !entry.is_manifest {
        return Err(ManifestError::Nested {
            digest: entry.blob.digest,
        });
    }
    if entry.blob.size > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLarge {
            digest: entry.blob.digest,
            size: entry.blob.size,
            limit: MAX_MANIFEST_BYTES,
        });
    }
    Ok(entry.blob)
}

/// Fuzz entry: any bytes as manifest, index and configuration.
pub fn fuzz_manifest(bytes: &[u8]) {
    if let Ok(Document::Index(entries)) = parse(bytes, None) {
        let _ = select(&entries, Architecture::Amd64);
    }
    let _ = crate::config::parse(bytes, Architecture::Amd64);
}

#[cfg(test)]
mod tests;
