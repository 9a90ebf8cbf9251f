//! Reads the user's own secrets from the sources they name, and mints a placeholder for each.

use std::path::PathBuf;

use agent_vm_process::{CommandSpec, find_program, run_captured};
use agent_vm_secret::{Placeholder, Secret};
use zeroize::Zeroizing;

use crate::collect::CollectError;
use crate::credential::{Collected, Credential};
use crate::host_environment::HostEnvironment;
use crate::provider::known_prefix;
use crate::secret_spec::{SecretSource, SecretSpec};

/// Reads the user's own secrets (`--secret`, `[[secret]]`).
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
    all.check_placeholders()?;
    Ok(all)
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
