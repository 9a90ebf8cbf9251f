//! The content-addressed store: nothing enters it under its final name before it is complete, verified and on disk.
//!
//! ```text
//! ROOT/layers/<diff id>.erofs      one layer, read-only, keyed by the digest of its uncompressed tar stream
//! ROOT/images/<manifest>.erofs     what is derived from all layers of one image
//! ROOT/manifests/<digest>.json     manifest exactly as the registry sent it      ROOT/configs/<digest>.json   likewise
//! ROOT/refs/<digest of the canonical reference>.json   reference → digests: what a launch uses, without any network
//! ROOT/updates/<same name>.json    what the registry said last, for the notice of a newer image
//! ROOT/leases/*  ROOT/pins/*       what must not be removed: by whom alive it is used, what is derived from it
//! ROOT/tmp/*                       unfinished files, each locked by its writer; files being removed
//! ROOT/locks/<diff id>             one converter per layer                       ROOT/lock   the guard, see `lock.rs`
//! ```
//! Publication is write → fsync → rename → fsync of the directory, layers before configuration, manifest and reference; removal goes the
//! other way, references first. So after a crash at any point the store has the old image or the new one, and what it has besides is
//! garbage that the next pull uses or a prune removes. Locks are `flock`: the kernel drops them when their holder dies.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::config;
use crate::digest::ImageDigest;
use crate::erofs;
use crate::image::Image;
use crate::manifest::{
    self, Architecture, Document, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, ManifestError,
};
use crate::merge::MergeError;
use crate::reference::Reference;

mod files;
mod inventory;
mod lease;
mod lock;

pub(crate) use files::{gone_is_fine, sync_directory};
pub use inventory::{Inventory, StoredImage, StoredLayer};
pub(crate) use inventory::{Part, Piece, Snapshot};
pub(crate) use lease::Claim;
pub use lease::{Lease, LeaseHolder};
pub(crate) use lock::{Guard, LayerLock};

/// The parts of a store: all its directories.
const PARTS: [&str; 10] = [
    "layers",
    "images",
    "manifests",
    "configs",
    "refs",
    "updates",
    "leases",
    "pins",
    "tmp",
    "locks",
];
/// The largest reference record, in bytes.
const MAX_RECORD_BYTES: u64 = 64 << 10;

/// An open image store. Cheap to clone; all methods may be used by several processes at once.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// Why the store cannot give or take an image.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation did not work; the source names the file.
    #[error("image store {root} cannot be used")]
    Io {
        /// The store.
        root: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// A file of the store does not hold what its name says.
    #[error("{path} is damaged: remove it, then pull the image again")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A record in the store does not parse.
    #[error("{path} cannot be understood: remove it, then pull the image again")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// The layers of an image do not fit together, or one is damaged.
    #[error("cannot put the layers of {reference} together")]
    Merge {
        /// The image asked for.
        reference: Reference,
        /// Why.
        #[source]
        source: MergeError,
    },
    /// A layer of a recorded image is gone or cut.
    #[error(
        "layer {layer} of {reference} is missing or incomplete in the store: run `agent-vm pull`"
    )]
    LayerMissing {
        /// The image asked for.
        reference: Reference,
        /// The layer.
        layer: ImageDigest,
    },
}

/// What a reference was resolved to at its last pull.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RefRecord {
    pub(crate) reference: String,
    pub(crate) digest: ImageDigest,
    pub(crate) manifest: ImageDigest,
    pub(crate) architecture: String,
    /// Whether somebody asked for this very reference; else it came along with another.
    #[serde(default)]
    pub(crate) requested: bool,
    /// Seconds since 1970.
    #[serde(default)]
    pub(crate) pulled: Option<u64>,
    /// The signature policy that accepted the image.
    #[serde(default)]
    pub(crate) policy: Option<ImageDigest>,
}

/// Both digests of a resolved image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resolved {
    /// Of what the reference names: index or manifest.
    pub(crate) digest: ImageDigest,
    /// Of the manifest for this platform.
    pub(crate) manifest: ImageDigest,
    /// The platform.
    pub(crate) architecture: Architecture,
    /// The signature policy that accepted it.
    pub(crate) policy: Option<ImageDigest>,
}

impl Store {
    /// Opens the store at `root`, making it if needed (mode 0700), and removes what crashed writers left behind.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the directories cannot be made or read.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self { root: root.into() };
        store.prepare().map_err(|source| store.io(source))?;
        Ok(store)
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The image `reference` stood for at its last pull, if it was pulled; never asks the network.
    /// A reference with a digest gives that very image.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read or is damaged.
    pub fn image(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let _guard = Guard::shared(self).map_err(|source| self.io(source))?;
        let Some(record) = self.ref_record(reference)? else {
            return Ok(None);
        };
        let native = Architecture::native();
        if record.architecture != native.oci_name() {
            return Ok(None);
        }
        let resolved = Resolved {
            digest: record.digest,
            manifest: record.manifest,
            architecture: native,
            policy: record.policy,
        };
        self.load(reference, resolved).map(Some)
    }

    /// What was recorded for `reference`.
    pub(crate) fn ref_record(
        &self,
        reference: &Reference,
    ) -> Result<Option<RefRecord>, StoreError> {
        // With a digest the tag is only decoration: whatever name led to it, it is that image.
        let name = reference
            .digest()
            .map_or_else(|| reference.clone(), |digest| reference.pinned(digest));
        let path = self.ref_path(&name);
        let Some(record) = self.read_record(&path)? else {
            return Ok(None);
        };
        let pinned = name
            .digest()
            .is_none_or(|pin| pin == record.digest || pin == record.manifest);
        if record.reference != name.to_string() || !pinned {
            return Err(StoreError::Damaged { path });
        }
        Ok(Some(record))
    }

    pub(crate) fn read_record(&self, path: &Path) -> Result<Option<RefRecord>, StoreError> {
        let damaged = |_| StoreError::Damaged {
            path: path.to_owned(),
        };
        self.read_bounded(path, MAX_RECORD_BYTES)?
            .map(|bytes| serde_json::from_slice(&bytes).map_err(damaged))
            .transpose()
    }

    /// Puts an [`Image`] together from the verified files of the store.
    pub(crate) fn load(
        &self,
        reference: &Reference,
        resolved: Resolved,
    ) -> Result<Image, StoreError> {
        let (path, bytes) = self.content("manifests", resolved.manifest, MAX_MANIFEST_BYTES)?;
        let manifest = match manifest::parse(&bytes, None) {
            Ok(Document::Manifest(manifest)) => manifest,
            Ok(Document::Index(_)) => return Err(StoreError::Damaged { path }),
            Err(source) => return Err(StoreError::Unreadable { path, source }),
        };
        let (path, bytes) = self.content("configs", manifest.config.digest, MAX_CONFIG_BYTES)?;
        let parsed = config::parse(&bytes, resolved.architecture)
            .map_err(|source| StoreError::Unreadable { path, source })?;
        let extents = self.extents(reference, resolved.manifest, &parsed.diff_ids)?;
        Ok(Image {
            digest: resolved.digest,
            manifest_digest: resolved.manifest,
            config: parsed.config,
            extents,
        })
    }

    /// Records a pulled image: configuration, manifest, then the references that lead to it. All its layers are in the store already.
    pub(crate) fn record(
        &self,
        reference: &Reference,
        resolved: Resolved,
        manifest: &[u8],
        config: &[u8],
    ) -> Result<(), StoreError> {
        self.put(
            &self.content_path("configs", ImageDigest::of(config)),
            config,
        )?;
        self.put(&self.content_path("manifests", resolved.manifest), manifest)?;
        let mut names = vec![
            reference.clone(),
            reference.pinned(resolved.digest),
            reference.pinned(resolved.manifest),
        ];
        names.dedup();
        let asked = reference
            .digest()
            .map_or_else(|| reference.clone(), |digest| reference.pinned(digest));
        // The tag comes last: a crash in between leaves the old tag, which is still whole.
        for name in names.iter().rev() {
            let path = self.ref_path(name);
            // A damaged record is replaced, so it asks for nothing.
            let before = self.read_record(&path).ok().flatten();
            let record = RefRecord {
                reference: name.to_string(),
                digest: resolved.digest,
                manifest: resolved.manifest,
                architecture: resolved.architecture.oci_name().to_owned(),
                requested: *name == asked || before.is_some_and(|before| before.requested),
                pulled: unix_seconds(SystemTime::now()),
                policy: resolved.policy,
            };
            let bytes =
                serde_json::to_vec_pretty(&record).expect("a record of strings always serialises");
            self.put(&path, &bytes)?;
        }
        Ok(())
    }

    /// A stored layer; `None` if it is not there or not whole.
    pub(crate) fn layer(
        &self,
        diff_id: ImageDigest,
    ) -> Result<Option<erofs::LayerHeader>, StoreError> {
        match fs_err::File::open(self.layer_path(diff_id)) {
            Ok(file) => erofs::inspect(file.file(), diff_id).map_err(|source| self.io(source)),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.io(source)),
        }
    }

    pub(crate) fn layer_path(&self, diff_id: ImageDigest) -> PathBuf {
        self.root
            .join("layers")
            .join(format!("{}.erofs", diff_id.hex()))
    }

    fn prepare(&self) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        fs_err::create_dir_all(&self.root)?;
        fs_err::set_permissions(&self.root, std::fs::Permissions::from_mode(0o700))?;
        let mut made = false;
        for part in PARTS {
            let directory = self.root.join(part);
            made |= !directory.exists();
            fs_err::create_dir_all(directory)?;
        }
        if made {
            sync_directory(&self.root)?;
        }
        self.remove_leftovers()
    }

    pub(crate) fn ref_path(&self, reference: &Reference) -> PathBuf {
        self.content_path("refs", ImageDigest::of(reference.to_string().as_bytes()))
    }

    pub(crate) fn io(&self, source: io::Error) -> StoreError {
        StoreError::Io {
            root: self.root.clone(),
            source,
        }
    }
}

pub(crate) fn unix_seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs())
}

#[cfg(test)]
mod tests;
