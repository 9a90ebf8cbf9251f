//! Logins from docker's `config.json` and podman's `auth.json`, their credential helpers included.
//!
//! The files are named by the caller; this library looks at no environment variable. The first file with an entry for the registry
//! wins. Helpers (`docker-credential-NAME`) are the user's own programs, named in the user's own file; they get a time limit.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::error::RegistryError;
use crate::reference::{DEFAULT_REGISTRY, Reference};

/// The largest credential file, in bytes.
const MAX_AUTH_FILE: u64 = 4 << 20;
/// How long a credential helper may take.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// A login for one registry.
pub(super) enum Credential {
    Password {
        user: String,
        password: String,
    },
    /// An OAuth 2 refresh token.
    IdentityToken(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(***)")
    }
}

/// Why a credential file or helper did not give a login.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read; the source names it.
    #[error("a credential file cannot be read")]
    Io {
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The file's content, or what a helper said, cannot be used.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// In words.
        reason: &'static str,
    },
    /// A helper did not end in time.
    #[error("a credential helper named in {path} did not answer within {} s", HELPER_TIMEOUT.as_secs())]
    Timeout {
        /// The file.
        path: PathBuf,
    },
}

/// The login for the registry of `image`, or `None` for an anonymous pull. Files that do not exist are passed over.
pub(super) async fn find(
    image: &Reference,
    files: &[PathBuf],
) -> Result<Option<Credential>, RegistryError> {
    for path in files {
        let (file, keys) = (path.clone(), keys(image));
        let lookup = tokio::task::spawn_blocking(move || lookup(&file, &keys));
        let found = match tokio::time::timeout(HELPER_TIMEOUT, lookup).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(CredentialError::Unusable {
                path: path.clone(),
                reason: "reading it did not come to an end",
            }),
            Err(_) => Err(CredentialError::Timeout { path: path.clone() }),
        };
        let found = found.map_err(|source| RegistryError::Credential {
            image: image.clone(),
            source,
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The keys an entry may have, most specific first: podman allows `registry/namespace`, docker has its own for Docker Hub.
fn keys(image: &Reference) -> Vec<String> {
    let full = format!("{}/{}", image.registry(), image.repository());
    let mut keys: Vec<_> = full
        .match_indices('/')
        .map(|(slash, _)| full[..slash].to_owned())
        .collect();
    keys.push(full);
    keys.reverse();
    if image.registry() == DEFAULT_REGISTRY {
        keys.push("https://index.docker.io/v1/".to_owned());
    }
    keys
}

fn lookup(path: &Path, keys: &[String]) -> Result<Option<Credential>, CredentialError> {
    let mut bytes = Vec::new();
    match fs_err::File::open(path)
        .and_then(|file| file.take(MAX_AUTH_FILE + 1).read_to_end(&mut bytes))
    {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CredentialError::Io { source }),
        Ok(read) if read as u64 > MAX_AUTH_FILE => {
            return Err(CredentialError::Unusable {
                path: path.to_owned(),
                reason: "it is too large",
            });
        }
        Ok(_) => {}
    }
    for key in keys {
        match docker_credential::get_credential_from_reader(&bytes[..], key) {
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                return Ok(Some(Credential::Password { user, password }));
            }
            Ok(DockerCredential::IdentityToken(token)) => {
                return Ok(Some(Credential::IdentityToken(token)));
            }
            Err(refused) => {
                if let Some(reason) = reason(&refused) {
                    return Err(CredentialError::Unusable {
                        path: path.to_owned(),
                        reason,
                    });
                }
            }
        }
    }
    Ok(None)
}

/// `None` where the file just has nothing for the key. A helper that fails usually says so because it has no entry.
fn reason(error: &CredentialRetrievalError) -> Option<&'static str> {
    match error {
        CredentialRetrievalError::NoCredentialConfigured
        | CredentialRetrievalError::HelperFailure { .. } => None,
        CredentialRetrievalError::HelperCommunicationError => {
            Some("the credential helper it names cannot be run")
        }
        CredentialRetrievalError::MalformedHelperResponse => {
            Some("the credential helper it names gave an unusable answer")
        }
        CredentialRetrievalError::CredentialDecodingError => {
            Some("an `auth` entry is not base64 of user:password")
        }
        CredentialRetrievalError::CredentialMismatchError => {
            Some("an `auth` entry contradicts its user name and password")
        }
        CredentialRetrievalError::ConfigNotFound | CredentialRetrievalError::ConfigReadError => {
            Some("it is not valid JSON of the documented form")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(image: &str, content: &str) -> Result<Option<Credential>, CredentialError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth.json");
        fs_err::write(&path, content).unwrap();
        lookup(&path, &keys(&image.parse().unwrap()))
    }

    fn user(image: &str, content: &str) -> Option<String> {
        match look(image, content).unwrap() {
            Some(Credential::Password { user, .. }) => Some(user),
            Some(Credential::IdentityToken(token)) => Some(format!("token:{token}")),
            None => None,
        }
    }

    #[test]
    fn finds_the_entry_of_the_registry() {
        let file = r#"{"auths":{"ghcr.io":{"auth":"dTpw"},"https://index.docker.io/v1/":{"auth":"aHViOnA="},"idp.example":{"auth":"","identitytoken":"T"}}}"#;
        assert_eq!(user("ghcr.io/a/b", file).as_deref(), Some("u"));
        assert_eq!(user("debian", file).as_deref(), Some("hub"));
        assert_eq!(user("idp.example/x", file).as_deref(), Some("token:T"));
        assert_eq!(user("quay.io/a/b", file), None);
    }

    #[test]
    fn the_most_specific_podman_entry_wins() {
        let file = r#"{"auths":{"quay.io":{"auth":"YTpw"},"quay.io/team":{"auth":"Yjpw"}}}"#;
        assert_eq!(user("quay.io/team/app", file).as_deref(), Some("b"));
        assert_eq!(user("quay.io/other/app", file).as_deref(), Some("a"));
    }

    #[test]
    fn a_missing_file_means_anonymous_and_a_broken_one_is_told() {
        let gone = lookup(Path::new("/nonexistent/auth.json"), &["x".into()]);
        assert!(matches!(gone, Ok(None)));
        assert!(matches!(
            look("ghcr.io/a/b", "{"),
            Err(CredentialError::Unusable { .. })
        ));
        assert!(matches!(
            look("ghcr.io/a/b", r#"{"auths":{"ghcr.io":{"auth":"%%"}}}"#),
            Err(CredentialError::Unusable { .. })
        ));
    }

    #[test]
    fn a_login_is_never_shown() {
        let shown = format!(
            "{:?}",
            Credential::Password {
                user: "u".into(),
                password: "p".into()
            }
        );
        assert_eq!(shown, "Credential(***)");
    }
}
