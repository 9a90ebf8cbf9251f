//! Looks for credentials where the host keeps them and mints a placeholder for each.

use std::path::PathBuf;

use agent_vm_process::RunError;
use agent_vm_secret::{MintError, SecretError};
use thiserror::Error;

use crate::credential::Collected;
use crate::finder::Finder;
use crate::gh_hosts::GhHostsError;
use crate::host_environment::{HostEnvironment, ReadError};
use crate::provider::ProviderId;

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
    /// `gh`'s file is not in its form.
    #[error("{} cannot be understood", path.display())]
    ParseHosts {
        /// The file.
        path: PathBuf,
        /// Which line.
        #[source]
        source: GhHostsError,
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
    /// The placeholders of a launch could be taken for each other.
    #[error("the placeholder of {name} is part of another one")]
    PlaceholderOverlap {
        /// Name of the credential.
        name: String,
    },
}

/// Finds the credentials of these providers. One that is not there is a [`Notice`](crate::Notice), not an
/// error. A program of the host is asked only when nothing cheaper was found.
///
/// # Errors
/// [`CollectError`] when one is there but cannot be used.
pub fn collect(
    providers: &[ProviderId],
    environment: &HostEnvironment,
) -> Result<Collected, CollectError> {
    let mut finder = Finder::new(environment);
    for provider in providers {
        finder.provider(provider.facts())?;
    }
    let found = finder.finish();
    found.check_placeholders()?;
    Ok(found)
}

#[cfg(test)]
mod tests;
