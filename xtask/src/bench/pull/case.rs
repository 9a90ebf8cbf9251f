//! Who pulls: we, and what people would use otherwise. Each starts with nothing and keeps everything in one directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::{shell, workspace};

/// The peer's release, as its Python wheel has it.
const MSB_VERSION: &str = "0.7.11";
const MSB_PLATFORM: &str = "manylinux_2_28_x86_64";
const MSB_WHEEL_SHA256: &str = "65f1e4bbf8d721c9f7f557329fb6c8cf41f554c1c6942eac8b941198fa283fe0";

/// Debian packages of the other peers and of the measurement.
pub(super) const NEEDED: &[(&str, &str)] = &[
    ("time", "time"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("buildah", "buildah"),
    ("mkfs.erofs", "erofs-utils"),
];

/// Copies, unpacks and makes one file system, the way it is done by hand.
const UMOCI_SCRIPT: &str = r#"set -e
skopeo copy --quiet --src-tls-verify=false "docker://$IMAGE" "oci:$WORK/layout:image"
umoci unpack --image "$WORK/layout:image" "$WORK/bundle"
mkfs.erofs "$WORK/result.erofs" "$WORK/bundle/rootfs""#;

/// One way to get an image; the gzip ones and umoci's take the one with gzip layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Case {
    AgentVm,
    AgentVmGzip,
    Msb,
    MsbGzip,
    Umoci,
    Buildah,
}

/// What cases are made of.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) agent_vm: PathBuf,
    pub(super) msb: PathBuf,
}

/// The references of the image, by compression.
#[derive(Debug)]
pub(super) struct Images {
    pub(super) zstd: String,
    pub(super) gzip: Option<String>,
}

impl Case {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AgentVm => "agent-vm pull",
            Self::AgentVmGzip => "agent-vm pull (gzip)",
            Self::Msb => "msb pull",
            Self::MsbGzip => "msb pull (gzip)",
            Self::Umoci => "skopeo + umoci + mkfs.erofs (gzip)",
            Self::Buildah => "buildah pull",
        }
    }

    /// The cases there is an image for.
    pub(super) fn all(images: &Images) -> Vec<Self> {
        let mut all = vec![Self::AgentVm, Self::Msb, Self::Buildah];
        if images.gzip.is_some() {
            all.extend([Self::AgentVmGzip, Self::MsbGzip, Self::Umoci]);
        }
        all
    }

    fn image(self, images: &Images) -> Option<&str> {
        match self {
            Self::AgentVm | Self::Msb | Self::Buildah => Some(&images.zstd),
            Self::AgentVmGzip | Self::MsbGzip | Self::Umoci => images.gzip.as_deref(),
        }
    }

    /// The command that pulls into `directory`.
    pub(super) fn command(
        self,
        programs: &Programs,
        images: &Images,
        directory: &Path,
    ) -> Result<Command> {
        let image = self.image(images).context("there is no such image")?;
        let mut command = match self {
            Self::AgentVm | Self::AgentVmGzip => agent_vm(programs, image, directory),
            Self::Msb | Self::MsbGzip => {
                let mut command = Command::new(&programs.msb);
                command.args(["pull", "--quiet", "--insecure", image]);
                command.env("MSB_HOME", directory.join("msb"));
                command
            }
            Self::Umoci => {
                let mut command = Command::new("sh");
                command
                    .args(["-c", UMOCI_SCRIPT])
                    .env("IMAGE", image)
                    .env("WORK", directory);
                command
            }
            Self::Buildah => {
                let mut command = Command::new("buildah");
                command
                    .args(["--storage-driver", "overlay", "--root"])
                    .arg(directory.join("root"))
                    .arg("--runroot")
                    .arg(directory.join("run"))
                    .args(["pull", "--quiet", "--tls-verify=false", image]);
                command
            }
        };
        command.env("HOME", directory);
        Ok(command)
    }

    /// What of `directory` is the result: what a launch would need, nothing that is only in between.
    pub(super) fn result(self, directory: &Path) -> PathBuf {
        match self {
            Self::Umoci => directory.join("result.erofs"),
            Self::AgentVm | Self::AgentVmGzip | Self::Msb | Self::MsbGzip | Self::Buildah => {
                directory.to_owned()
            }
        }
    }
}

/// Our command with its store in `directory`.
pub(super) fn agent_vm(programs: &Programs, image: &str, directory: &Path) -> Command {
    let mut command = Command::new(&programs.agent_vm);
    command
        .args(["pull", image])
        .env("HOME", directory)
        .env("XDG_DATA_HOME", directory.join("data"))
        .env("XDG_STATE_HOME", directory.join("state"));
    command
}

/// The peer's program, from its wheel, kept below `target/`.
///
/// # Errors
/// When pip has no such wheel, or it is another one.
pub(super) fn msb() -> Result<PathBuf> {
    let directory = workspace::cache("bench").join(format!("microsandbox-{MSB_VERSION}"));
    let program = directory.join("microsandbox/_bundled/bin/msb");
    if program.is_file() {
        return Ok(program);
    }
    let scratch = tempfile::tempdir()?;
    let pip = shell::find("pip").or_else(|| shell::find("pip3"));
    let mut download = Command::new(pip.context("no pip here")?);
    download
        .args(["download", "--quiet", "--no-deps", "--only-binary", ":all:"])
        .args(["--disable-pip-version-check", "--platform", MSB_PLATFORM])
        .args(["--python-version", "3.11", "--dest"])
        .arg(scratch.path())
        .arg(format!("microsandbox=={MSB_VERSION}"));
    shell::output(&mut download)?;
    let wheel = fs_err::read_dir(scratch.path())?
        .next()
        .context("pip left no wheel")??
        .path();
    ensure!(
        shell::sha256(&wheel)? == MSB_WHEEL_SHA256,
        "the wheel of microsandbox {MSB_VERSION} is not the pinned one"
    );
    fs_err::create_dir_all(&directory)?;
    let mut unpack = Command::new("python3");
    unpack
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&directory);
    shell::output(&mut unpack)?;
    // zipfile keeps no permissions.
    shell::output(Command::new("chmod").arg("755").arg(&program))?;
    Ok(program)
}
