//! `tidy`: the rules compilers do not check. Prints what was checked and every breach; one breach fails.

mod documents;
mod layers;
mod sources;

use anyhow::{Result, bail};

/// One rule's outcome: how many things were looked at, and what is wrong with them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) checked: usize,
    pub(crate) breaches: Vec<String>,
}

impl Findings {
    /// Adds one thing that was looked at, wrong where `breach` says why.
    pub(crate) fn add(&mut self, breach: Option<String>) {
        self.checked += 1;
        self.breaches.extend(breach);
    }
}

/// Checks everything.
///
/// # Errors
/// When a rule is broken, or something to be checked cannot be read.
pub(crate) fn run() -> Result<()> {
    let metadata = layers::metadata()?;
    let files = sources::tracked_files()?;
    let rules = [
        (
            "edges between our crates follow the layers",
            layers::edges(&metadata),
        ),
        (
            "libraries that only some crates may use",
            layers::libraries(&metadata),
        ),
        (
            "the virtual machine's crate cannot reach secrets",
            layers::vmm_without_secret()?,
        ),
        ("source files are short", sources::lengths(&files)?),
        (
            "unsafe code is forbidden or in its file",
            sources::unsafe_code(&files)?,
        ),
        (
            "only the command reads the environment",
            sources::environment_reads(&files)?,
        ),
        ("each TODO names an issue", sources::open_ends(&files)?),
        (
            "nothing names places outside the project",
            sources::foreign_places(&files)?,
        ),
        (
            "docs/protocol.md is of these messages",
            documents::protocol()?,
        ),
        ("ARCHITECTURE.md is short", documents::architecture()?),
        (
            "tests that docs/adversarial-suite.md names are there",
            documents::adversarial_suite(&files)?,
        ),
        (
            "packages in Cargo.lock are within the budget",
            documents::package_budget()?,
        ),
    ];
    let mut breaches = 0;
    for (rule, findings) in &rules {
        println!(
            "tidy: {rule}: {} checked, {} wrong",
            findings.checked,
            findings.breaches.len()
        );
        for breach in &findings.breaches {
            println!("  {breach}");
        }
        breaches += findings.breaches.len();
    }
    if breaches > 0 {
        bail!("tidy: {breaches} breaches");
    }
    Ok(())
}
