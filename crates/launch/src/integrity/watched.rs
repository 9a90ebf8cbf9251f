//! Which files are watched: data.

/// Files of a project, relative to its root, that git, editors, shells and agents act upon without being asked again.
pub(super) const FILES: &[&str] = &[
    // What git runs.
    ".git",
    ".git/config",
    ".git/config.worktree",
    ".git/commondir",
    ".gitmodules",
    // What agents take for instructions or configuration.
    "AGENTS.md",
    "AGENTS.override.md",
    "CLAUDE.md",
    "CLAUDE.local.md",
    "GEMINI.md",
    ".mcp.json",
    ".cursorrules",
    ".windsurfrules",
    ".clinerules",
    ".github/copilot-instructions.md",
    "opencode.json",
    "opencode.jsonc",
    // What editors and shells run when the project is opened.
    ".vscode/tasks.json",
    ".vscode/settings.json",
    ".vscode/mcp.json",
    ".envrc",
    // Ours.
    ".agent-vm.toml",
    ".agent-vm.runtime.sh",
    ".agent-vm.setup.sh",
];

/// Directories of a project whose files are all watched.
pub(super) const DIRECTORIES: &[&str] = &[
    ".git/hooks",
    ".claude",
    ".codex",
    ".gemini",
    ".opencode",
    ".cursor",
    ".github/instructions",
    ".github/prompts",
    ".husky",
];

/// What of a repository, or of one of its submodules (`.git/modules/NAME`), tells git what to run.
pub(super) const GIT_RUNS: &[&str] = &["hooks", "config", "config.worktree", "commondir"];

/// Where the repositories of submodules are.
pub(super) const SUBMODULES: &str = ".git/modules";
