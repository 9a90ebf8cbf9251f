//! Pushing the template: only when its layers or its configuration differ from what is published, and without letting the
//! tool take over blobs in another compression.

use anyhow::{Context as _, Result, ensure};

use super::layout::{Config, Layout};
use super::storage::Storage;
use crate::shell;

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Publication {
    /// Pushed, now known by this reference.
    Pushed(String),
    /// The same was there already, at this reference.
    Unchanged(String),
}

/// Pushes `built` as `reference`, which has a tag, and with each of `tags`. When `reference` is the same image already, nothing is
/// pushed and no tag moves.
///
/// # Errors
/// When the registry cannot be asked or refuses.
pub(crate) fn publish(
    storage: &Storage,
    built: &Layout,
    reference: &str,
    tags: &[String],
) -> Result<Publication> {
    let (repository, tag) = split(reference)?;
    if let Some(published) = published(storage, reference)?
        && published == built.config
    {
        return Ok(Publication::Unchanged(format!(
            "{repository}@{}",
            digest(storage, reference)?
        )));
    }
    // The date's tag first: `latest` never names what has no lasting name.
    for tag in tags.iter().map(String::as_str).chain([tag]) {
        let mut copy = storage.skopeo();
        // Keeping digests keeps the tool from using blobs of another compression it knows to be there.
        copy.args(["copy", "--quiet", "--preserve-digests"]);
        if is_loopback(repository) {
            copy.arg("--dest-tls-verify=false");
        }
        copy.arg(format!("oci:{}", built.directory.display()))
            .arg(format!("docker://{repository}:{tag}"));
        shell::output(&mut copy).with_context(|| format!("cannot push {repository}:{tag}"))?;
    }
    let digest = digest(storage, reference)?;
    ensure!(
        digest == built.manifest_digest,
        "{reference} is {digest} at the registry, not {}",
        built.manifest_digest
    );
    Ok(Publication::Pushed(format!("{repository}@{digest}")))
}

/// The configuration of what is at `reference`; absent where nothing is.
fn published(storage: &Storage, reference: &str) -> Result<Option<Config>> {
    let answer = shell::output(
        inspect(storage, reference)
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

fn digest(storage: &Storage, reference: &str) -> Result<String> {
    let mut ask = inspect(storage, reference);
    ask.args(["--format", "{{.Digest}}"]).arg(docker(reference));
    Ok(shell::output(&mut ask)?.trim().to_owned())
}

fn inspect(storage: &Storage, reference: &str) -> std::process::Command {
    let mut command = storage.skopeo();
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
        !tag.contains('@') && tag.len() > 1,
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
