//! `image build`: the template from `images/`, by buildah with chroot isolation. The certificates of this machine are a secret of
//! the build only, for networks that intercept TLS. The check that every tool runs is a stage of the Dockerfile: without it
//! there is no image.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use sha2::{Digest as _, Sha256};

use super::layout::Layout;
use super::storage::Storage;
use super::versions::{AGENTS, Versions};
use super::{base, publish};
use crate::{shell, workspace};

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BuildArguments {
    /// Without Docker, Chromium and compilers.
    #[arg(long)]
    pub(crate) minimal: bool,
    /// Only these agents, as claude,codex; all of them without it.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = AGENTS.to_vec())]
    pub(crate) agents: Vec<String>,
    /// Another Debian image as base, as debian:trixie-slim; without it the base is made by mmdebstrap.
    #[arg(long, value_name = "REF")]
    pub(crate) base: Option<String>,
    /// Another Debian mirror, as a snapshot archive or one nearby.
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,
    /// Other pins than images/versions.toml.
    #[arg(long, value_name = "FILE")]
    pub(crate) versions: Option<PathBuf>,
    /// Write the image to this directory, an OCI layout; it is replaced.
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Compression of the layers.
    #[arg(long, value_enum, default_value_t = Compression::Zstd)]
    pub(crate) compression: Compression,
    /// Push to this repository with tag, unless what is there has the same layers.
    #[arg(long, value_name = "REF")]
    pub(crate) push: Option<String>,
    /// One more tag for what is pushed.
    #[arg(long, value_name = "TAG", requires = "push")]
    pub(crate) tag: Vec<String>,
    /// Take nothing from earlier builds.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Build twice, the second time in a storage of its own that knows nothing of the first, and compare the layers.
    #[arg(long)]
    pub(crate) twice: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    #[default]
    Zstd,
    Gzip,
}

/// Arguments of the Dockerfile that are no pins.
pub(crate) const OTHER_ARGUMENTS: [&str; 5] = ["BASE", "FLAVOUR", "AGENTS", "MIRROR", "SECURITY"];

/// Arguments that are hashes of scripts, and the files of each: a step is made again when a script it runs changes.
pub(crate) const SCRIPT_ARGUMENTS: [(&str, &[&str]); 4] = [
    ("SCRIPT_DEBIAN", &["debian", "clean"]),
    ("SCRIPT_FETCH", &["fetch"]),
    (
        "SCRIPT_FULL",
        &[
            "full",
            "clean",
            "programs/docker",
            "programs/agent-vm-chrome-mcp",
        ],
    ),
    ("SCRIPT_CHECK", &["check"]),
];

/// Certificates programs here trust, for the build's secret.
const HOST_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// zstd's own default: more costs much time for little.
const ZSTD_LEVEL: &str = "3";

/// Builds, and does with the result what the arguments say.
///
/// # Errors
/// When a step does not work; it names itself.
pub(crate) fn run(arguments: &BuildArguments) -> Result<()> {
    let clock = std::time::Instant::now();
    let directory = workspace::cache("image");
    let built = build(arguments, &directory)?;
    eprintln!("image: built and checked in {:.0?}", clock.elapsed());
    println!("{}", built.table().trim_end());
    println!(
        "{} layers, {} bytes, manifest {}",
        built.layers.len(),
        built.bytes(),
        built.manifest_digest
    );
    if arguments.twice {
        compare_with_second(arguments, &directory, &built)?;
    }
    if let Some(output) = &arguments.output {
        replace(&built.directory, output)?;
        println!("written to {}", output.display());
    }
    if let Some(reference) = &arguments.push {
        println!("{}", publish::publish(&built, reference, &arguments.tag)?);
    }
    Ok(())
}

/// Builds into a storage in `directory` and gives the image as an OCI layout in it.
///
/// # Errors
/// When a step does not work.
pub(crate) fn build(arguments: &BuildArguments, directory: &Path) -> Result<Layout> {
    let storage = Storage::open(directory)?;
    let default = workspace::root().join("images/versions.toml");
    let versions = Versions::read(arguments.versions.as_deref().unwrap_or(&default))?;
    let mirror = arguments
        .mirror
        .as_deref()
        .unwrap_or(&versions.debian.mirror);
    let base = match &arguments.base {
        Some(reference) => reference.clone(),
        None => base::make(&storage, directory, &versions, mirror, arguments.fresh)?,
    };
    let name = format!("localhost/agent-vm-template:{}", flavour(arguments));
    eprintln!("image: building {name}");
    bud(&storage, arguments, &versions, (&base, mirror), &name)?;
    storage.release()?;
    let layout = directory.join("layout");
    let _old = fs_err::remove_dir_all(&layout);
    let mut write = storage.buildah();
    write.args([
        "push",
        "--quiet",
        "--format",
        "oci",
        "--compression-format",
        arguments.compression.name(),
    ]);
    if arguments.compression == Compression::Zstd {
        write.args(["--compression-level", ZSTD_LEVEL]);
    }
    write
        .arg(&name)
        .arg(format!("oci:{}:template", layout.display()));
    shell::output(&mut write).context("cannot write the image")?;
    let layout = Layout::read(&layout)?;
    layout.ensure_compressed_by(arguments.compression.name())?;
    Ok(layout)
}

fn flavour(arguments: &BuildArguments) -> &'static str {
    if arguments.minimal { "minimal" } else { "full" }
}

fn bud(
    storage: &Storage,
    arguments: &BuildArguments,
    versions: &Versions,
    (base, mirror): (&str, &str),
    name: &str,
) -> Result<()> {
    let images = workspace::root().join("images");
    let mut command = storage.buildah();
    command.args([
        "bud",
        "--isolation",
        "chroot",
        "--layers",
        "--identity-label=false",
    ]);
    command.args([
        "--target",
        "template",
        "--timestamp",
        &versions.image.epoch.to_string(),
    ]);
    if arguments.fresh {
        command.arg("--no-cache");
    }
    if arguments.base.is_none() {
        command.arg("--pull=never");
    }
    if Path::new(HOST_CERTIFICATES).exists() {
        command.args(["--secret", &format!("id=hostca,src={HOST_CERTIFICATES}")]);
    }
    let agents = arguments.agents.join(" ");
    let given = [
        base,
        flavour(arguments),
        &agents,
        mirror,
        &versions.debian.security,
    ];
    let others = OTHER_ARGUMENTS.into_iter().zip(given);
    let scripts = script_hashes(&images.join("scripts"))?;
    let scripts = scripts.iter().map(|(name, hash)| (*name, hash.as_str()));
    let pins = versions.build_arguments();
    let pins = pins
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in others.chain(scripts).chain(pins) {
        command.args(["--build-arg", &format!("{name}={value}")]);
    }
    command
        .args(["--tag", name, "--file"])
        .arg(images.join("Dockerfile"))
        .arg(&images);
    // What the build prints is for people; our standard output is the result.
    command.stdout(std::io::stderr());
    shell::run(&mut command).context("the template does not build")
}

fn script_hashes(scripts: &Path) -> Result<Vec<(&'static str, String)>> {
    let hash = |files: &[&str]| {
        let mut hasher = Sha256::new();
        for file in files {
            hasher.update(fs_err::read(scripts.join(file))?);
        }
        let hash = hasher.finalize();
        Ok::<_, anyhow::Error>(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    };
    SCRIPT_ARGUMENTS
        .iter()
        .map(|(name, files)| Ok((*name, hash(files)?)))
        .collect()
}

fn compare_with_second(arguments: &BuildArguments, directory: &Path, first: &Layout) -> Result<()> {
    let second_directory = directory.join("second");
    Storage::remove(&second_directory)?;
    let again = BuildArguments {
        fresh: true,
        ..arguments.clone()
    };
    let second = build(&again, &second_directory)?;
    Storage::remove(&second_directory)?;
    println!("second build:\n{}", second.table().trim_end());
    for (number, (first, second)) in first.layers.iter().zip(&second.layers).enumerate() {
        ensure!(
            first == second,
            "layer {} differs: {} {} against {} {}",
            number + 1,
            first.diff_id,
            first.digest,
            second.diff_id,
            second.digest
        );
    }
    ensure!(first.config == second.config, "the configurations differ");
    ensure!(
        first.manifest_digest == second.manifest_digest,
        "the manifests differ"
    );
    println!(
        "two builds, {} equal layers, one manifest digest",
        first.layers.len()
    );
    Ok(())
}

/// Copies a layout to where the user wants it. What is there is replaced only when it is one.
fn replace(layout: &Path, output: &Path) -> Result<()> {
    if output.join("oci-layout").exists() {
        fs_err::remove_dir_all(output)?;
    }
    ensure!(
        !output.exists() || fs_err::read_dir(output)?.next().is_none(),
        "{} is there and no OCI layout",
        output.display()
    );
    fs_err::create_dir_all(output)?;
    let mut copy = shell::tool("cp");
    copy.args(["-a", "--reflink=auto", "--"])
        .arg(layout.join("."))
        .arg(output);
    shell::output(&mut copy).map(drop)
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_counts_for_some_step() {
        let scripts = workspace::root().join("images/scripts");
        assert_eq!(
            script_hashes(&scripts).unwrap().len(),
            SCRIPT_ARGUMENTS.len()
        );
        let known: Vec<&str> = SCRIPT_ARGUMENTS
            .iter()
            .flat_map(|(_, files)| *files)
            .copied()
            .collect();
        for directory in ["", "programs/"] {
            for entry in fs_err::read_dir(scripts.join(directory)).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{directory}{}", entry.file_name().to_string_lossy());
                assert!(
                    entry.path().is_dir() || known.contains(&name.as_str()),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn only_an_image_layout_or_nothing_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let layout = directory.path().join("layout");
        fs_err::create_dir_all(&layout).unwrap();
        fs_err::write(layout.join("oci-layout"), "{}").unwrap();
        let output = directory.path().join("out");
        replace(&layout, &output).unwrap();
        fs_err::write(output.join("old"), "").unwrap();
        replace(&layout, &output).unwrap();
        assert!(output.join("oci-layout").exists() && !output.join("old").exists());
        let other = directory.path().join("other");
        fs_err::create_dir_all(&other).unwrap();
        fs_err::write(other.join("precious"), "").unwrap();
        assert!(replace(&layout, &other).is_err());
        assert!(other.join("precious").exists());
    }
}
