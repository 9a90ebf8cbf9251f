//! Pushing the template: only when its layers or its configuration differ from what is published, and without letting the
//! tool take over blobs in another compression.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use super::layout::{Config, Layout};
use crate::{setup, shell};

#[derive(Debug, Clone, Args)]
pub(crate) struct PublishArguments {
    /// The image, as `image build --output` wrote it.
    #[arg(long, value_name = "DIR")]
    layout: PathBuf,
    /// The repository with tag to push to.
    #[arg(long, value_name = "REF")]
    push: String,
    /// One more tag for what is pushed.
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Publication {
    /// Pushed, now known by this reference.
    Pushed(String),
    /// The same was there already, at this reference.
    Unchanged(String),
}

impl fmt::Display for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pushed(reference) => write!(f, "pushed {reference}"),
            Self::Unchanged(reference) => write!(f, "unchanged {reference}"),
        }
    }
}

/// The task: `pushed REF@DIGEST` or `unchanged REF@DIGEST` on standard output.
///
/// # Errors
/// As [`publish`].
pub(crate) fn run(arguments: &PublishArguments) -> Result<()> {
    let layout = Layout::read(&arguments.layout)?;
    println!("{}", publish(&layout, &arguments.push, &arguments.tag)?);
    Ok(())
}

/// Pushes `built` as `reference`, which has a tag, and with each of `tags`. When `reference` is the same image already, nothing is
/// pushed and no tag moves.
///
/// # Errors
/// When the registry cannot be asked or refuses.
pub(crate) fn publish(built: &Layout, reference: &str, tags: &[String]) -> Result<Publication> {
    setup::install_missing(&[("skopeo", "skopeo")])?;
    let (repository, tag) = split(reference)?;
    if let Some(published) = published(reference)?
        && published == built.config
    {
        return Ok(Publication::Unchanged(format!(
            "{repository}@{}",
            digest(reference)?
        )));
    }
    // The date's tag first: `latest` never names what has no lasting name.
    for tag in tags.iter().map(String::as_str).chain([tag]) {
        let mut copy = shell::tool("skopeo");
        // Keeping digests keeps the tool from using blobs of another compression it knows to be there.
        copy.args(["copy", "--quiet", "--preserve-digests"]);
        if is_loopback(repository) {
            copy.arg("--dest-tls-verify=false");
        }
        copy.arg(format!("oci:{}", built.directory.display()))
            .arg(format!("docker://{repository}:{tag}"));
        shell::output(&mut copy).with_context(|| format!("cannot push {repository}:{tag}"))?;
    }
    let digest = digest(reference)?;
    ensure!(
        digest == built.manifest_digest,
        "{reference} is {digest} at the registry, not {}",
        built.manifest_digest
    );
    Ok(Publication::Pushed(format!("{repository}@{digest}")))
}

/// The configuration of what is at `reference`; absent where nothing is.
fn published(reference: &str) -> Result<Option<Config>> {
    let answer = shell::output(
        inspect(reference)
            .args(["--config", "--raw"])
            .arg(docker(reference)),
    );
    match answer {
        Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
        Err(error) if is_absent(&format!("{error:#}")) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot ask what {reference} is")),
    }
}

/// Whether a registry said that there is no such tag or repository. Anything else must not count as absence.
fn is_absent(message: &str) -> bool {
    [
        "manifest unknown",
        "name unknown",
        "repository name not known",
    ]
    .iter()
    .any(|words| message.contains(words))
}

fn digest(reference: &str) -> Result<String> {
    let mut ask = inspect(reference);
    ask.args(["--format", "{{.Digest}}"]).arg(docker(reference));
    Ok(shell::output(&mut ask)?.trim().to_owned())
}

fn inspect(reference: &str) -> Command {
    let mut command = shell::tool("skopeo");
    command.arg("inspect");
    if is_loopback(reference) {
        command.arg("--tls-verify=false");
    }
    command
}

fn docker(reference: &str) -> String {
    format!("docker://{reference}")
}

/// Only registries of this machine are spoken to without TLS.
fn is_loopback(reference: &str) -> bool {
    ["127.0.0.1:", "localhost:", "[::1]:"]
        .iter()
        .any(|host| reference.starts_with(host))
}

/// Repository and tag.
fn split(reference: &str) -> Result<(&str, &str)> {
    let slash = reference
        .rfind('/')
        .context("a reference has a repository")?;
    let tag = reference[slash..]
        .find(':')
        .context("what is pushed needs a tag, as :latest")?;
    let (repository, tag) = reference.split_at(slash + tag);
    ensure!(
        !reference.contains('@') && tag.len() > 1,
        "what is pushed needs a tag, as :latest"
    );
    Ok((repository, &tag[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(
            split("127.0.0.1:5000/a/b:latest").unwrap(),
            ("127.0.0.1:5000/a/b", "latest")
        );
        for refused in ["127.0.0.1:5000/a/b", "a", "x/a:", "x/a@sha256:0"] {
            assert!(split(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn only_loopback_is_spoken_to_without_tls() {
        assert!(is_loopback("127.0.0.1:5000/a") && is_loopback("localhost:5000/a"));
        assert!(!is_loopback("127.0.0.1.example.org/a") && !is_loopback("localhost.example.org/a"));
    }

    #[test]
    fn only_the_registrys_word_counts_as_absence() {
        assert!(is_absent(
            "reading manifest latest in x: manifest unknown: manifest unknown"
        ));
        assert!(is_absent(
            "name unknown: repository name not known to registry"
        ));
        for other in [
            "unauthorized",
            "connection refused",
            "received unexpected HTTP status: 503",
            "denied",
        ] {
            assert!(!is_absent(other), "{other}");
        }
    }
}
