//! OCI images pulled into a content-addressed store of read-only EROFS layers, and the writable disk above them.
//!
//! A launch asks [`Store::image`] (no network) and gets an [`Image`]: layer files bottom first and how to start the program. [`pull`]
//! fills the store from a registry. Nothing of an image is ever unpacked onto the host's file system; every byte from a registry is
//! untrusted until its digest is checked, and its names, sizes and numbers stay untrusted after that.

#![deny(unsafe_code)]

mod archive;
mod config;
mod convert;
mod digest;
mod disk;
mod erofs;
mod escape;
mod fuzz;
mod gc;
mod image;
mod layer;
mod manifest;
mod memory;
mod merge;
mod merged;
mod pin;
mod pull;
mod reference;
mod registry;
mod signature;
mod store;
#[cfg(test)]
mod test_archive;
#[cfg(test)]
mod test_mount;
mod tree;
mod update;

pub use archive::ArchiveError;
pub use convert::{ConvertError, PathError};
pub use digest::{DigestParseError, ImageDigest};
pub use disk::{
    CloneMethod, DiskError, DiskFrom, MAX_DISK_BYTES, MIN_DISK_BYTES, clone_disk, disk_from,
    is_clean,
};
pub use escape::Escaped;
pub use fuzz::{fuzz_merge, fuzz_stored_layer};
pub use gc::{PruneMode, PruneScope, RemoveError, Removed};
pub use image::{ApiMismatch, IMAGE_API_LABEL, Image, ImageConfig, check_api};
pub use layer::{LayerError, fuzz_tar};
pub use manifest::{Architecture, ManifestError, fuzz_manifest};
pub use merge::MergeError;
pub use pull::{
    AuthSources, LayerSummary, PlainHttp, Proxies, PullError, PullEvent, PullObserver, PullOptions,
    pull,
};
pub use reference::{Reference, ReferenceError};
pub use registry::{CredentialError, RegistryError};
pub use signature::{
    IdentityRule, NotVerified, SignatureError, SignaturePolicy, SignaturePolicyError,
    SignatureRefusal, SignatureRule,
};
pub use store::{Inventory, Lease, LeaseHolder, Store, StoreError, StoredImage, StoredLayer};
pub use update::{UpdateError, UpdateState};
