//! Signatures: with a policy, an image is pulled only if somebody the user named has signed its digest (B7 in the sense of cosign).
//!
//! A signature is an image of its own beside the signed one, under the tag `sha256-<digest>.sig`. Each of its layers is a signed text
//! (cosign's "simple signing" payload, which names repository and digest), the signature an annotation of the layer. Checked, all of it
//! before anything of the image enters the store:
//!
//! 1. the payload has the digest and size its manifest says;
//! 2. the payload is about this repository and this very digest;
//! 3. the signature over the payload is by a key of the policy (ECDSA P-256 or Ed25519), or by a certificate as the policy wants it:
//!    chain to the policy's roots, made for code signing, identity (a URI or mail address) and issuer (extension 1.3.6.1.4.1.57264.1.8)
//!    exactly those of the policy, valid when the transparency log says the signature was made; that time is the log's own signed word
//!    (the "signed entry timestamp" of Rekor), verified with the policy's log key, about this signature, payload and certificate.
//!
//! Not checked: that the log can prove the entry is in its tree (no proof of inclusion), and the certificate authority's own transparency
//! log (no SCT). Not understood: signatures attached by the OCI referrers API (the "bundle" form).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use crate::digest::{DigestParseError, ImageDigest};
use crate::manifest::{Blob, MAX_MANIFEST_BYTES};
use crate::pull::{Pull, PullError, read_small};
use crate::reference::Reference;
use crate::registry::{Registry, RegistryError};
use crate::store::{Store, StoreError};

mod certificate;
mod error;
mod key;
mod payload;
mod policy;

pub use error::{SignatureError, SignatureRefusal};
pub use policy::{IdentityRule, SignaturePolicy, SignaturePolicyError, SignatureRule};

/// The media type of a signed payload.
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation with the signature, in base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The annotation with the signer's certificate, in PEM form.
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
/// The annotation with the certificates between it and the root.
const CHAIN: &str = "dev.sigstore.cosign/chain";
/// The annotation with the log's word.
const BUNDLE: &str = "dev.sigstore.cosign/bundle";
/// The most signatures of one image that are looked at.
const MAX_SIGNATURES: usize = 32;
/// The largest payload, in bytes.
const MAX_PAYLOAD_BYTES: u64 = 64 << 10;

/// Why an image of the store must not be launched.
#[derive(Debug, thiserror::Error)]
pub enum NotVerified {
    /// It was pulled without this policy.
    #[error("image {reference} was pulled without the signature policy that is in force now")]
    OtherPolicy {
        /// The image.
        reference: Reference,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One signature as it is attached.
#[derive(Debug, Clone)]
struct Attached {
    signature: String,
    certificate: Option<String>,
    chain: Option<String>,
    bundle: Option<String>,
}

#[derive(Deserialize)]
struct RawManifest {
    layers: Vec<RawLayer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLayer {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Store {
    /// Whether `reference`, if it is in the store, was verified by this very policy when it was pulled.
    ///
    /// # Errors
    /// [`NotVerified`] if it was not.
    pub fn check_verified(
        &self,
        reference: &Reference,
        policy: &SignaturePolicy,
    ) -> Result<(), NotVerified> {
        match self.ref_record(reference)? {
            Some(record) if record.policy != Some(policy.fingerprint()) => {
                Err(NotVerified::OtherPolicy {
                    reference: reference.clone(),
                })
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Pull<'_> {
    /// Verifies the image by the policy of the pull, if it has one; gives what to record.
    pub(crate) async fn verify_signature(
        &self,
        registry: &impl Registry,
        (digest, manifest): (ImageDigest, ImageDigest),
    ) -> Result<Option<ImageDigest>, PullError> {
        let Some(policy) = &self.options.signature else {
            return Ok(None);
        };
        let mut candidates = vec![digest, manifest];
        candidates.dedup();
        let mut refusal = None;
        for digest in candidates {
            match self.verify_digest(registry, digest, policy).await {
                Ok(()) => return Ok(Some(policy.fingerprint())),
                // What is wrong with a signature tells more than that there is no other.
                Err(PullError::Signature {
                    source: SignatureError::Unsigned { .. },
                    ..
                }) if refusal.is_some() => {}
                Err(error @ PullError::Signature { .. }) => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refusal.expect("there is at least one digest, and it was not accepted"))
    }

    async fn verify_digest(
        &self,
        registry: &impl Registry,
        digest: ImageDigest,
        policy: &SignaturePolicy,
    ) -> Result<(), PullError> {
        let refused = |source| PullError::Signature {
            reference: self.reference.clone(),
            source,
        };
        let tag = format!("sha256-{}.sig", digest.hex());
        let bytes = match self.fetch_manifest(registry, &tag).await {
            Ok(fetched) => fetched.bytes,
            Err(PullError::Registry {
                source: RegistryError::NotFound { .. },
                ..
            }) => return Err(refused(SignatureError::Unsigned { digest })),
            Err(error) => return Err(error),
        };
        debug_assert!(bytes.len() as u64 <= MAX_MANIFEST_BYTES);
        let mut last = None;
        for (blob, attached) in signatures(&bytes).map_err(refused)? {
            let payload =
                read_small(registry, blob)
                    .await
                    .map_err(|source| PullError::Registry {
                        reference: self.reference.clone(),
                        source,
                    })?;
            match verify(&payload, blob, &attached, (self.reference, digest), policy) {
                Ok(()) => return Ok(()),
                Err(refusal) => last = Some(refusal),
            }
        }
        Err(refused(match last {
            Some(source) => SignatureError::Refused { digest, source },
            None => SignatureError::Unsigned { digest },
        }))
    }
}

/// The signatures in a signature image.
fn signatures(manifest: &[u8]) -> Result<Vec<(Blob, Attached)>, SignatureError> {
    let raw: RawManifest =
        serde_json::from_slice(manifest).map_err(|source| SignatureError::Manifest { source })?;
    let signed = raw
        .layers
        .into_iter()
        .filter(|layer| layer.media_type == PAYLOAD_TYPE);
    let mut found = Vec::new();
    for mut layer in signed.take(MAX_SIGNATURES) {
        let Some(signature) = layer.annotations.remove(SIGNATURE) else {
            continue;
        };
        if layer.size > MAX_PAYLOAD_BYTES {
            return Err(SignatureError::TooLarge { size: layer.size });
        }
        let digest = layer
            .digest
            .parse()
            .map_err(|source: DigestParseError| SignatureError::Digest { source })?;
        let blob = Blob {
            digest,
            size: layer.size,
        };
        let attached = Attached {
            signature,
            certificate: layer.annotations.remove(CERTIFICATE),
            chain: layer.annotations.remove(CHAIN),
            bundle: layer.annotations.remove(BUNDLE),
        };
        found.push((blob, attached));
    }
    Ok(found)
}

/// Everything about one signature.
fn verify(
    payload: &[u8],
    blob: Blob,
    attached: &Attached,
    (reference, digest): (&Reference, ImageDigest),
    policy: &SignaturePolicy,
) -> Result<(), SignatureRefusal> {
    if payload.len() as u64 != blob.size || ImageDigest::of(payload) != blob.digest {
        return Err(SignatureRefusal::PayloadDigest);
    }
    let signature = BASE64_STANDARD
        .decode(attached.signature.trim())
        .map_err(|_| SignatureRefusal::NotBase64 { what: "signature" })?;
    // Who signed comes first: of a payload nobody trusted has signed, nothing is worth telling.
    policy.accepts(payload, &signature, attached)?;
    payload::check(payload, reference, digest)
}

#[cfg(test)]
mod tests;
