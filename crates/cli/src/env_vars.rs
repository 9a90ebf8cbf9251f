//! Every variable of the environment agent-vm reads, declared once. The only place that reads the
//! environment, the current directory and the path of the program.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Shown below the help of `agent-vm`.
pub(crate) const HELP: &str = "\
Our options are long and end at the first argument that is not one of them, or at `--`; the rest
goes to the agent as it is: agent-vm claude -p \"say hi\"

Environment:
  AGENT_VM_IMAGE          image to run in, like --image
  AGENT_VM_MEMORY         memory, like --memory
  AGENT_VM_CPUS           virtual processors, like --cpus
  AGENT_VM_DISK           size of the writable disk, like --disk
  AGENT_VM_KERNEL         the guest kernel, a libkrunfw shared object
  AGENT_VM_STATE_DIR      where sessions, state and the audit log are kept
  AGENT_VM_NO_UPDATE_CHECK  do not look for a newer image, like --no-update-check
  AGENT_VM_TIMEOUT_SCALE  multiplies every timeout; for slow machines
  XDG_CONFIG_HOME, XDG_STATE_HOME, XDG_DATA_HOME, NO_COLOR as usual
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY  for guests and pulls, in either case, as in curl:
                          [http|socks5|socks5h://][USER:PASSWORD@]HOST[:PORT]";

pub(crate) const IMAGE: &str = "AGENT_VM_IMAGE";
pub(crate) const MEMORY: &str = "AGENT_VM_MEMORY";
pub(crate) const CPUS: &str = "AGENT_VM_CPUS";
pub(crate) const DISK: &str = "AGENT_VM_DISK";
pub(crate) const KERNEL: &str = "AGENT_VM_KERNEL";
pub(crate) const STATE_DIR: &str = "AGENT_VM_STATE_DIR";
pub(crate) const NO_UPDATE_CHECK: &str = "AGENT_VM_NO_UPDATE_CHECK";
pub(crate) const TIMEOUT_SCALE: &str = "AGENT_VM_TIMEOUT_SCALE";
pub(crate) const HOME: &str = "HOME";
pub(crate) const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
pub(crate) const XDG_STATE_HOME: &str = "XDG_STATE_HOME";
pub(crate) const XDG_DATA_HOME: &str = "XDG_DATA_HOME";
pub(crate) const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
pub(crate) const DOCKER_CONFIG: &str = "DOCKER_CONFIG";
pub(crate) const REGISTRY_AUTH_FILE: &str = "REGISTRY_AUTH_FILE";
pub(crate) const NO_COLOR: &str = "NO_COLOR";
pub(crate) const TERM: &str = "TERM";

/// The environment as it was at the start.
#[derive(Clone, Default)]
pub(crate) struct EnvVars {
    variables: BTreeMap<OsString, OsString>,
    current_directory: Option<PathBuf>,
    program: Option<PathBuf>,
}

impl EnvVars {
    /// Takes it from the process.
    pub(crate) fn read() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            current_directory: std::env::current_dir().ok(),
            program: std::env::current_exe().ok(),
        }
    }

    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self {
            variables,
            ..Self::default()
        }
    }

    /// A variable that is set and not empty.
    pub(crate) fn value(&self, name: &str) -> Option<&OsStr> {
        self.variables
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// A variable that is set, not empty and UTF-8.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(OsStr::to_str)
    }

    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    /// A proxy variable in either case; the one in lower case wins, as in curl.
    pub(crate) fn proxy(&self, name: &str) -> Option<String> {
        self.text(&name.to_ascii_lowercase())
            .or_else(|| self.text(name))
            .map(str::to_owned)
    }

    /// All of them, for a program the user names as a source of a secret.
    pub(crate) fn all(&self) -> &BTreeMap<OsString, OsString> {
        &self.variables
    }

    /// Where the process was started; absent when that directory is gone.
    pub(crate) fn current_directory(&self) -> Option<&Path> {
        self.current_directory.as_deref()
    }

    /// The file of this program.
    pub(crate) fn program(&self) -> Option<&Path> {
        self.program.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_counts_as_unset() {
        let env = EnvVars::of(&[("A", ""), ("B", "x")]);
        assert_eq!(
            (env.text("A"), env.text("B"), env.text("C")),
            (None, Some("x"), None)
        );
    }

    #[test]
    fn proxy_is_found_in_either_case() {
        let env = EnvVars::of(&[
            ("https_proxy", "http://p:1"),
            ("HTTPS_PROXY", "http://q:1"),
            ("ALL_PROXY", "http://r:1"),
        ]);
        assert_eq!(env.proxy("HTTPS_PROXY").as_deref(), Some("http://p:1"));
        assert_eq!(env.proxy("ALL_PROXY").as_deref(), Some("http://r:1"));
        assert_eq!(env.proxy("HTTP_PROXY"), None);
    }

    #[test]
    fn every_variable_of_ours_is_in_the_help() {
        for name in [
            IMAGE,
            MEMORY,
            CPUS,
            DISK,
            KERNEL,
            STATE_DIR,
            NO_UPDATE_CHECK,
            TIMEOUT_SCALE,
            NO_COLOR,
        ] {
            assert!(HELP.contains(name), "{name}");
        }
    }
}
