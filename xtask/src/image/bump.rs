//! `image bump`: the newest versions as pins. Asks the npm registry by npm and rewrites two lines of each entry of
//! `images/versions.toml`; comments and order stay.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;

use super::versions::{NpmPin, Versions};
use crate::{setup, shell, workspace};

#[derive(Debug, Clone, Args)]
pub(crate) struct BumpArguments {
    /// Only these entries, as claude,codex.
    #[arg(value_delimiter = ',')]
    names: Vec<String>,
}

/// Rewrites the file where something is newer and prints what.
///
/// # Errors
/// When npm does not answer, or the file is not as it should be.
pub(crate) fn run(arguments: &BumpArguments) -> Result<()> {
    setup::install_missing(&[("npm", "npm")])?;
    let path = workspace::root().join("images/versions.toml");
    let versions = Versions::read(&path)?;
    let mut text = fs_err::read_to_string(&path)?;
    for name in &arguments.names {
        ensure!(versions.npm.contains_key(name), "there is no [npm.{name}]");
    }
    for (name, pin) in &versions.npm {
        if !arguments.names.is_empty() && !arguments.names.contains(name) {
            continue;
        }
        let newest = newest(pin).with_context(|| format!("cannot ask for the newest {name}"))?;
        if newest.0 == pin.version {
            // The registry's archives never change; when one does, it must not be taken.
            ensure!(
                newest.1 == pin.integrity,
                "{name} {} changed at the registry",
                newest.0
            );
            continue;
        }
        text = replaced(&text, name, "version", &newest.0)?;
        text = replaced(&text, name, "integrity", &newest.1)?;
        println!("{name} {} -> {}", pin.version, newest.0);
    }
    fs_err::write(path, text)?;
    Ok(())
}

/// Version and integrity of the newest this pin follows.
fn newest(pin: &NpmPin) -> Result<(String, String)> {
    let version = newest_version(&view(
        &format!("{}@{}", pin.package, pin.follow),
        "version",
    )?)
    .context("npm names no version")?;
    let version = format!("{version}{}", pin.suffix);
    let integrity = view(&format!("{}@{version}", pin.package), "dist.integrity")?;
    let integrity = integrity.as_str().context("npm names no integrity")?;
    Ok((version, integrity.to_owned()))
}

fn view(package: &str, field: &str) -> Result<Value> {
    let mut npm = Command::new("npm");
    npm.args(["view", "--json", package, field]);
    Ok(serde_json::from_str(&shell::output(&mut npm)?)?)
}

/// One version, or the highest of several: npm does not list them in the order of their numbers.
fn newest_version(answer: &Value) -> Option<String> {
    let parts = |version: &str| -> Option<Vec<u64>> {
        version.split('.').map(|part| part.parse().ok()).collect()
    };
    match answer {
        Value::String(version) => Some(version.clone()),
        Value::Array(versions) => {
            let plain = versions.iter().filter_map(Value::as_str);
            let plain = plain.filter_map(|version| Some((parts(version)?, version)));
            plain.max().map(|(_, version)| version.to_owned())
        }
        _ => None,
    }
}

/// `text` with another value for one key of `[npm.NAME]`.
fn replaced(text: &str, name: &str, key: &str, value: &str) -> Result<String> {
    ensure!(
        value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-+./=".contains(&byte)),
        "{key} of {name} is no plain word: {value:?}"
    );
    let header = format!("[npm.{name}]");
    let mut inside = false;
    let mut found = false;
    let mut new = String::with_capacity(text.len());
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line == header;
        }
        if inside && line.starts_with(&format!("{key} = ")) {
            found = true;
            new.push_str(&format!("{key} = \"{value}\""));
        } else {
            new.push_str(line);
        }
        new.push('\n');
    }
    ensure!(found, "[npm.{name}] has no {key}");
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_by_number_not_by_place_and_no_preview() {
        let answer = serde_json::json!(["22.9.0", "22.23.3", "22.10.0", "22.99.0-rc.1"]);
        assert_eq!(newest_version(&answer).as_deref(), Some("22.23.3"));
        assert_eq!(
            newest_version(&serde_json::json!("1.2")).as_deref(),
            Some("1.2")
        );
        assert_eq!(newest_version(&serde_json::json!([])), None);
    }

    #[test]
    fn only_the_lines_of_the_entry_change() {
        let text =
            "# c\n[npm.a]\nversion = \"1\"\n\n[npm.b]\nversion = \"1\" # old\nfollow = \"x\"\n";
        let new = replaced(text, "b", "version", "2").unwrap();
        assert_eq!(
            new,
            "# c\n[npm.a]\nversion = \"1\"\n\n[npm.b]\nversion = \"2\"\nfollow = \"x\"\n"
        );
        assert!(replaced(text, "c", "version", "2").is_err());
        assert!(replaced(text, "b", "version", "2\"\nx = \"").is_err());
    }
}
