//! Running other programs: every failure names the program, its status and what it said.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs `command` with our own standard streams.
///
/// # Errors
/// When it cannot be started or does not end with status 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(())
}

/// Runs `command` silently and gives its standard output.
///
/// # Errors
/// As [`run`]; the message ends with what the program wrote to its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", name(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}\n{}",
            line(command),
            output.status,
            said.trim_end()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no text", name(command)))
}

/// Whether `program` is on `PATH` (or in `/usr/sbin`, which a user's `PATH` may lack).
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// A command for a program that may lie in `/usr/sbin`.
pub(crate) fn tool(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| PathBuf::from(program)))
}

/// SHA-256 of a file as lower-case hex, by coreutils: a debug build of our own would take seconds.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn sha256(file: &Path) -> Result<String> {
    let printed = output(Command::new("sha256sum").arg("--").arg(file))?;
    let hash = printed.trim_start_matches('\\').split(' ').next();
    Ok(hash.unwrap_or_default().to_owned())
}

/// `word` as one word of sh.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    let arguments = command.get_args().map(OsStr::to_string_lossy);
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(arguments);
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_stays_one_word() {
        let words = ["plain", "two words", "it's", "$HOME `x` \\ \"", ""];
        let quoted: Vec<_> = words.iter().map(|word| quote(word)).collect();
        let script = format!("printf '%s\\n' {}", quoted.join(" "));
        let printed = output(Command::new("sh").args(["-c", &script])).unwrap();
        assert_eq!(printed.lines().collect::<Vec<_>>(), words);
    }

    #[test]
    fn a_failed_program_is_named_with_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("exit status: 3") && error.ends_with("why"),
            "{error}"
        );
    }
}
