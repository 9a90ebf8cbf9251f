//! Public keys that signatures are verified with: ECDSA on P-256 with SHA-256, and Ed25519.

use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::digest::ImageDigest;

/// A public key of a kind that is supported.
#[derive(Clone)]
pub(super) struct PublicKey {
    algorithm: &'static dyn VerificationAlgorithm,
    key: Vec<u8>,
    /// Digest of its SubjectPublicKeyInfo: how a log names its key.
    id: ImageDigest,
}

impl PublicKey {
    /// `-----BEGIN PUBLIC KEY-----`; `None` if it is none, or of another kind.
    pub(super) fn from_pem(pem: &[u8]) -> Option<Self> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
        Self::from_spki(&der)
    }

    /// A SubjectPublicKeyInfo (RFC 5480, RFC 8410), nothing behind it.
    pub(super) fn from_spki(der: &[u8]) -> Option<Self> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
        let kind = &info.algorithm;
        let curve = kind.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let algorithm: &'static dyn VerificationAlgorithm =
            if kind.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256) {
                &ECDSA_P256_SHA256_ASN1
            } else if kind.algorithm == OID_SIG_ED25519 {
                &ED25519
            } else {
                return None;
            };
        rest.is_empty().then(|| Self {
            algorithm,
            key: info.subject_public_key.data.to_vec(),
            id: ImageDigest::of(der),
        })
    }

    /// Whether the holder of this key signed `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.key)
            .verify(message, signature)
            .is_ok()
    }

    pub(super) fn id(&self) -> ImageDigest {
        self.id
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}
