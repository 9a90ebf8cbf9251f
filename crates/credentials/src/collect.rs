//! Looks for credentials where the host keeps them and mints a placeholder for each.

use std::path::{Path, PathBuf};

use agent_vm_policy::HostPattern;
use agent_vm_process::{CommandSpec, RunError, find_program, run_captured};
use agent_vm_secret::{MintError, Placeholder, Secret, SecretError};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::claude_login::{self, ClaudeLogin};
use crate::credential::{Collected, Credential, HeaderSpec, Notice};
use crate::host_environment::{HostEnvironment, ReadError};
use crate::provider::{ANTHROPIC_API, ProviderId, VariableCredential, known_prefix};
use crate::refresh_endpoint::{self, RefreshFacts};
use crate::secret_spec::{SecretSource, SecretSpec};

/// Why credentials could not be collected.
#[derive(Debug, Error)]
pub enum CollectError {
    /// A provider's file cannot be read.
    #[error("cannot read the login of {provider}")]
    ReadLogin {
        /// Name of the provider.
        provider: &'static str,
        /// Which file, and why.
        #[source]
        source: ReadError,
    },
    /// A provider's file is not JSON.
    #[error("{} is not valid JSON", path.display())]
    ParseLogin {
        /// The file.
        path: PathBuf,
        /// Position of the mistake.
        #[source]
        source: serde_json::Error,
    },
    /// Two secrets have the same name.
    #[error("the secret {name} is given twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// The variable a secret names is not set, empty or not UTF-8.
    #[error("the variable {variable} for the secret {name} is not set")]
    VariableMissing {
        /// Name of the secret.
        name: String,
        /// The variable.
        variable: String,
    },
    /// The file a secret names does not exist.
    #[error("the file {} for the secret {name} does not exist", path.display())]
    FileMissing {
        /// Name of the secret.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// The file a secret names cannot be read.
    #[error("cannot read the secret {name}")]
    ReadSecret {
        /// Name of the secret.
        name: String,
        /// Which file, and why.
        #[source]
        source: ReadError,
    },
    /// The program a secret names is not in `PATH`.
    #[error("the program {program} for the secret {name} is not in PATH")]
    ProgramMissing {
        /// Name of the secret.
        name: String,
        /// The program.
        program: String,
    },
    /// The program a secret names gave nothing.
    #[error("cannot run the command for the secret {name}")]
    Run {
        /// Name of the secret.
        name: String,
        /// Why.
        #[source]
        source: RunError,
    },
    /// The program a secret names reported a failure.
    #[error("the command for the secret {name} ended with {status}: {stderr}")]
    CommandStatus {
        /// Name of the secret.
        name: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The first line it wrote to standard error.
        stderr: String,
    },
    /// What was found cannot be put into a header.
    #[error("the value of {name} cannot be used as a token")]
    NotASecret {
        /// Name of the credential.
        name: String,
        /// What is wrong with it.
        #[source]
        source: SecretError,
    },
    /// No placeholder could be made.
    #[error("cannot make a placeholder")]
    Mint(#[from] MintError),
}

/// Finds the credentials of these providers. One that is not there is a [`Notice`], not an error.
///
/// # Errors
/// [`CollectError`] when one is there but cannot be used.
pub fn collect(
    providers: &[ProviderId],
    environment: &HostEnvironment,
) -> Result<Collected, CollectError> {
    let mut all = Collected::default();
    for provider in providers {
        let mut found = match provider {
            ProviderId::Anthropic => claude_file(environment)?,
        };
        for variable in provider.facts().variables {
            if let Some(text) = environment.text(variable.variable) {
                found.extend(from_variable(variable, text)?);
            }
        }
        if found.credentials.is_empty() {
            let facts = provider.facts();
            found.notices.push(Notice::NotLoggedIn {
                provider: facts.name,
                fix: facts.fix,
            });
        }
        all.extend(found);
    }
    Ok(all)
}

/// Reads the user's own secrets (`--secret`).
///
/// # Errors
/// [`CollectError`] when a source is missing or holds no token, or a name is given twice.
pub fn collect_secrets(
    specs: &[SecretSpec],
    environment: &HostEnvironment,
) -> Result<Collected, CollectError> {
    let mut all = Collected::default();
    for spec in specs {
        if all.guest_env.iter().any(|(name, _)| *name == spec.name) {
            return Err(CollectError::Duplicate {
                name: spec.name.clone(),
            });
        }
        let (text, source) = read_source(spec, environment)?;
        let text = text.trim_end_matches(['\r', '\n']);
        let secret = Secret::new(text).map_err(|source| CollectError::NotASecret {
            name: spec.name.clone(),
            source,
        })?;
        let placeholder = Placeholder::mint(known_prefix(text))?;
        all.guest_env
            .push((spec.name.clone(), placeholder.to_string()));
        all.credentials.push(Credential {
            name: spec.name.clone(),
            secret: Some(secret),
            placeholder,
            hosts: spec.hosts.clone(),
            header: spec.header.clone(),
            source,
            refresh: None,
        });
    }
    Ok(all)
}

fn claude_file(environment: &HostEnvironment) -> Result<Collected, CollectError> {
    let path = environment.home.join(claude_login::PATH);
    let text = environment
        .read(&path)
        .map_err(|source| CollectError::ReadLogin {
            provider: ProviderId::Anthropic.facts().name,
            source,
        })?;
    let Some(text) = text else {
        return Ok(Collected::default());
    };
    let login = ClaudeLogin::parse(&text).map_err(|source| CollectError::ParseLogin {
        path: path.clone(),
        source,
    })?;
    match login {
        Some(login) => claude_credentials(&login, &path, environment),
        None => Ok(Collected::default()),
    }
}

fn claude_credentials(
    login: &ClaudeLogin,
    path: &Path,
    environment: &HostEnvironment,
) -> Result<Collected, CollectError> {
    let (access, refresh) = ClaudeLogin::placeholders()?;
    let source = path.display().to_string();
    let mut found = Collected {
        guest_files: vec![login.guest_file(&access, &refresh)],
        refused_hosts: hosts(&[refresh_endpoint::ANTHROPIC.host]),
        ..Collected::default()
    };
    found.credentials.push(Credential {
        name: "claude-login".to_owned(),
        secret: Some(login.access.clone()),
        placeholder: access,
        hosts: hosts(ANTHROPIC_API),
        header: HeaderSpec::bearer(),
        source: source.clone(),
        refresh: login.refresh.is_some().then(|| RefreshFacts {
            endpoint: &refresh_endpoint::ANTHROPIC,
            file: path.to_owned(),
            fields: &refresh_endpoint::CLAUDE_FIELDS,
            expires: login.expires,
            refresh_placeholder: refresh.clone(),
            guest_id_token: None,
            guest_scope: login.scope(),
        }),
    });
    if let Some(secret) = &login.refresh {
        // Known to the egress only so that it is refused wherever it turns up.
        found.credentials.push(Credential {
            name: "claude-login-refresh".to_owned(),
            secret: Some(secret.clone()),
            placeholder: refresh,
            hosts: Vec::new(),
            header: HeaderSpec::bearer(),
            source: source.clone(),
            refresh: None,
        });
    }
    if login
        .expires
        .is_some_and(|expires| expires <= environment.now)
    {
        let fix = "run `claude` once on the host to renew the login";
        found.notices.push(Notice::Expired { source, fix });
    }
    Ok(found)
}

fn from_variable(variable: &VariableCredential, text: &str) -> Result<Collected, CollectError> {
    let secret = Secret::new(text).map_err(|source| CollectError::NotASecret {
        name: variable.variable.to_owned(),
        source,
    })?;
    let placeholder = Placeholder::mint(variable.placeholder_prefix)?;
    Ok(Collected {
        guest_env: vec![(variable.variable.to_owned(), placeholder.to_string())],
        credentials: vec![Credential {
            name: variable.name.to_owned(),
            secret: Some(secret),
            placeholder,
            hosts: hosts(variable.hosts),
            header: (variable.header)(),
            source: format!("${}", variable.variable),
            refresh: None,
        }],
        ..Collected::default()
    })
}

fn hosts(names: &[&str]) -> Vec<HostPattern> {
    let parse = |name: &&str| HostPattern::parse(name).expect("the provider table is tested");
    names.iter().map(parse).collect()
}

/// The text of a secret and where it came from, for people.
fn read_source(
    spec: &SecretSpec,
    environment: &HostEnvironment,
) -> Result<(Zeroizing<String>, String), CollectError> {
    let name = || spec.name.clone();
    match &spec.source {
        SecretSource::Environment(variable) => {
            let text = environment
                .text(variable)
                .ok_or_else(|| CollectError::VariableMissing {
                    name: name(),
                    variable: variable.clone(),
                })?;
            Ok((Zeroizing::new(text.to_owned()), format!("${variable}")))
        }
        SecretSource::File(path) => {
            let path = environment.expand(path);
            let text = environment
                .read(&path)
                .map_err(|source| CollectError::ReadSecret {
                    name: name(),
                    source,
                })?
                .ok_or_else(|| CollectError::FileMissing {
                    name: name(),
                    path: path.clone(),
                })?;
            Ok((text, path.display().to_string()))
        }
        SecretSource::Command(words) => {
            let text = run_source(spec, words, environment)?;
            // Arguments may be private; the program alone says enough.
            Ok((
                text,
                format!("output of `{}`", words.first().map_or("", String::as_str)),
            ))
        }
    }
}

fn run_source(
    spec: &SecretSpec,
    words: &[String],
    environment: &HostEnvironment,
) -> Result<Zeroizing<String>, CollectError> {
    let name = || spec.name.clone();
    let (program, arguments) = words
        .split_first()
        .expect("the parser refuses an empty command");
    let found = locate(program, environment).ok_or_else(|| CollectError::ProgramMissing {
        name: name(),
        program: program.clone(),
    })?;
    let mut command = CommandSpec::new(found).args(arguments);
    command.env = environment.vars.clone().into_iter().collect();
    let captured = run_captured(&command).map_err(|source| CollectError::Run {
        name: name(),
        source,
    })?;
    let stdout = Zeroizing::new(captured.stdout);
    if !captured.status.success() {
        let stderr = String::from_utf8_lossy(&captured.stderr);
        let stderr = stderr
            .lines()
            .next()
            .unwrap_or_default()
            .escape_debug()
            .take(200)
            .collect();
        return Err(CollectError::CommandStatus {
            name: name(),
            status: captured.status,
            stderr,
        });
    }
    let text = String::from_utf8_lossy(&stdout);
    Ok(Zeroizing::new(text.into_owned()))
}

/// An absolute path as it is, a plain name by `PATH`.
fn locate(program: &str, environment: &HostEnvironment) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program));
    }
    find_program(program, environment.vars.get(std::ffi::OsStr::new("PATH"))?)
}

#[cfg(test)]
mod tests;
