//! `vendor`: the pinned guest kernel. Sources are tried in order; what a source gives is used only when its hash is
//! the pinned one, so a cache, a mirror or a package registry cannot change the kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{shell, workspace};

/// How long one download may take, in seconds.
const DOWNLOAD_SECONDS: &str = "300";

/// `vendor/libkrunfw.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    library: Library,
    source: Vec<Source>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Library {
    file: String,
    kernel: String,
    size: u64,
    sha256: String,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Source {
    /// An installed library; used only when it is the pinned one.
    System { paths: Vec<PathBuf> },
    /// A member of a Python wheel, by pip from whatever index it is set up for.
    Wheel {
        package: String,
        version: String,
        platform: String,
        archive_sha256: String,
        member: PathBuf,
    },
    /// The library itself at an address.
    Url { url: String },
}

/// Prints the path of the verified kernel library.
///
/// # Errors
/// As [`kernel`].
pub(crate) fn run() -> Result<()> {
    println!("{}", kernel()?.display());
    Ok(())
}

/// The verified guest kernel library, fetched when it is not in the cache.
///
/// # Errors
/// When no source works, or one gives a file whose hash is not the pinned one.
pub(crate) fn kernel() -> Result<PathBuf> {
    let pin_file = workspace::root().join("vendor/libkrunfw.toml");
    let pin: Pin = toml::from_str(&fs_err::read_to_string(&pin_file)?)
        .with_context(|| format!("{}", pin_file.display()))?;
    let directory = std::env::var_os("AGENT_VM_VENDOR_DIR")
        .map_or_else(|| workspace::cache("vendor"), PathBuf::from);
    fs_err::create_dir_all(&directory)?;
    fetch(&pin, &directory)
}

fn fetch(pin: &Pin, directory: &Path) -> Result<PathBuf> {
    let cached = directory.join(format!("{}-{}", pin.library.kernel, pin.library.file));
    if cached.is_file() {
        verify_library(&pin.library, &cached)?;
        return Ok(cached);
    }
    let scratch = tempfile::tempdir_in(directory)?;
    let mut reasons = Vec::new();
    for source in &pin.source {
        match from_source(source, &pin.library, scratch.path()) {
            Ok(Some(file)) => {
                verify_library(&pin.library, &file)?;
                fs_err::rename(&file, &cached)?;
                return Ok(cached);
            }
            Ok(None) => reasons.push(format!("{source:?}: not there")),
            Err(error) if error.is::<WrongHash>() => return Err(error),
            Err(error) => reasons.push(format!("{source:?}: {error:#}")),
        }
    }
    bail!("no source gives the guest kernel\n{}", reasons.join("\n"))
}

/// A copy of the library in `scratch`, not yet verified; `None` when this source does not have it.
fn from_source(source: &Source, library: &Library, scratch: &Path) -> Result<Option<PathBuf>> {
    match source {
        Source::System { paths } => from_system(paths, library, scratch),
        Source::Wheel {
            package,
            version,
            platform,
            archive_sha256,
            member,
        } => {
            let archive = download_wheel(package, version, platform, scratch)?;
            verify(&archive, archive_sha256)?;
            unpack_wheel(&archive, member, scratch).map(Some)
        }
        Source::Url { url } => download(url, library.size, scratch).map(Some),
    }
}

fn from_system(paths: &[PathBuf], library: &Library, scratch: &Path) -> Result<Option<PathBuf>> {
    for path in paths.iter().filter(|path| path.is_file()) {
        if shell::sha256(path)? == library.sha256 {
            let copy = scratch.join("system.so");
            fs_err::copy(path, &copy)?;
            return Ok(Some(copy));
        }
    }
    Ok(None)
}

fn download_wheel(package: &str, version: &str, platform: &str, scratch: &Path) -> Result<PathBuf> {
    let pip = shell::find("pip").or_else(|| shell::find("pip3"));
    let mut command = Command::new(pip.context("no pip here")?);
    command
        .args(["download", "--quiet", "--no-deps", "--only-binary", ":all:"])
        .args(["--disable-pip-version-check", "--platform", platform])
        .args(["--python-version", "3.11", "--dest"])
        .arg(scratch)
        .arg(format!("{package}=={version}"));
    shell::output(&mut command)?;
    let wheel = fs_err::read_dir(scratch)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.context("pip left no wheel")
}

fn unpack_wheel(archive: &Path, member: &Path, scratch: &Path) -> Result<PathBuf> {
    let unpacked = scratch.join("wheel");
    let mut command = Command::new("python3");
    command
        .args(["-m", "zipfile", "-e"])
        .arg(archive)
        .arg(&unpacked);
    shell::output(&mut command)?;
    let library = unpacked.join(member);
    if !library.is_file() {
        bail!("{} holds no {}", archive.display(), member.display());
    }
    Ok(library)
}

fn download(url: &str, size: u64, scratch: &Path) -> Result<PathBuf> {
    let file = scratch.join("download.so");
    let mut command = Command::new("curl");
    command
        .args([
            "-fsSL",
            "--connect-timeout",
            "20",
            "--max-time",
            DOWNLOAD_SECONDS,
        ])
        .args(["--max-filesize", &size.to_string(), "-o"])
        .arg(&file)
        .arg(url);
    shell::output(&mut command)?;
    Ok(file)
}

fn verify_library(library: &Library, file: &Path) -> Result<()> {
    verify(file, &library.sha256)
}

/// Removes the file when its hash is another one.
fn verify(file: &Path, expected: &str) -> Result<()> {
    let found = shell::sha256(file)?;
    if found == expected {
        return Ok(());
    }
    fs_err::remove_file(file)?;
    Err(WrongHash {
        file: file.to_path_buf(),
        expected: expected.to_owned(),
        found,
    }
    .into())
}

/// A file is not the pinned one. Never papered over by trying the next source.
#[derive(Debug)]
struct WrongHash {
    file: PathBuf,
    expected: String,
    found: String,
}

impl std::error::Error for WrongHash {}

impl std::fmt::Display for WrongHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "refused and removed {}: its SHA-256 is wrong",
            self.file.display()
        )?;
        writeln!(f, "  expected {}", self.expected)?;
        write!(f, "  found    {}", self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn pin(sha256: &str, source: Source) -> Pin {
        let library = Library {
            file: "libkrunfw.so".to_owned(),
            kernel: "6".to_owned(),
            size: 5,
            sha256: sha256.to_owned(),
        };
        Pin {
            library,
            source: vec![source],
        }
    }

    #[test]
    fn takes_an_installed_library_only_with_the_pinned_hash() {
        let directory = tempfile::tempdir().unwrap();
        let installed = directory.path().join("installed.so");
        fs_err::write(&installed, "hello").unwrap();
        let system = || Source::System {
            paths: vec![installed.clone()],
        };

        let other = fetch(&pin("00", system()), directory.path()).unwrap_err();
        assert!(other.to_string().contains("no source"), "{other}");

        let library = fetch(&pin(HELLO, system()), directory.path()).unwrap();
        assert_eq!(fs_err::read(library).unwrap(), b"hello");
    }

    #[test]
    fn refuses_and_removes_a_cached_file_with_another_hash() {
        let directory = tempfile::tempdir().unwrap();
        let cached = directory.path().join("6-libkrunfw.so");
        fs_err::write(&cached, "hullo").unwrap();

        let nothing = Source::System { paths: Vec::new() };
        let refused = fetch(&pin(HELLO, nothing), directory.path())
            .unwrap_err()
            .to_string();

        assert!(refused.contains(HELLO), "{refused}");
        assert!(refused.contains("found    "), "{refused}");
        assert!(!cached.exists());
    }

    #[test]
    fn a_download_with_another_hash_ends_the_search() {
        let directory = tempfile::tempdir().unwrap();
        let served = directory.path().join("served.so");
        fs_err::write(&served, "hullo").unwrap();
        let mut pin = pin(
            HELLO,
            Source::Url {
                url: format!("file://{}", served.display()),
            },
        );
        pin.source.push(Source::System {
            paths: vec![served],
        });

        let refused = fetch(&pin, directory.path()).unwrap_err();

        assert!(refused.is::<WrongHash>(), "{refused}");
    }
}
