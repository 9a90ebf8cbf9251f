//! Agent profiles: data.
//!
//! What must be started, with which variables and files, so that an agent runs unattended inside the
//! machine that contains it. Holds no token and reads nothing; the caller renders and delivers.
#![forbid(unsafe_code)]

mod claude_files;
mod codex_files;
mod copilot_files;
mod gemini_files;
mod login_shell;
mod profile;
mod session_hosts;

pub use login_shell::login_shell_argv;
pub use profile::{AgentId, Profile, SeedContext, SeededFile, UnknownAgent};
pub use session_hosts::{HostGroup, session_host_patterns, session_hosts};
