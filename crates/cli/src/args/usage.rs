//! `agent-vm usage` as typed.

use clap::Args;

use super::SessionsArgs;

#[derive(Debug, Default, Args)]
#[command(after_help = USAGE_HELP)]
pub(crate) struct UsageArgs {
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) sessions: SessionsArgs,
}

/// Shown below the help of `agent-vm usage`.
const USAGE_HELP: &str = "\
Counted from the answers of the providers themselves, for hosts that a credential is bound to.
INPUT is what a model read anew, without what came from the provider's cache; OUTPUT includes what
it thought. One line per answer is kept in usage/SESSION.jsonl below the state directory.";
