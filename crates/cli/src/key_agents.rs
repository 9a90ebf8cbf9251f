//! Agents of the host whose keys the guest may use: found when they are asked for.

use agent_vm_launch::{FindAgentError, KeyAgents, find_gpg_agent, find_ssh_agent};

use crate::args::{AgentKeys, KeyOptions};
use crate::env_vars::EnvVars;

/// The agents that were asked for.
///
/// # Errors
/// When one is not there.
pub(crate) fn key_agents(options: &KeyOptions, env: &EnvVars) -> Result<KeyAgents, FindAgentError> {
    let keys = options.ssh_agent.iter().filter_map(|keys| match keys {
        AgentKeys::All => None,
        AgentKeys::Only(key) => Some(key.clone()),
    });
    let ssh = match options.ssh_agent.is_empty() {
        true => None,
        false => Some(find_ssh_agent(env.all(), keys.collect())?),
    };
    let gpg = match options.gpg_agent {
        true => Some(find_gpg_agent(env.all())?),
        false => None,
    };
    Ok(KeyAgents { ssh, gpg })
}
