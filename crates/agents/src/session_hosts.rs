//! The built-in list of hosts: what an agent's session needs besides what the person lists. A host is data here.
//!
//! On it is what is read from: package registries, source code, the agent's own services. Not on it is what mainly takes
//! things in (upload hosts, GitHub's API) and container registries, where one host serves both: they are listed by whoever
//! needs them.

use agent_vm_policy::HostPattern;

use crate::profile::AgentId;

/// Hosts that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostGroup {
    /// What they are for.
    pub title: &'static str,
    /// Patterns as [`HostPattern`] reads them.
    pub hosts: &'static [&'static str],
}

const fn group(title: &'static str, hosts: &'static [&'static str]) -> HostGroup {
    HostGroup { title, hosts }
}

/// What every session may need.
const COMMON: &[HostGroup] = &[
    group("npm", &["registry.npmjs.org", "registry.yarnpkg.com"]),
    group("PyPI", &["pypi.org", "files.pythonhosted.org"]),
    group(
        "crates",
        &[
            "index.crates.io",
            "static.crates.io",
            "static.rust-lang.org",
        ],
    ),
    group("Go", &["proxy.golang.org", "sum.golang.org"]),
    group(
        "Debian and Ubuntu",
        &[
            "deb.debian.org",
            "security.debian.org",
            "archive.ubuntu.com",
            "*.archive.ubuntu.com",
            "security.ubuntu.com",
            "ports.ubuntu.com",
        ],
    ),
    group(
        "GitHub, to read",
        &[
            "github.com",
            "codeload.github.com",
            "raw.githubusercontent.com",
            "objects.githubusercontent.com",
            "release-assets.githubusercontent.com",
        ],
    ),
];

const CLAUDE: HostGroup = group(
    "Claude Code",
    &[
        "api.anthropic.com",
        "platform.claude.com",
        "downloads.claude.ai",
    ],
);
const CODEX: HostGroup = group(
    "Codex",
    &[
        "chatgpt.com",
        "ab.chatgpt.com",
        "auth.openai.com",
        "api.openai.com",
    ],
);
const OPENCODE: HostGroup = group(
    "OpenCode",
    &[
        "models.opencode.ai",
        "api.anthropic.com",
        "api.openai.com",
        "auth.openai.com",
        "chatgpt.com",
        "api.z.ai",
    ],
);
const COPILOT: HostGroup = group(
    "GitHub Copilot",
    &[
        "api.github.com",
        "*.githubcopilot.com",
        "api.githubcopilot.com",
    ],
);
const GEMINI: HostGroup = group(
    "Gemini",
    &[
        "generativelanguage.googleapis.com",
        "cloudcode-pa.googleapis.com",
        "oauth2.googleapis.com",
        "aiplatform.googleapis.com",
    ],
);

/// The built-in list of a session with this agent, or with none.
#[must_use]
pub fn session_hosts(agent: Option<AgentId>) -> Vec<HostGroup> {
    let own = agent.map(|agent| match agent {
        AgentId::Claude => CLAUDE,
        AgentId::Codex => CODEX,
        AgentId::OpenCode => OPENCODE,
        AgentId::Copilot => COPILOT,
        AgentId::Gemini => GEMINI,
    });
    own.into_iter().chain(COMMON.iter().copied()).collect()
}

/// The same as patterns.
///
/// # Panics
/// Never: a test reads every entry.
#[must_use]
pub fn session_host_patterns(agent: Option<AgentId>) -> Vec<HostPattern> {
    let groups = session_hosts(agent);
    let hosts = groups.iter().flat_map(|group| group.hosts);
    let pattern = |text: &&str| HostPattern::parse(text).expect("the table holds patterns");
    hosts.map(pattern).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_a_pattern_and_stands_once_in_its_session() {
        let agents = [
            AgentId::Claude,
            AgentId::Codex,
            AgentId::OpenCode,
            AgentId::Copilot,
            AgentId::Gemini,
        ];
        let agents = agents.map(Some);
        for agent in agents.into_iter().chain([None]) {
            let hosts = session_host_patterns(agent);
            let distinct: std::collections::BTreeSet<_> = hosts.iter().collect();
            assert_eq!(distinct.len(), hosts.len(), "{agent:?}");
        }
    }
}
