//! Which sessions a record is shown of, as typed.

use clap::Args;

/// This project's, unless said otherwise.
#[derive(Debug, Default, Args)]
pub(crate) struct SessionsArgs {
    /// Of every project, not only of this one
    #[arg(long)]
    pub(crate) all: bool,
    /// Only of this session, of whatever project; the beginning of its id is enough
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
}
