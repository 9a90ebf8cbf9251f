//! Leases: what somebody alive uses or is about to use, and therefore nobody removes.
//!
//! A lease is a file in `ROOT/leases` that names content and is locked (`flock`) by its holder. When the holder dies, the kernel drops the
//! lock, and the file is a leftover. It is made under the store's guard, so a removal sees it or comes before it, never in between.

use std::io;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::lock::{self, Guard};
use super::{Store, StoreError};
use crate::config;
use crate::digest::ImageDigest;
use crate::image::Image;
use crate::manifest::{
    self, Architecture, Document, MAX_CONFIG_BYTES, MAX_LAYERS, MAX_MANIFEST_BYTES,
};

/// The largest lease, in bytes: a digest in it has fewer than 80.
const MAX_LEASE_BYTES: u64 = (MAX_LAYERS as u64 + 16) * 80;

/// The promise that an image is not removed; ends when dropped, or when its process ends.
#[derive(Debug)]
pub struct Lease {
    _file: tempfile::NamedTempFile,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LeaseHolder {
    /// A virtual machine; its launcher's process.
    Machine {
        /// The process.
        pid: u32,
    },
    /// A pull.
    Pull {
        /// The process.
        pid: u32,
    },
}

/// Content that must not be removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) manifest: ImageDigest,
    pub(crate) config: ImageDigest,
    pub(crate) layers: Vec<ImageDigest>,
}

/// A lease as it is written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    pub(crate) holder: LeaseHolder,
    #[serde(flatten)]
    pub(crate) claim: Claim,
}

impl Store {
    /// Keeps `image` from being removed for as long as the lease lives. Take it before opening the image's files.
    ///
    /// # Errors
    /// [`StoreError`] if the image was removed since it was looked up, or the lease cannot be written.
    pub fn lease(&self, image: &Image) -> Result<Lease, StoreError> {
        let guard = Guard::shared(self).map_err(|source| self.io(source))?;
        let claim = self.claim_of(image.manifest_digest)?;
        for file in &image.extents {
            fs_err::metadata(file).map_err(|source| self.io(source))?;
        }
        let holder = LeaseHolder::Machine {
            pid: std::process::id(),
        };
        self.write_lease(holder, claim, guard)
    }

    /// Keeps what a pull uses and makes; nothing of it need exist yet.
    pub(crate) fn claim(&self, claim: Claim) -> Result<Lease, StoreError> {
        let guard = Guard::shared(self).map_err(|source| self.io(source))?;
        let holder = LeaseHolder::Pull {
            pid: std::process::id(),
        };
        self.write_lease(holder, claim, guard)
    }

    /// All content of a stored image.
    pub(crate) fn claim_of(&self, digest: ImageDigest) -> Result<Claim, StoreError> {
        let (path, bytes) = self.content("manifests", digest, MAX_MANIFEST_BYTES)?;
        let unreadable = |path| move |source| StoreError::Unreadable { path, source };
        let Document::Manifest(manifest) =
            manifest::parse(&bytes, None).map_err(unreadable(path.clone()))?
        else {
            return Err(StoreError::Damaged { path });
        };
        let config = manifest.config.digest;
        let (path, bytes) = self.content("configs", config, MAX_CONFIG_BYTES)?;
        // What is kept does not depend on what it can be used for.
        let parsed = config::parse(&bytes, Architecture::Amd64)
            .or_else(|_| config::parse(&bytes, Architecture::Arm64))
            .map_err(unreadable(path))?;
        Ok(Claim {
            manifest: digest,
            config,
            layers: parsed.diff_ids,
        })
    }

    /// The leases whose holders live. Under the exclusive guard, so that none is half written.
    pub(crate) fn leases(&self, _exclusive: &Guard) -> Result<Vec<LeaseRecord>, StoreError> {
        let mut live = Vec::new();
        let entries = fs_err::read_dir(self.root.join("leases"));
        for entry in entries.map_err(|source| self.io(source))? {
            let path = entry.map_err(|source| self.io(source))?.path();
            let held = || -> io::Result<bool> {
                match fs_err::File::open(&path) {
                    Ok(file) => Ok(!lock::try_flock(
                        &file,
                        FlockOperation::NonBlockingLockShared,
                    )?),
                    Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(false),
                    Err(source) => Err(source),
                }
            };
            if !held().map_err(|source| self.io(source))? {
                continue;
            }
            let Some(bytes) = self.read_bounded(&path, MAX_LEASE_BYTES)? else {
                continue;
            };
            // What cannot be understood may be of a newer agent-vm: better an error than a removed layer.
            let record =
                serde_json::from_slice(&bytes).map_err(|_| StoreError::Damaged { path })?;
            live.push(record);
        }
        Ok(live)
    }

    fn write_lease(
        &self,
        holder: LeaseHolder,
        claim: Claim,
        _guard: Guard,
    ) -> Result<Lease, StoreError> {
        let write = || -> io::Result<Lease> {
            let mut file = self.locked_file("leases")?;
            let record = LeaseRecord { holder, claim };
            io::Write::write_all(&mut file, &serde_json::to_vec(&record)?)?;
            Ok(Lease { _file: file })
        };
        write().map_err(|source| self.io(source))
    }
}
