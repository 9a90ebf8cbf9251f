//! Rules on documents and on the lock file.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use super::Findings;
use super::sources::File;
use crate::{shell, workspace};

/// The most lines of ARCHITECTURE.md.
const MAX_ARCHITECTURE_LINES: usize = 300;

/// The most packages in Cargo.lock. Raise it with a reason in the commit that needs it.
const MAX_PACKAGES: usize = 400;

/// docs/protocol.md carries the hash of the messages it describes.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn protocol() -> Result<Findings> {
    let mut findings = Findings::default();
    let messages = workspace::root().join("crates/protocol/src/messages.rs");
    let document = workspace::root().join("docs/protocol.md");
    if messages.exists() && document.exists() {
        let hash = shell::sha256(&messages)?;
        let described = fs_err::read_to_string(document)?.contains(&hash);
        let breach = "docs/protocol.md is of other messages; check it, then write in the hash of \
            crates/protocol/src/messages.rs:";
        findings.add((!described).then(|| format!("{breach} {hash}")));
    }
    Ok(findings)
}

/// # Errors
/// When the file cannot be read.
pub(crate) fn architecture() -> Result<Findings> {
    let mut findings = Findings::default();
    let document = workspace::root().join("ARCHITECTURE.md");
    if document.exists() {
        let lines = fs_err::read_to_string(document)?.lines().count();
        let long = lines > MAX_ARCHITECTURE_LINES;
        findings.add(long.then(|| format!("{lines} lines, at most {MAX_ARCHITECTURE_LINES}")));
    }
    Ok(findings)
}

/// Every test that docs/adversarial-suite.md names is a function of some source file.
///
/// # Errors
/// When the document names none.
pub(crate) fn adversarial_suite(files: &[File]) -> Result<Findings> {
    let mut findings = Findings::default();
    let suite = files
        .iter()
        .find(|file| file.is("docs/adversarial-suite.md"))
        .context("docs/adversarial-suite.md is not there")?;
    let functions: BTreeSet<&str> = files
        .iter()
        .filter(|file| file.is_rust())
        .flat_map(|file| file.text.split("fn ").skip(1))
        .filter_map(|text| text.split(|c: char| !is_of_name(c)).next())
        .collect();
    for name in suite.text.split('`').skip(1).step_by(2) {
        // Names of tests are sentences; other words in code's letters are shorter.
        if name.chars().all(is_of_name) && name.matches('_').count() >= 2 {
            let missing = !functions.contains(name);
            findings.add(missing.then(|| format!("no test is called {name}")));
        }
    }
    Ok(findings)
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_'
}

/// # Errors
/// When the lock file cannot be read.
pub(crate) fn package_budget() -> Result<Findings> {
    let lock: toml::Table = toml::from_str(&fs_err::read_to_string(
        workspace::root().join("Cargo.lock"),
    )?)?;
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let checked = packages.context("Cargo.lock names no packages")?.len();
    let breach =
        (checked > MAX_PACKAGES).then(|| format!("{checked} packages, at most {MAX_PACKAGES}"));
    Ok(Findings {
        checked,
        breaches: breach.into_iter().collect(),
    })
}
