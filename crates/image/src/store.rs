//! The content-addressed store: nothing enters it under its final name before it is complete, verified and on disk.
//!
//! ```text
//! ROOT/layers/<diff id>.erofs      one layer, read-only, keyed by the digest of its uncompressed tar stream
//! ROOT/manifests/<digest>.json     manifest exactly as the registry sent it      ROOT/configs/<digest>.json   likewise
//! ROOT/refs/<digest of the canonical reference>.json   reference → digests: what a launch uses, without any network
//! ROOT/tmp/*                       unfinished files, each locked by its writer   ROOT/locks/<diff id>   one converter per layer
//! ROOT/lock                        held shared while a temporary file is made, exclusively while leftovers are removed
//! ```
//! Publication is write → fsync → rename → fsync of the directory, layers before configuration, manifest and reference: after a crash
//! at any point the store has the old image or the new one. Locks are `flock`: the kernel drops them when their holder dies.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config;
use crate::digest::ImageDigest;
use crate::erofs;
use crate::image::Image;
use crate::manifest::{
    self, Architecture, Document, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, ManifestError,
};
use crate::reference::Reference;

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
#[derive(Debug, Serialize, Deserialize)]
struct RefRecord {
    reference: String,
    digest: ImageDigest,
    manifest: ImageDigest,
    architecture: String,
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
}

/// The exclusive right to make one layer; released on drop or death.
#[derive(Debug)]
pub(crate) struct LayerLock {
    _file: fs_err::File,
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
        // With a digest the tag is only decoration: whatever name led to it, it is that image.
        let name = reference
            .digest()
            .map_or_else(|| reference.clone(), |digest| reference.pinned(digest));
        let path = self.ref_path(&name);
        let Some(bytes) = self.read_bounded(&path, MAX_RECORD_BYTES)? else {
            return Ok(None);
        };
        let damaged = || StoreError::Damaged { path: path.clone() };
        let record: RefRecord = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
        let pinned = name
            .digest()
            .is_none_or(|pin| pin == record.digest || pin == record.manifest);
        if record.reference != name.to_string() || !pinned {
            return Err(damaged());
        }
        let native = Architecture::native();
        if record.architecture != native.oci_name() {
            return Ok(None);
        }
        let resolved = Resolved {
            digest: record.digest,
            manifest: record.manifest,
            architecture: native,
        };
        self.load(reference, resolved).map(Some)
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
        let mut layers = Vec::with_capacity(parsed.diff_ids.len());
        for layer in parsed.diff_ids {
            let Some(root) = self.layer(layer)? else {
                return Err(StoreError::LayerMissing {
                    reference: reference.clone(),
                    layer,
                });
            };
            // The guest's overlay does not honour an opaque root, so what it hides is left out here.
            if root == erofs::RootKind::Opaque {
                layers.clear();
            }
            layers.push(self.layer_path(layer));
        }
        Ok(Image {
            digest: resolved.digest,
            manifest_digest: resolved.manifest,
            config: parsed.config,
            layers,
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
        // The tag comes last: a crash in between leaves the old tag, which is still whole.
        for name in names.iter().rev() {
            let record = RefRecord {
                reference: name.to_string(),
                digest: resolved.digest,
                manifest: resolved.manifest,
                architecture: resolved.architecture.oci_name().to_owned(),
            };
            let bytes =
                serde_json::to_vec_pretty(&record).expect("a record of strings always serialises");
            self.put(&self.ref_path(name), &bytes)?;
        }
        Ok(())
    }

    /// What the root of a stored layer is; `None` if the layer is not there or not whole.
    pub(crate) fn layer(
        &self,
        diff_id: ImageDigest,
    ) -> Result<Option<erofs::RootKind>, StoreError> {
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

    /// Takes the right to make a layer, or `None` while another pull has it.
    pub(crate) fn try_lock_layer(
        &self,
        diff_id: ImageDigest,
    ) -> Result<Option<LayerLock>, StoreError> {
        let path = self.root.join("locks").join(diff_id.hex());
        let lock = || -> io::Result<Option<LayerLock>> {
            let file = open_lock(&path)?;
            Ok(try_flock(&file, FlockOperation::NonBlockingLockExclusive)?
                .then_some(LayerLock { _file: file }))
        };
        lock().map_err(|source| self.io(source))
    }

    /// A new temporary file, locked against the removal of leftovers; removed on drop unless published.
    pub(crate) fn temporary(&self) -> io::Result<tempfile::NamedTempFile> {
        let guard = open_lock(&self.root.join("lock"))?;
        flock(&guard, FlockOperation::LockShared)?;
        let file = tempfile::Builder::new()
            .prefix("part-")
            .tempfile_in(self.root.join("tmp"))?;
        flock(file.as_file(), FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }

    /// Makes a finished temporary file durable under its final name.
    pub(crate) fn publish(&self, file: tempfile::NamedTempFile, target: &Path) -> io::Result<()> {
        file.as_file().sync_all()?;
        file.persist(target).map_err(|refused| refused.error)?;
        let directory = target
            .parent()
            .expect("every published file is in a directory of the store");
        fs_err::File::open(directory)?.sync_all()
    }

    fn prepare(&self) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        fs_err::create_dir_all(&self.root)?;
        fs_err::set_permissions(&self.root, std::fs::Permissions::from_mode(0o700))?;
        for directory in ["layers", "manifests", "configs", "refs", "tmp", "locks"] {
            fs_err::create_dir_all(self.root.join(directory))?;
        }
        self.remove_leftovers()
    }

    /// Removes temporary files whose writer is dead. Skipped while another process makes one or cleans: the next open will do it.
    fn remove_leftovers(&self) -> io::Result<()> {
        let guard = open_lock(&self.root.join("lock"))?;
        if !try_flock(&guard, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(());
        }
        for entry in fs_err::read_dir(self.root.join("tmp"))? {
            let path = entry?.path();
            let file = match fs_err::File::open(&path) {
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            if try_flock(&file, FlockOperation::NonBlockingLockExclusive)? {
                match fs_err::remove_file(&path) {
                    Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                    removed => removed?,
                }
            }
        }
        Ok(())
    }

    fn put(&self, target: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let write = || -> io::Result<()> {
            let mut file = self.temporary()?;
            io::Write::write_all(&mut file, bytes)?;
            self.publish(file, target)
        };
        write().map_err(|source| self.io(source))
    }

    fn content(
        &self,
        kind: &str,
        digest: ImageDigest,
        limit: u64,
    ) -> Result<(PathBuf, Vec<u8>), StoreError> {
        let path = self.content_path(kind, digest);
        match self.read_bounded(&path, limit)? {
            Some(bytes) if ImageDigest::of(&bytes) == digest => Ok((path, bytes)),
            _ => Err(StoreError::Damaged { path }),
        }
    }

    fn content_path(&self, kind: &str, digest: ImageDigest) -> PathBuf {
        self.root.join(kind).join(format!("{}.json", digest.hex()))
    }

    fn ref_path(&self, reference: &Reference) -> PathBuf {
        self.content_path("refs", ImageDigest::of(reference.to_string().as_bytes()))
    }

    fn read_bounded(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let read = |file: fs_err::File| -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            file.take(limit + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match fs_err::File::open(path).and_then(read) {
            Ok(bytes) if bytes.len() as u64 > limit => Err(StoreError::Damaged {
                path: path.to_owned(),
            }),
            Ok(bytes) => Ok(Some(bytes)),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.io(source)),
        }
    }

    pub(crate) fn io(&self, source: io::Error) -> StoreError {
        StoreError::Io {
            root: self.root.clone(),
            source,
        }
    }
}

fn open_lock(path: &Path) -> io::Result<fs_err::File> {
    fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn try_flock(file: &fs_err::File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(refused) => Err(refused.into()),
    }
}

#[cfg(test)]
mod tests;
