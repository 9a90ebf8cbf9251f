//! An image as the launcher sees it: where its files are, how its program is to be started, and which guest interface it was built for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::digest::ImageDigest;
use crate::escape::Escaped;

/// The config label that carries the image-API version: a decimal integer.
pub const IMAGE_API_LABEL: &str = "dev.agent-vm.image-api";

/// An image whose layers are all in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What the reference resolved to at the registry: the digest of the index, or of the manifest where there is no index.
    pub digest: ImageDigest,
    /// The digest of the manifest for this platform; equal to `digest` where there is no index.
    pub manifest_digest: ImageDigest,
    /// How to start the image's program.
    pub config: ImageConfig,
    /// Read-only files that, one after the other, are the image's EROFS file system: first the merged metadata, then the layers with the
    /// contents, bottom layer first, each once. Their lengths are multiples of 4096 bytes.
    pub extents: Vec<PathBuf>,
}

impl Image {
    /// The files of the layers, bottom layer first, each once.
    pub fn layers(&self) -> &[PathBuf] {
        self.extents.get(1..).unwrap_or_default()
    }
}

/// The part of an OCI image configuration a launch uses (OCI image-spec, "Image Configuration").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value` entries; entries without a name or an equals sign are left out.
    pub env: Vec<String>,
    /// The program and its fixed arguments.
    pub entrypoint: Vec<String>,
    /// The default arguments.
    pub cmd: Vec<String>,
    /// `USER[:GROUP]` by name or number, if set.
    pub user: Option<String>,
    /// The working directory, if set.
    pub working_dir: Option<String>,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// The value of [`IMAGE_API_LABEL`] where it is a decimal integer.
    pub image_api_version: Option<u32>,
}

/// Why an image does not fit this agent-vm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiMismatch {
    /// The image was built for an older agent-vm.
    #[error(
        "image {digest} has image-API version {found}, this agent-vm needs {supported}: get a newer image with `agent-vm pull`"
    )]
    TooOld {
        /// The image.
        digest: ImageDigest,
        /// The version of its label.
        found: u32,
        /// The version this agent-vm works with.
        supported: u32,
    },
    /// The image was built for a newer agent-vm.
    #[error(
        "image {digest} has image-API version {found}, this agent-vm knows {supported}: update agent-vm, or pin an older image"
    )]
    TooNew {
        /// The image.
        digest: ImageDigest,
        /// The version of its label.
        found: u32,
        /// The version this agent-vm works with.
        supported: u32,
    },
    /// The image has no version label: it was not built for agent-vm.
    #[error(
        "image {digest} has no label {IMAGE_API_LABEL}, so it was not built for agent-vm: add LABEL {IMAGE_API_LABEL}={supported} to its build, or use the template image (`agent-vm pull`)"
    )]
    Missing {
        /// The image.
        digest: ImageDigest,
        /// The version this agent-vm works with.
        supported: u32,
    },
    /// The label is not an integer.
    #[error(
        "image {digest} has the label {IMAGE_API_LABEL}=`{value}`, which is not an integer; this agent-vm needs {supported}"
    )]
    Malformed {
        /// The image.
        digest: ImageDigest,
        /// The label's value.
        value: Escaped,
        /// The version this agent-vm works with.
        supported: u32,
    },
}

/// Compares the image's API version with the one this agent-vm works with. Needs no boot and no network.
///
/// # Errors
/// [`ApiMismatch`] unless the two are equal; its message says what to do.
pub fn check_api(image: &Image, supported: u32) -> Result<(), ApiMismatch> {
    let digest = image.digest;
    match (
        image.config.image_api_version,
        image.config.labels.get(IMAGE_API_LABEL),
    ) {
        (Some(found), _) if found < supported => Err(ApiMismatch::TooOld {
            digest,
            found,
            supported,
        }),
        (Some(found), _) if found > supported => Err(ApiMismatch::TooNew {
            digest,
            found,
            supported,
        }),
        (Some(_), _) => Ok(()),
        (None, Some(value)) => Err(ApiMismatch::Malformed {
            digest,
            value: Escaped::new(value),
            supported,
        }),
        (None, None) => Err(ApiMismatch::Missing { digest, supported }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(label: Option<&str>) -> Image {
        let labels: BTreeMap<_, _> = label
            .map(|value| (IMAGE_API_LABEL.to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        let image_api_version = label.and_then(|value| value.parse().ok());
        let digest = ImageDigest::of(b"x");
        let config = ImageConfig {
            labels,
            image_api_version,
            ..ImageConfig::default()
        };
        Image {
            digest,
            manifest_digest: digest,
            config,
            extents: Vec::new(),
        }
    }

    #[test]
    fn equal_version_is_accepted() {
        assert_eq!(check_api(&image(Some("3")), 3), Ok(()));
    }

    #[test]
    fn each_mismatch_says_what_to_do() {
        for (label, said) in [
            (Some("2"), "agent-vm pull"),
            (Some("4"), "update agent-vm"),
            (None, "was not built for agent-vm"),
            (Some("three"), "not an integer"),
            (Some("-1"), "not an integer"),
        ] {
            let refused = check_api(&image(label), 3).unwrap_err().to_string();
            assert!(refused.contains(said), "{label:?}: {refused}");
        }
    }
}
