//! `agent-vm egress …` as typed.

use agent_vm_policy::HostPattern;
use clap::{Args, Subcommand};

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
    /// Of every project, not only of this one
    #[arg(long)]
    pub(crate) all: bool,
    /// Only of this session, of whatever project; the beginning of its id is enough
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
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
