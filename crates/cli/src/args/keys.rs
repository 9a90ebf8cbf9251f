//! Options that let the guest use keys of the host.

use agent_vm_launch::KeyFilter;
use clap::Args;

/// Which agents of the host the guest may ask.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct KeyOptions {
    /// The guest may list keys of this host's SSH agent and sign with them; only KEY, a comment or
    /// fingerprint SHA256:…, when given (repeatable)
    #[arg(
        long,
        value_name = "KEY",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_parser = parse_key,
        help_heading = "Environment and secrets"
    )]
    pub(crate) ssh_agent: Vec<AgentKeys>,
    /// The guest may sign and decrypt with this host's GPG agent, as far as gpg lets remote users
    #[arg(long, help_heading = "Environment and secrets")]
    pub(crate) gpg_agent: bool,
}

/// Which keys one `--ssh-agent` is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AgentKeys {
    /// All, unless another one names any.
    All,
    /// This one.
    Only(KeyFilter),
}

fn parse_key(text: &str) -> Result<AgentKeys, agent_vm_launch::KeyFilterError> {
    match text {
        "" => Ok(AgentKeys::All),
        key => key.parse().map(AgentKeys::Only),
    }
}
