//! Building our own programs with cargo and finding what it made.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::workspace;

/// One program cargo made.
#[derive(Debug, Clone)]
pub(crate) struct Executable {
    /// The target's name: `agent-vm`, or the name of a test binary.
    pub(crate) name: String,
    /// Whether it is a test binary.
    pub(crate) test: bool,
    /// Where it lies.
    pub(crate) path: PathBuf,
}

/// The release build of `agent-vm`.
///
/// # Errors
/// When it does not build.
pub(crate) fn agent_vm() -> Result<PathBuf> {
    let built = cargo(&[
        "build",
        "--release",
        "--package",
        "agent-vm-cli",
        "--bin",
        "agent-vm",
    ])?;
    let found = built.into_iter().find(|built| built.name == "agent-vm");
    Ok(found.context("cargo made no agent-vm")?.path)
}

/// Runs cargo with `arguments` and gives the executables it made; compiler messages go to our standard error.
///
/// # Errors
/// When the build fails.
pub(crate) fn cargo(arguments: &[&str]) -> Result<Vec<Executable>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(workspace::root())
        .args(arguments)
        .args(["--quiet", "--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo {} ended with {}", arguments.join(" "), output.status);
    }
    executables(&String::from_utf8(output.stdout)?)
}

fn executables(messages: &str) -> Result<Vec<Executable>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line)?;
        if let Some(path) = message["executable"].as_str() {
            found.push(Executable {
                name: message["target"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                test: message["profile"]["test"] == true,
                path: path.into(),
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_and_tests_among_cargo_messages() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"name":"lib"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"name":"agent-vm"},"profile":{"test":false},"executable":"/t/agent-vm"}
{"reason":"compiler-artifact","target":{"name":"cases"},"profile":{"test":true},"executable":"/t/cases-1"}
{"reason":"build-finished","success":true}"#;
        let found = executables(messages).unwrap();
        let brief: Vec<_> = found.iter().map(|e| (e.name.as_str(), e.test)).collect();
        assert_eq!(brief, [("agent-vm", false), ("cases", true)]);
    }
}
