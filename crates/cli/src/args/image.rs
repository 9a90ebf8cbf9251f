//! `agent-vm image …` as typed.

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

/// Shown below the help of `agent-vm image`.
const HELP: &str = "\
An image is here under the names it was pulled by; when a newer one takes its last name, it stays
until `image prune`. What a running machine uses, what is being pulled and what a base is derived
from is never removed. Sizes are what is allocated on disk; what images share is counted once.";

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images: name, digest, age, size, who uses them
    Ls {
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Tell everything about one image
    Inspect {
        /// The image, as in `agent-vm pull`
        reference: String,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Remove names, and the images whose last name goes; NAME@sha256:… removes the image itself
    Rm {
        /// The images, as in `agent-vm pull`
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Remove images whose name went to a newer one, and what pulls that were broken off left
    Prune {
        /// All images that nothing uses
        #[arg(long)]
        all: bool,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}
