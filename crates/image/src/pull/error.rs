//! Why a pull ends without an image; each message names the image and the part of it.

use crate::digest::ImageDigest;
use crate::layer::LayerError;
use crate::manifest::ManifestError;
use crate::reference::Reference;
use crate::registry::RegistryError;
use crate::signature::SignatureError;
use crate::store::StoreError;

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry did not give the manifest, the configuration, or a credential is unusable.
    #[error("cannot get image {reference}")]
    Registry {
        /// The image.
        reference: Reference,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// The manifest, index or configuration cannot be used.
    #[error("cannot use image {reference}: its {document} is refused")]
    Document {
        /// The image.
        reference: Reference,
        /// Which document.
        document: &'static str,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// Content that does not have the digest it was asked for by.
    #[error("{document} of {reference} has the digest {actual}, not {expected}")]
    Digest {
        /// The image.
        reference: Reference,
        /// Which document.
        document: &'static str,
        /// What was asked for.
        expected: ImageDigest,
        /// What came.
        actual: ImageDigest,
    },
    /// Content of another size than its descriptor says.
    #[error("{document} of {reference} has {actual} bytes, its descriptor says {expected}")]
    Size {
        /// The image.
        reference: Reference,
        /// Which document.
        document: &'static str,
        /// What was announced.
        expected: u64,
        /// What came, counted up to the first byte too many.
        actual: u64,
    },
    /// A layer was not pulled; nothing of it is kept.
    #[error("cannot pull layer {layer} of {reference}")]
    Layer {
        /// The image.
        reference: Reference,
        /// Digest of the compressed layer.
        layer: ImageDigest,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// The signature policy does not accept it; nothing of it is kept.
    #[error("image {reference} is refused")]
    Signature {
        /// The image.
        reference: Reference,
        /// Why.
        #[source]
        source: SignatureError,
    },
    /// The store.
    #[error("cannot keep image {reference}")]
    Store {
        /// The image.
        reference: Reference,
        /// Why.
        #[source]
        source: StoreError,
    },
}
