//! What is known about each provider of credentials, as data: variables, files, hosts, headers.
//! The one place for such knowledge.

use std::path::{Path, PathBuf};

use crate::credential::HeaderSpec;

/// A service whose credentials an agent needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProviderId {
    /// Anthropic: Claude logins and API keys.
    Anthropic,
}

/// A credential in a variable of the host's environment.
pub(crate) struct VariableCredential {
    /// The variable, on the host and in the guest.
    pub(crate) variable: &'static str,
    /// Name shown to people.
    pub(crate) name: &'static str,
    /// Hosts that may receive it.
    pub(crate) hosts: &'static [&'static str],
    /// Where it travels.
    pub(crate) header: fn() -> HeaderSpec,
    /// Shape clients may check for.
    pub(crate) placeholder_prefix: &'static str,
}

/// Everything known about a provider.
pub(crate) struct Provider {
    /// Name shown to people.
    pub(crate) name: &'static str,
    /// How to log in on the host.
    pub(crate) fix: &'static str,
    /// Credentials in variables.
    pub(crate) variables: &'static [VariableCredential],
}

/// Hosts of Anthropic's API.
pub(crate) const ANTHROPIC_API: &[&str] = &["api.anthropic.com"];

const ANTHROPIC: Provider = Provider {
    name: "Claude",
    fix: "log in on the host with `claude`, or set ANTHROPIC_API_KEY",
    variables: &[
        VariableCredential {
            variable: "ANTHROPIC_API_KEY",
            name: "anthropic-api-key",
            hosts: ANTHROPIC_API,
            header: || HeaderSpec::raw("x-api-key"),
            placeholder_prefix: "sk-ant-api03-",
        },
        VariableCredential {
            variable: "ANTHROPIC_AUTH_TOKEN",
            name: "anthropic-auth-token",
            hosts: ANTHROPIC_API,
            header: HeaderSpec::bearer,
            placeholder_prefix: "sk-ant-oat01-",
        },
        VariableCredential {
            variable: "CLAUDE_CODE_OAUTH_TOKEN",
            name: "claude-code-oauth-token",
            hosts: ANTHROPIC_API,
            header: HeaderSpec::bearer,
            placeholder_prefix: "sk-ant-oat01-",
        },
    ],
};

/// Files below the home directory that hold tokens of agents and of git. A share that contains one
/// would show it to the guest.
const CREDENTIAL_FILES: &[&str] = &[
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".local/share/opencode/auth.json",
    ".gemini/oauth_creds.json",
    ".config/gh/hosts.yml",
    ".git-credentials",
    ".netrc",
];

/// Token shapes whose prefix a placeholder keeps, the longest first where one begins another.
const KNOWN_PREFIXES: &[&str] = &[
    "sk-ant-api03-",
    "sk-ant-oat01-",
    "sk-ant-",
    "sk-proj-",
    "sk-",
    "github_pat_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "glpat-",
    "xoxb-",
    "hf_",
    "npm_",
    "AIza",
];

impl ProviderId {
    pub(crate) fn facts(self) -> &'static Provider {
        match self {
            Self::Anthropic => &ANTHROPIC,
        }
    }
}

/// The shape to keep of a token whose provider is not known; empty when it has no known shape.
pub(crate) fn known_prefix(token: &str) -> &'static str {
    KNOWN_PREFIXES
        .iter()
        .find(|prefix| token.starts_with(**prefix))
        .copied()
        .unwrap_or("")
}

/// Paths of the files below `home` that hold real tokens when they exist.
#[must_use]
pub fn credential_files(home: &Path) -> Vec<PathBuf> {
    CREDENTIAL_FILES
        .iter()
        .map(|path| home.join(path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_and_prefix_of_the_table_is_valid() {
        for variable in ProviderId::Anthropic.facts().variables {
            agent_vm_secret::Placeholder::mint(variable.placeholder_prefix).unwrap();
            for host in variable.hosts {
                agent_vm_policy::HostPattern::parse(host).unwrap();
            }
            assert!(!(variable.header)().name.is_empty());
        }
        for prefix in KNOWN_PREFIXES {
            agent_vm_secret::Placeholder::mint(prefix).unwrap();
        }
    }

    #[test]
    fn longest_known_prefix_is_kept() {
        assert_eq!(known_prefix("sk-ant-api03-abc"), "sk-ant-api03-");
        assert_eq!(known_prefix("sk-abc"), "sk-");
        assert_eq!(known_prefix("a-real-token"), "");
        for (index, prefix) in KNOWN_PREFIXES.iter().enumerate() {
            assert!(
                !KNOWN_PREFIXES[..index]
                    .iter()
                    .any(|earlier| prefix.starts_with(earlier))
            );
        }
    }

    #[test]
    fn credential_files_lie_below_home() {
        assert!(
            credential_files(Path::new("/h"))
                .iter()
                .all(|path| path.starts_with("/h"))
        );
    }
}
