//! `agent-vm egress …` as typed.

use agent_vm_policy::HostPattern;
use clap::{Args, Subcommand};

use super::{LaunchOptions, SessionsArgs, Target};

#[derive(Debug, Args)]
pub(crate) struct EgressArgs {
    #[command(subcommand)]
    pub(crate) command: EgressCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EgressCommand {
    /// What this project's guests asked for, what they reached, and what was denied
    #[command(after_help = LOG_HELP)]
    Log(EgressLogArgs),
    /// What would be decided about a request or a connection, and by which rule; 0 allowed, 1 not
    #[command(disable_help_flag = true)]
    Check(Box<EgressCheckArgs>),
    /// The list of hosts that the last session of this project needed
    Suggest(EgressSuggestArgs),
    /// What running sessions of this project wait for
    Pending(EgressPendingArgs),
    /// Let running sessions of this project reach a host
    Allow(EgressAnswerArgs),
    /// Keep running sessions of this project from a host
    Deny(EgressAnswerArgs),
}

/// Shown below the help of `agent-vm egress log`.
const LOG_HELP: &str = "\
One line per decision: a name that was asked for, a connection, a request of an intercepted
connection, a packet of another protocol. Connections and requests are told when they end. Lines
hold no queries, headers or bodies. The newest 256 MiB of all projects are kept, in audit.jsonl and
audit.jsonl.1 to .3 below the state directory.";

#[derive(Debug, Default, Args)]
pub(crate) struct EgressLogArgs {
    /// Go on as decisions are made, until ^C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// One JSON document per line, as recorded
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) sessions: SessionsArgs,
    /// Only what was denied or could not be carried out
    #[arg(long)]
    pub(crate) denied: bool,
    /// Only of this host, NAME or *.NAME
    #[arg(long, value_name = "PATTERN")]
    pub(crate) host: Option<HostPattern>,
    /// Only the last N that are there
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) lines: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct EgressCheckArgs {
    /// `METHOD URL`, `URL`, or `HOST[:PORT]` for a connection
    #[arg(required = true, num_args = 1..=2, value_name = "METHOD URL|HOST[:PORT]")]
    pub(crate) what: Vec<String>,
    /// As in a session with this: an agent, `shell` or `run`; shell unless named
    #[arg(long = "in", value_name = "SESSION")]
    pub(crate) target: Option<Target>,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) options: LaunchOptions,
}

#[derive(Debug, Args)]
pub(crate) struct EgressSuggestArgs {
    /// Of this session of this project, the last one unless named; the beginning of its id is enough
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// One JSON document
    #[arg(long, conflicts_with = "toml")]
    pub(crate) json: bool,
    /// As a part of config.toml
    #[arg(long)]
    pub(crate) toml: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EgressPendingArgs {
    /// Only of this session, of whatever project; the beginning of its id is enough
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EgressAnswerArgs {
    /// NAME or *.NAME
    #[arg(value_name = "HOST")]
    pub(crate) hosts: HostPattern,
    /// Only in this session, of whatever project; the beginning of its id is enough
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// In later sessions too: as a rule in ~/.config/agent-vm/config.toml
    #[arg(long)]
    pub(crate) always: bool,
}
