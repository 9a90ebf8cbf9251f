//! `[image]` of the user's configuration `~/.config/agent-vm/config.toml`:
//!
//! ```toml
//! [image]
//! update-check = false                    # true unless given
//!
//! [image.signature]                       # images are pulled and launched only if signed by one of these
//! keys = ["cosign.pub"]                   # public keys; paths are relative to the configuration's directory
//! identity = "https://…/template.yml@refs/heads/main"
//! issuer = "https://…"                    # with `identity`: who vouches for it,
//! roots = "fulcio.pem"                    #   the certificate authority's roots,
//! log-key = "rekor.pub"                   #   and the transparency log's key
//! ```
//!
//! A project's configuration says nothing about this: its word is not the user's.

use std::path::{Path, PathBuf};

use agent_vm_image::{IdentityRule, SignaturePolicy, SignaturePolicyError, SignatureRule};
use serde::Deserialize;
use thiserror::Error;

use crate::launch_request::Context;
use crate::setup_files::{
    Links, SetupFileError, USER_CONFIG, read_text, read_toml, user_directory,
};

/// What the user says about images.
#[derive(Debug)]
pub(crate) struct ImageSettings {
    /// Whether to look for newer images.
    pub(crate) update_check: bool,
    /// Who must have signed them.
    pub(crate) signature: Option<SignaturePolicy>,
}

/// Why the settings cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ImageSettingsError {
    #[error(transparent)]
    File(#[from] SetupFileError),
    #[error("{} cannot be understood", path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    #[error("{}: `identity` of [image.signature] needs `issuer`, `roots` and `log-key`, and they need it", path.display())]
    Incomplete { path: PathBuf },
    #[error("{}: [image.signature] cannot be used", path.display())]
    Policy {
        path: PathBuf,
        #[source]
        source: SignaturePolicyError,
    },
}

/// The part of the file that is read here; the rest is for others.
#[derive(Default, Deserialize)]
struct Raw {
    #[serde(default)]
    image: RawImage,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawImage {
    update_check: Option<bool>,
    signature: Option<RawSignature>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawSignature {
    #[serde(default)]
    keys: Vec<PathBuf>,
    identity: Option<String>,
    issuer: Option<String>,
    roots: Option<PathBuf>,
    log_key: Option<PathBuf>,
}

impl ImageSettings {
    /// Reads the user's configuration; defaults where there is none.
    ///
    /// # Errors
    /// When there is one that cannot be used: a policy that is not understood must not be passed over.
    pub(crate) fn read(context: &Context) -> Result<Self, ImageSettingsError> {
        // Every caller needs a home and says so; what stands in for it is not the current directory, which is a project's.
        let home = context.home().unwrap_or_else(|_| PathBuf::from("/"));
        Self::read_in(&user_directory(&context.env, &home))
    }

    fn read_in(directory: &Path) -> Result<Self, ImageSettingsError> {
        let path = directory.join(USER_CONFIG);
        let raw: Raw = read_toml(&path, Links::Followed, |path, source| {
            ImageSettingsError::Syntax { path, source }
        })?;
        let RawImage {
            update_check,
            signature,
        } = raw.image;
        let signature = signature.map(|raw| policy(directory, &path, raw));
        Ok(Self {
            update_check: update_check.unwrap_or(true),
            signature: signature.transpose()?,
        })
    }
}

fn policy(
    directory: &Path,
    path: &Path,
    raw: RawSignature,
) -> Result<SignaturePolicy, ImageSettingsError> {
    let pem = |file: &PathBuf| {
        let file = directory.join(file);
        let missing = || SetupFileError::Read {
            path: file.clone(),
            source: std::io::ErrorKind::NotFound.into(),
        };
        let text = read_text(&file, Links::Followed)?;
        Ok::<_, SetupFileError>(text.ok_or_else(missing)?.into_bytes())
    };
    let mut rules = Vec::new();
    for key in &raw.keys {
        rules.push(SignatureRule::Key(pem(key)?));
    }
    match (raw.identity, raw.issuer, raw.roots, raw.log_key) {
        (None, None, None, None) => {}
        (Some(identity), Some(issuer), Some(roots), Some(log_key)) => {
            rules.push(SignatureRule::Identity(IdentityRule {
                identity,
                issuer,
                roots_pem: pem(&roots)?,
                log_key_pem: pem(&log_key)?,
            }));
        }
        _ => {
            return Err(ImageSettingsError::Incomplete {
                path: path.to_owned(),
            });
        }
    }
    SignaturePolicy::new(&rules).map_err(|source| ImageSettingsError::Policy {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl genpkey -algorithm ed25519`.
    const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    fn settings(config: &str) -> Result<ImageSettings, ImageSettingsError> {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join(USER_CONFIG), config).unwrap();
        fs_err::write(directory.path().join("a.pub"), KEY).unwrap();
        ImageSettings::read_in(directory.path())
    }

    #[test]
    fn without_a_configuration_updates_are_looked_for_and_no_signature_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        for read in [
            ImageSettings::read_in(directory.path()),
            settings("[setup]\npackages = []\n"),
        ] {
            let read = read.unwrap();
            assert!(read.update_check && read.signature.is_none());
        }
    }

    #[test]
    fn the_check_is_switched_off_and_keys_make_a_policy() {
        let read =
            settings("[image]\nupdate-check = false\n[image.signature]\nkeys = [\"a.pub\"]\n")
                .unwrap();
        assert!(!read.update_check && read.signature.is_some());
    }

    #[test]
    fn a_policy_that_is_not_understood_is_never_passed_over() {
        for config in [
            "[image.signature]\n",
            "[image.signature]\nkeys = []\n",
            "[image.signature]\nkeys = [\"missing.pub\"]\n",
            "[image.signature]\nkeys = [\"config.toml\"]\n",
            "[image.signature]\nkey = [\"a.pub\"]\n",
            "[image.signature]\nkeys = [\"a.pub\"]\nidentity = \"x\"\n",
            "[image]\nsignature = \"a.pub\"\n",
            "[image]\nsignatures = true\n",
            "[image",
            "[image.signature]\nkeys = [\".\"]\n",
        ] {
            assert!(settings(config).is_err(), "{config}");
        }
    }
}
