//! Logins from docker's `config.json` and podman's `auth.json`, their credential helpers included.
//!
//! The files are named by the caller, first one with an entry wins; this library looks at no environment variable. In a file, a helper
//! for the registry (`credHelpers`) comes before the general one (`credsStore`), and both before `auths`, as docker has it. Helpers
//! (`docker-credential-NAME get`) are the user's own programs, named in the user's own file; they end in time or are killed.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_vm_process::{CommandSpec, RunError, find_program, run_captured};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::escape::Escaped;
use crate::pull::AuthSources;
use crate::reference::{DEFAULT_REGISTRY, Reference};

/// The largest credential file, in bytes.
const MAX_AUTH_FILE: u64 = 4 << 20;
/// How long a credential helper may take; it may have to ask its user.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// What a helper says when it has no entry (docker-credential-helpers `errCredentialsNotFoundMessage`).
const HELPER_HAS_NONE: &str = "credentials not found";
/// The user name by which a helper marks its secret as an identity token.
const IDENTITY_TOKEN_USER: &str = "<token>";
/// By which docker and its helpers know Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

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
    /// The file's content cannot be used.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// In words.
        reason: &'static str,
    },
    /// A helper that is not installed.
    #[error("{path} names the credential helper `{helper}`, which is not on PATH")]
    HelperMissing {
        /// The file.
        path: PathBuf,
        /// The program.
        helper: Escaped,
    },
    /// A helper that cannot be run or does not end in time.
    #[error("the credential helper named in {path} gives no answer")]
    Helper {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: RunError,
    },
    /// A helper that fails.
    #[error("the credential helper `{helper}` named in {path} says: {said}")]
    HelperRefuses {
        /// The file.
        path: PathBuf,
        /// The program.
        helper: Escaped,
        /// Its words.
        said: Escaped,
    },
}

/// The login for the registry of `image`, or `None` if there is none. Files that do not exist are passed over.
pub(super) async fn find(
    image: &Reference,
    sources: &AuthSources,
) -> Result<Option<Credential>, CredentialError> {
    let (names, sources) = (Names::of(image), sources.clone());
    let lookup = tokio::task::spawn_blocking(move || {
        for path in &sources.files {
            let found = lookup(path, &names, &sources.helper_environment)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    });
    match lookup.await {
        Ok(found) => found,
        Err(_) => Err(CredentialError::Io {
            source: io::ErrorKind::Interrupted.into(),
        }),
    }
}

/// What an entry for a registry may be called.
struct Names {
    /// In `auths`, most specific first: podman allows `registry/namespace`.
    entries: Vec<String>,
    /// To helpers.
    server: String,
}

impl Names {
    fn of(image: &Reference) -> Self {
        let full = format!("{}/{}", image.registry(), image.repository());
        let mut entries: Vec<_> = full
            .match_indices('/')
            .map(|(slash, _)| full[..slash].to_owned())
            .collect();
        entries.push(full);
        entries.reverse();
        let hub = image.registry() == DEFAULT_REGISTRY;
        if hub {
            entries.push("index.docker.io".to_owned());
        }
        let server = if hub { HUB_KEY } else { image.registry() };
        Self {
            entries,
            server: server.to_owned(),
        }
    }
}

/// What both kinds of files have.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthFile {
    #[serde(default)]
    auths: HashMap<String, Entry>,
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

fn lookup(
    path: &Path,
    names: &Names,
    environment: &[(OsString, OsString)],
) -> Result<Option<Credential>, CredentialError> {
    let unusable = |reason| CredentialError::Unusable {
        path: path.to_owned(),
        reason,
    };
    let mut bytes = Vec::new();
    match fs_err::File::open(path)
        .and_then(|file| file.take(MAX_AUTH_FILE + 1).read_to_end(&mut bytes))
    {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CredentialError::Io { source }),
        Ok(read) if read as u64 > MAX_AUTH_FILE => return Err(unusable("it is too large")),
        Ok(_) => {}
    }
    let file: AuthFile = serde_json::from_slice(&bytes)
        .map_err(|_| unusable("it is not valid JSON of the documented form"))?;
    let of_registry = file
        .cred_helpers
        .iter()
        .find(|(key, _)| is_key(key, names.entries.iter().rev().take(2)))
        .map(|(_, name)| name);
    for name in of_registry
        .into_iter()
        .chain(&file.creds_store)
        .filter(|name| !name.is_empty())
    {
        let helper = Helper {
            path,
            program: format!("docker-credential-{name}"),
            environment,
        };
        let found = helper.ask(&names.server)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    for name in &names.entries {
        let found = file
            .auths
            .iter()
            .find(|(key, _)| is_key(key, [name].into_iter()));
        if let Some(found) = found.map(|(_, entry)| entry.credential()) {
            let found = found
                .map_err(|Malformed| unusable("an `auth` entry is not base64 of user:password"))?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

/// Whether a key of a file, which old versions of docker wrote as a URL, is one of these names.
fn is_key<'a>(key: &str, mut names: impl Iterator<Item = &'a String>) -> bool {
    let plain = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let plain = plain.trim_end_matches('/');
    let plain = plain
        .strip_suffix("/v1")
        .or_else(|| plain.strip_suffix("/v2"))
        .unwrap_or(plain);
    names.any(|name| name == plain)
}

/// An `auth` that is no base64 of `user:password`.
struct Malformed;

impl Entry {
    /// `None` for the empty entries docker leaves beside a helper.
    fn credential(&self) -> Result<Option<Credential>, Malformed> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(self.identitytoken.clone())));
        }
        if self.auth.is_empty() {
            let (user, password) = (self.username.clone(), self.password.clone());
            return Ok((!user.is_empty()).then_some(Credential::Password { user, password }));
        }
        let decoded = STANDARD.decode(&self.auth).map_err(|_| Malformed)?;
        let text = String::from_utf8(decoded).map_err(|_| Malformed)?;
        let (user, password) = text.split_once(':').ok_or(Malformed)?;
        Ok(Some(Credential::Password {
            user: user.to_owned(),
            // Docker pads with NUL.
            password: password.trim_end_matches('\0').to_owned(),
        }))
    }
}

/// A program that keeps logins.
struct Helper<'a> {
    /// The file that names it.
    path: &'a Path,
    program: String,
    environment: &'a [(OsString, OsString)],
}

impl Helper<'_> {
    fn ask(&self, server: &str) -> Result<Option<Credential>, CredentialError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            username: String,
            secret: String,
        }
        let search_path = self
            .environment
            .iter()
            .find(|(name, _)| name == "PATH")
            .map_or(OsStr::new(""), |(_, value)| value);
        let program = find_program(&self.program, search_path).ok_or_else(|| {
            CredentialError::HelperMissing {
                path: self.path.to_owned(),
                helper: Escaped::new(&self.program),
            }
        })?;
        let mut command = CommandSpec::new(program).args(["get"]);
        command.env = self.environment.to_vec();
        command.stdin = server.as_bytes().to_vec();
        command.timeout = HELPER_TIMEOUT;
        let ended = run_captured(&command).map_err(|source| CredentialError::Helper {
            path: self.path.to_owned(),
            source,
        })?;
        if !ended.status.success() {
            let said = [&ended.stdout[..], &ended.stderr].concat();
            if String::from_utf8_lossy(&said).contains(HELPER_HAS_NONE) {
                return Ok(None);
            }
            return Err(self.refuses(said.trim_ascii()));
        }
        match serde_json::from_slice(&ended.stdout) {
            Ok(Answer { username, secret }) if username == IDENTITY_TOKEN_USER => {
                Ok(Some(Credential::IdentityToken(secret)))
            }
            Ok(Answer { username, secret }) => Ok(Some(Credential::Password {
                user: username,
                password: secret,
            })),
            // What it printed may hold the secret.
            Err(_) => Err(self.refuses(b"(an answer of another form than documented)")),
        }
    }

    fn refuses(&self, said: &[u8]) -> CredentialError {
        CredentialError::HelperRefuses {
            path: self.path.to_owned(),
            helper: Escaped::new(&self.program),
            said: Escaped::new(said),
        }
    }
}

#[cfg(test)]
mod tests;
