//! Why an image is not accepted, in words that say what is missing.

use crate::digest::{DigestParseError, ImageDigest};
use crate::escape::Escaped;

/// Why the signature policy does not accept an image.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature beside the image.
    #[error("{digest} is not signed, and the signature policy wants it to be")]
    Unsigned {
        /// What should be signed.
        digest: ImageDigest,
    },
    /// None of the signatures is one the policy wants; the last one's reason.
    #[error("no signature of {digest} is accepted by the signature policy")]
    Refused {
        /// What should be signed.
        digest: ImageDigest,
        /// Why.
        #[source]
        source: SignatureRefusal,
    },
    /// The list of signatures is not of the documented form.
    #[error("the list of signatures is not valid JSON of the documented form")]
    Manifest {
        /// The parser's complaint.
        #[source]
        source: serde_json::Error,
    },
    /// A signed text is named by something else than a digest.
    #[error("a signature has an unusable digest")]
    Digest {
        /// What is wrong with it.
        #[source]
        source: DigestParseError,
    },
    /// A signed text is larger than any can be.
    #[error("a signed text of {size} bytes is larger than any can be")]
    TooLarge {
        /// Its announced size in bytes.
        size: u64,
    },
}

/// Why one signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureRefusal {
    /// The signed text is not the one the list names.
    #[error("the signed text does not have the digest it is named by")]
    PayloadDigest,
    /// The signed text is of another form.
    #[error("the signed text is not one of an image's signature")]
    PayloadForm,
    /// The signature was made for another image.
    #[error("the signature is for the image {found}")]
    OtherDigest {
        /// What it is for.
        found: Escaped,
    },
    /// The signature was made for another repository.
    #[error("the signature is for the repository {found}")]
    OtherRepository {
        /// What it is for.
        found: Escaped,
    },
    /// Something attached is not base64.
    #[error("the {what} is not base64")]
    NotBase64 {
        /// What.
        what: &'static str,
    },
    /// No key of the policy made the signature.
    #[error("it was made by none of the keys of the policy")]
    OtherKey,
    /// The policy wants an identity, and the signature has no certificate or no word of the log.
    #[error("it comes without {what}")]
    Missing {
        /// What is missing.
        what: &'static str,
    },
    /// The certificate cannot be parsed or does not lead to a root of the policy, or was not valid at the time.
    #[error("its certificate is not accepted: {reason}")]
    Certificate {
        /// Why.
        reason: &'static str,
    },
    /// The certificate is somebody else's.
    #[error("its certificate is of {found}")]
    OtherIdentity {
        /// Whose.
        found: Escaped,
    },
    /// Somebody else vouched for the identity.
    #[error("its certificate's identity comes from the issuer {found}")]
    OtherIssuer {
        /// Who.
        found: Escaped,
    },
    /// What the log says is not its word, or about something else.
    #[error("the transparency log's word is not accepted: {reason}")]
    Log {
        /// Why.
        reason: &'static str,
    },
}
