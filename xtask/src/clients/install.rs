//! The clients: npm and Python packages in a cache that outlives builds, Debian's programs from the system.
//!
//! npm runs no script of a package: the packages with the native programs are installed themselves, so nothing has to be
//! linked or unpacked afterwards.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::case::{NpmPackage, Program};
use crate::{setup, shell, workspace};

/// Installs a client if it is not there, and gives its program.
///
/// # Errors
/// When it cannot be installed; without a network that is so.
pub(crate) fn program(program: Program) -> Result<PathBuf> {
    match program {
        Program::Npm(package) => npm(package),
        Program::Debian(name, package) => {
            setup::install_missing(&[(name, package)])?;
            shell::find(name).with_context(|| format!("Debian's {package} has no {name}"))
        }
        Program::Pip(spec) => pip(spec),
    }
}

fn npm(package: &NpmPackage) -> Result<PathBuf> {
    setup::install_missing(&[("npm", "npm")])?;
    let prefix = workspace::cache("clients").join(directory_name(package.spec));
    let program = prefix.join("node_modules").join(package.program);
    if !complete(&prefix) {
        fs_err::create_dir_all(&prefix)?;
        eprintln!("clients: installing {} from npm", package.spec);
        let mut command = shell::tool("npm");
        command
            .args([
                "install",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--no-save",
                "--prefix",
            ])
            .arg(&prefix)
            .arg(package.spec);
        shell::output(&mut command).with_context(|| format!("cannot install {}", package.spec))?;
        fs_err::write(prefix.join(COMPLETE), "")?;
    }
    ensure!(program.is_file(), "{} is not there", program.display());
    Ok(program)
}

/// A virtual environment with the package; gives its Python.
fn pip(spec: &str) -> Result<PathBuf> {
    setup::install_missing(&[
        ("/usr/bin/python3", "python3"),
        ("/usr/share/doc/python3-venv", "python3-venv"),
    ])?;
    let prefix = workspace::cache("clients").join(directory_name(spec));
    let python = prefix.join("bin/python");
    if !complete(&prefix) {
        eprintln!("clients: installing {spec} from PyPI");
        shell::output(
            shell::tool("/usr/bin/python3")
                .args(["-m", "venv"])
                .arg(&prefix),
        )?;
        let mut command = shell::tool(python.to_str().context("path of the cache")?);
        command.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]);
        shell::output(command.args(spec.split(' ')))?;
        fs_err::write(prefix.join(COMPLETE), "")?;
    }
    Ok(python)
}

fn complete(prefix: &Path) -> bool {
    prefix.join(COMPLETE).is_file()
}

/// In a directory that was installed to its end.
const COMPLETE: &str = ".complete";

fn directory_name(spec: &str) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() || letter == '.' {
            letter
        } else {
            '-'
        }
    };
    spec.trim_start_matches('@').chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_a_directory_of_its_own() {
        assert_eq!(directory_name("@a/b@1.2.3"), "a-b-1.2.3");
    }
}
