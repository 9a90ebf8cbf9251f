//! Which of our crates may depend on which, and on which libraries. Test dependencies are free.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Findings;
use crate::{shell, workspace};

/// Crates and the crates of ours they may use; a crate that is missing here is a breach.
const EDGES: &[(&str, &[&str])] = &[
    // Vocabulary: no crates of ours.
    ("files", &[]),
    ("policy", &[]),
    ("process", &[]),
    ("protocol", &[]),
    ("secret", &[]),
    ("state", &[]),
    // Engines: vocabulary only, never each other.
    ("agents", &["policy"]),
    ("credentials", &["policy", "process", "secret", "state"]),
    ("egress", &["policy", "secret"]),
    ("gateway", &[]),
    ("guest", &["protocol"]),
    ("image", &["process"]),
    ("vmm", &["files", "process", "protocol", "state"]),
    // Wiring.
    (
        "launch",
        &[
            "agents",
            "credentials",
            "egress",
            "files",
            "gateway",
            "image",
            "policy",
            "process",
            "protocol",
            "secret",
            "state",
            "vmm",
        ],
    ),
    // The command tells the engines' errors, and enters the virtual machine's child.
    (
        "cli",
        &[
            "agents",
            "credentials",
            "egress",
            "image",
            "launch",
            "policy",
            "protocol",
            "secret",
            "state",
            "vmm",
        ],
    ),
];

/// Packages that are not part of the product.
const TOOLS: &[&str] = &["agent-vm-test-support", "agent-vm-boot-tests", "xtask"];

/// Libraries by the start of their names, and the crates that may use them.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("msb_krun", &["vmm"]),
    ("smoltcp", &["gateway"]),
    ("rustls", &["egress", "image", "credentials"]),
    ("tokio-rustls", &["egress", "image", "credentials"]),
    ("hyper", &["egress", "image", "credentials"]),
    ("oci-client", &["image"]),
    ("reqwest", &["image"]),
    ("clap", &["cli"]),
];

/// The part of `cargo metadata` that is looked at.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// `None` for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
}

impl Package {
    /// The crate's folder name; `None` for tools.
    fn member(&self) -> Option<&str> {
        if TOOLS.contains(&self.name.as_str()) {
            return None;
        }
        Some(self.name.strip_prefix("agent-vm-").unwrap_or(&self.name))
    }

    fn dependencies(&self) -> impl Iterator<Item = &str> {
        let normal = self
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind.is_none());
        normal.map(|dependency| dependency.name.as_str())
    }
}

/// The workspace's packages and their direct dependencies.
///
/// # Errors
/// When cargo cannot read a manifest.
pub(crate) fn metadata() -> Result<Metadata> {
    let mut command = Command::new("cargo");
    command
        .current_dir(workspace::root())
        .args(["metadata", "--format-version", "1", "--no-deps"]);
    serde_json::from_str(&shell::output(&mut command)?).context("cargo metadata")
}

pub(crate) fn edges(metadata: &Metadata) -> Findings {
    let mut findings = Findings::default();
    for package in &metadata.packages {
        let Some(member) = package.member() else {
            continue;
        };
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == member) else {
            findings.add(Some(format!("{member} has no place in the layers")));
            continue;
        };
        for dependency in package.dependencies() {
            let Some(ours) = dependency.strip_prefix("agent-vm-") else {
                continue;
            };
            let breach = (!allowed.contains(&ours)).then(|| format!("{member} may not use {ours}"));
            findings.add(breach);
        }
    }
    findings
}

pub(crate) fn libraries(metadata: &Metadata) -> Findings {
    let mut findings = Findings::default();
    for package in &metadata.packages {
        let Some(member) = package.member() else {
            continue;
        };
        for dependency in package.dependencies() {
            let rule = LIBRARIES
                .iter()
                .find(|(start, _)| dependency.starts_with(start));
            let broken = rule.is_some_and(|(_, allowed)| !allowed.contains(&member));
            findings.add(broken.then(|| format!("{member} may not use {dependency}")));
        }
    }
    findings
}

/// No path of dependencies leads from the virtual machine's crate to the one of tokens.
///
/// # Errors
/// When cargo cannot be started.
pub(crate) fn vmm_without_secret() -> Result<Findings> {
    let mut findings = Findings::default();
    let mut command = Command::new("cargo");
    command
        .current_dir(workspace::root())
        .args([
            "tree",
            "--quiet",
            "--edges",
            "normal",
            "--package",
            "agent-vm-vmm",
        ])
        .args(["--prefix", "none", "--format", "{p}"]);
    let tree = shell::output(&mut command)?;
    for package in tree.lines() {
        let breach = package.starts_with("agent-vm-secret ");
        findings.add(breach.then(|| "agent-vm-vmm reaches agent-vm-secret".to_owned()));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Metadata {
        let dependencies = dependencies
            .iter()
            .map(|(name, kind)| Dependency {
                name: (*name).to_owned(),
                kind: kind.map(str::to_owned),
            })
            .collect();
        Metadata {
            packages: vec![Package {
                name: name.to_owned(),
                dependencies,
            }],
        }
    }

    #[test]
    fn denies_an_edge_between_engines() {
        let metadata = package("agent-vm-gateway", &[("agent-vm-egress", None)]);
        assert_eq!(edges(&metadata).breaches, ["gateway may not use egress"]);
    }

    #[test]
    fn allows_an_edge_of_tests() {
        let metadata = package(
            "agent-vm-gateway",
            &[("agent-vm-test-support", Some("dev"))],
        );
        assert_eq!(edges(&metadata), Findings::default());
    }

    #[test]
    fn denies_a_crate_without_a_layer() {
        let metadata = package("agent-vm-extra", &[]);
        assert_eq!(edges(&metadata).breaches.len(), 1);
    }

    #[test]
    fn denies_a_library_outside_its_crates() {
        let metadata = package(
            "agent-vm-launch",
            &[("rustls-pki-types", None), ("tokio", None)],
        );
        assert_eq!(
            libraries(&metadata).breaches,
            ["launch may not use rustls-pki-types"]
        );
        let allowed = package("agent-vm-egress", &[("rustls", None)]);
        assert!(libraries(&allowed).breaches.is_empty());
    }

    #[test]
    fn no_engine_may_use_another() {
        let engines = [
            "agents",
            "credentials",
            "egress",
            "gateway",
            "guest",
            "image",
            "vmm",
        ];
        for (name, allowed) in EDGES.iter().filter(|(name, _)| engines.contains(name)) {
            assert!(allowed.iter().all(|used| !engines.contains(used)), "{name}");
        }
    }
}
