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

/// The helper programs of the tests, static, so that they run in a guest of any image as well.
///
/// # Errors
/// When they do not build.
pub(crate) fn static_helpers() -> Result<Vec<Executable>> {
    let mut arguments = vec!["--bins"];
    for package in HELPER_PACKAGES {
        arguments.extend(["--package", package]);
    }
    static_programs(&arguments)
}

/// An example program of a package, static as [`static_helpers`].
///
/// # Errors
/// When it does not build.
pub(crate) fn static_example(package: &str, name: &str) -> Result<PathBuf> {
    let built = static_programs(&["--package", package, "--example", name])?;
    let found = built.into_iter().find(|built| built.name == name);
    Ok(found.with_context(|| format!("cargo made no {name}"))?.path)
}

fn static_programs(chosen: &[&str]) -> Result<Vec<Executable>> {
    let target = workspace::cache("static");
    let target = target.to_str().context("the checkout's path is no text")?;
    let mut arguments = vec!["build", "--release", "--target", STATIC_TARGET];
    arguments.extend(["--target-dir", target]);
    arguments.extend(chosen);
    let flags = [("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")];
    cargo_with(&arguments, &flags)
}

/// A program of `tests/support`.
///
/// # Errors
/// When it does not build.
pub(crate) fn test_program(name: &str) -> Result<PathBuf> {
    let package = "agent-vm-test-support";
    let built = cargo(&["build", "--release", "--package", package, "--bin", name])?;
    let found = built.into_iter().find(|built| built.name == name);
    Ok(found.with_context(|| format!("cargo made no {name}"))?.path)
}

/// An example program of a package.
///
/// # Errors
/// When it does not build.
pub(crate) fn example(package: &str, name: &str) -> Result<PathBuf> {
    let built = cargo(&[
        "build",
        "--release",
        "--package",
        package,
        "--example",
        name,
    ])?;
    let found = built.into_iter().find(|built| built.name == name);
    Ok(found.with_context(|| format!("cargo made no {name}"))?.path)
}

/// Runs cargo with `arguments` and gives the executables it made; compiler messages go to our standard error.
///
/// # Errors
/// When the build fails.
pub(crate) fn cargo(arguments: &[&str]) -> Result<Vec<Executable>> {
    cargo_with(arguments, &[])
}

fn cargo_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Vec<Executable>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(workspace::root())
        .args(arguments)
        .envs(environment.iter().copied())
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
                path: path.into(),
            });
        }
    }
    Ok(found)
}

/// Packages whose programs are helpers of the tests.
const HELPER_PACKAGES: &[&str] = &["agent-vm-test-support", "agent-vm-boot-tests"];

/// With a target given, static linking does not reach build scripts and macros.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

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
        let brief: Vec<_> = found.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(brief, ["agent-vm", "cases"]);
    }
}
