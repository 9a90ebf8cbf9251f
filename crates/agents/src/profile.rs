//! The table of agents. A new agent is a new row.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::{claude_files, codex_files, copilot_files, gemini_files};

/// An agent that has a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AgentId {
    /// Claude Code.
    Claude,
    /// OpenAI Codex.
    Codex,
    /// OpenCode.
    OpenCode,
    /// GitHub Copilot CLI.
    Copilot,
    /// Gemini CLI.
    Gemini,
}

/// Everything that differs from agent to agent.
#[derive(Debug)]
pub struct Profile {
    /// Which agent.
    pub id: AgentId,
    /// Name of the command on our command line.
    pub name: &'static str,
    /// Name shown to people.
    pub title: &'static str,
    /// Program and the arguments that go before the user's own. Permission prompts are off: the
    /// machine is the sandbox.
    pub argv: &'static [&'static str],
    /// Arguments of the program that make it print its version and end.
    pub version_argv: &'static [&'static str],
    /// Variables of the guest.
    pub env: &'static [(&'static str, &'static str)],
    /// Providers whose credentials it needs, by their names in the table of credentials.
    pub providers: &'static [&'static str],
    seeds: &'static [Seed],
}

/// A file made anew at every launch.
#[derive(Debug)]
pub(crate) struct Seed {
    /// Relative to the guest user's home directory.
    pub(crate) path: &'static str,
    /// The content for this launch; `None` when there is nothing to say.
    pub(crate) render: fn(&SeedContext<'_>) -> Option<String>,
}

/// What a seeded file may depend on.
#[derive(Debug, Clone, Copy, Default)]
pub struct SeedContext<'a> {
    /// Guest path of the project, and of the directory the agent starts in.
    pub trusted_directories: &'a [&'a str],
    /// Variables of the guest that stand for credentials: names and placeholders.
    pub credential_env: &'a [(String, String)],
    /// Files of the guest that stand for credentials, relative to the home directory of its user.
    pub login_files: &'a [&'a str],
}

/// A rendered file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeededFile {
    /// Relative to the guest user's home directory.
    pub path: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// All of it.
    pub content: String,
}

/// The name is no agent's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no agent {name:?}")]
pub struct UnknownAgent {
    /// As given, shortened.
    pub name: String,
}

/// `IS_SANDBOX` tells Claude Code (and is harmless to others) that root without prompts is meant.
const SANDBOX: (&str, &str) = ("IS_SANDBOX", "1");

const PROFILES: &[Profile] = &[
    Profile {
        id: AgentId::Claude,
        name: "claude",
        title: "Claude Code",
        argv: &["claude", "--dangerously-skip-permissions"],
        version_argv: &["claude", "--version"],
        env: &[SANDBOX, ("DISABLE_AUTOUPDATER", "1")],
        providers: &["anthropic"],
        seeds: claude_files::SEEDS,
    },
    Profile {
        id: AgentId::Codex,
        name: "codex",
        title: "Codex",
        argv: &["codex", "--dangerously-bypass-approvals-and-sandbox"],
        version_argv: &["codex", "--version"],
        env: &[SANDBOX],
        providers: &["openai"],
        seeds: codex_files::SEEDS,
    },
    Profile {
        id: AgentId::OpenCode,
        name: "opencode",
        title: "OpenCode",
        argv: &["opencode"],
        version_argv: &["opencode", "--version"],
        env: &[
            SANDBOX,
            ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
            ("OPENCODE_PERMISSION", r#"{"*":"allow"}"#),
        ],
        providers: &["opencode"],
        seeds: &[],
    },
    Profile {
        id: AgentId::Copilot,
        name: "copilot",
        title: "GitHub Copilot",
        argv: &["copilot", "--allow-all-tools", "--allow-all-paths"],
        version_argv: &["copilot", "--version"],
        env: &[
            SANDBOX,
            ("COPILOT_ALLOW_ALL", "true"),
            ("COPILOT_AUTO_UPDATE", "false"),
        ],
        providers: &["copilot"],
        seeds: copilot_files::SEEDS,
    },
    Profile {
        id: AgentId::Gemini,
        name: "gemini",
        title: "Gemini CLI",
        argv: &["gemini", "--yolo"],
        version_argv: &["gemini", "--version"],
        env: &[SANDBOX, ("GEMINI_CLI_TRUST_WORKSPACE", "true")],
        providers: &["google"],
        seeds: gemini_files::SEEDS,
    },
];

impl AgentId {
    /// Every agent, in the order they are listed to people.
    pub fn all() -> impl Iterator<Item = Self> {
        PROFILES.iter().map(|profile| profile.id)
    }

    /// Its row of the table.
    #[must_use]
    pub fn profile(self) -> &'static Profile {
        let mut rows = PROFILES.iter();
        rows.find(|profile| profile.id == self)
            .expect("every agent has a row: tested")
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.profile().name)
    }
}

impl FromStr for AgentId {
    type Err = UnknownAgent;

    fn from_str(name: &str) -> Result<Self, UnknownAgent> {
        let found = PROFILES.iter().find(|profile| profile.name == name);
        found.map(|profile| profile.id).ok_or_else(|| UnknownAgent {
            name: name.chars().take(80).collect(),
        })
    }
}

impl Profile {
    /// The files of a launch, in order.
    #[must_use]
    pub fn files(&self, context: &SeedContext<'_>) -> Vec<SeededFile> {
        let render = |seed: &Seed| {
            Some(SeededFile {
                path: seed.path,
                mode: 0o600,
                content: (seed.render)(context)?,
            })
        };
        self.seeds.iter().filter_map(render).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_has_a_row_and_is_found_by_its_name() {
        for id in [
            AgentId::Claude,
            AgentId::Codex,
            AgentId::OpenCode,
            AgentId::Copilot,
            AgentId::Gemini,
        ] {
            assert_eq!(id.profile().id, id);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!(AgentId::all().count(), 5);
    }

    #[test]
    fn every_agent_is_told_that_it_is_in_a_sandbox() {
        for id in AgentId::all() {
            assert!(id.profile().env.contains(&SANDBOX), "{id}");
            assert_eq!(id.profile().argv[0], id.profile().version_argv[0]);
        }
    }

    #[test]
    fn seeded_files_stay_below_the_home_directory() {
        let context = SeedContext {
            trusted_directories: &["/p"],
            ..SeedContext::default()
        };
        for file in AgentId::all().flat_map(|id| id.profile().files(&context)) {
            let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
            assert!(file.path.split('/').all(plain), "{}", file.path);
        }
    }

    #[test]
    fn every_agent_names_whose_credentials_it_needs() {
        for id in AgentId::all() {
            assert!(!id.profile().providers.is_empty(), "{id}");
        }
    }

    #[test]
    fn unknown_name_is_named() {
        let error = "clod".parse::<AgentId>().unwrap_err();
        assert_eq!(error.to_string(), "there is no agent \"clod\"");
    }
}
