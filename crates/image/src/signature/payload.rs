//! The signed text: which image of which repository (cosign `specs/SIGNATURE_SPEC.md`, "Payload").

use serde::Deserialize;

use super::error::SignatureRefusal;
use crate::digest::ImageDigest;
use crate::escape::Escaped;
use crate::reference::Reference;

/// What every such text says of itself.
const TYPE: &str = "cosign container image signature";

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// Whether a text is about `digest` in the repository of `reference`. A tag it may name means nothing: tags move.
pub(super) fn check(
    payload: &[u8],
    reference: &Reference,
    digest: ImageDigest,
) -> Result<(), SignatureRefusal> {
    let payload: Payload =
        serde_json::from_slice(payload).map_err(|_| SignatureRefusal::PayloadForm)?;
    let Critical {
        identity,
        image,
        kind,
    } = payload.critical;
    if kind != TYPE {
        return Err(SignatureRefusal::PayloadForm);
    }
    if image.digest != digest.to_string() {
        return Err(SignatureRefusal::OtherDigest {
            found: Escaped::new(image.digest),
        });
    }
    let named: Result<Reference, _> = identity.reference.parse();
    if !named.is_ok_and(|named| named.pinned(digest) == reference.pinned(digest)) {
        return Err(SignatureRefusal::OtherRepository {
            found: Escaped::new(identity.reference),
        });
    }
    Ok(())
}
