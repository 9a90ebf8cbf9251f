//! Finds the sockets of the user's agents on this host.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use agent_vm_process::{CommandSpec, RunError, find_program, run_captured};
use thiserror::Error;

use super::{KeyFilter, SshAgent};

/// The variable by which an SSH agent is found.
const SSH_VARIABLE: &str = "SSH_AUTH_SOCK";

/// An agent cannot be found.
#[derive(Debug, Error)]
pub enum FindAgentError {
    /// `SSH_AUTH_SOCK` is not set to an absolute path.
    #[error("no SSH agent is known: $SSH_AUTH_SOCK is not set")]
    NoSshAgent,
    /// There is no `gpgconf`.
    #[error("no GPG agent is known: gpgconf is not installed")]
    NoGpgconf,
    /// `gpgconf` did not do its work.
    #[error("cannot ask gpgconf for the GPG agent's socket")]
    Gpgconf(#[source] RunError),
    /// `gpgconf` names no socket.
    #[error("no GPG agent is known: gpgconf names no socket")]
    NoGpgAgent,
    /// Nothing is at the socket.
    #[error("nothing is at {}, where the {agent} agent should be", socket.display())]
    NotRunning {
        /// `SSH` or `GPG`.
        agent: &'static str,
        /// The socket.
        socket: PathBuf,
    },
}

type Variables = BTreeMap<OsString, OsString>;

/// The SSH agent of a user with these variables, for `keys`.
///
/// # Errors
/// When there is none.
pub fn find_ssh_agent(
    variables: &Variables,
    keys: Vec<KeyFilter>,
) -> Result<SshAgent, FindAgentError> {
    let socket = variables.get(OsStr::new(SSH_VARIABLE)).map(PathBuf::from);
    let socket = socket.filter(|path| path.is_absolute());
    let socket = running("SSH", socket.ok_or(FindAgentError::NoSshAgent)?)?;
    Ok(SshAgent { socket, keys })
}

/// The GPG agent's socket for remote use, of a user with these variables.
///
/// # Errors
/// When there is none.
pub fn find_gpg_agent(variables: &Variables) -> Result<PathBuf, FindAgentError> {
    let search = variables.get(OsStr::new("PATH"));
    let program = search.and_then(|path| find_program("gpgconf", path));
    let program = program.ok_or(FindAgentError::NoGpgconf)?;
    let mut command = CommandSpec::new(program).args(["--list-dirs", "agent-extra-socket"]);
    command.env = variables.clone().into_iter().collect();
    let told = run_captured(&command).map_err(FindAgentError::Gpgconf)?;
    let line = told.stdout.split(|byte| *byte == b'\n').next();
    let socket = PathBuf::from(OsString::from_vec(line.unwrap_or_default().to_vec()));
    if !told.status.success() || !socket.is_absolute() {
        return Err(FindAgentError::NoGpgAgent);
    }
    running("GPG", socket)
}

fn running(agent: &'static str, socket: PathBuf) -> Result<PathBuf, FindAgentError> {
    if socket.exists() {
        Ok(socket)
    } else {
        Err(FindAgentError::NotRunning { agent, socket })
    }
}
