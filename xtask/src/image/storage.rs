//! buildah with a storage of our own: nothing of the user's containers is read or changed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::{setup, shell};

/// What building images needs.
const NEEDED: &[(&str, &str)] = &[
    ("buildah", "buildah"),
    ("mmdebstrap", "mmdebstrap"),
    (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
    ),
];

/// Where images and layers under construction lie.
#[derive(Debug)]
pub(crate) struct Storage {
    settings: PathBuf,
}

impl Storage {
    /// Opens the storage in `directory`, made when it is not there.
    ///
    /// # Errors
    /// When we are not root (layers hold files of other owners), or a tool cannot be installed.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        if !setup::is_root() {
            bail!(
                "building an image needs root; run: sudo -E env \"PATH=$PATH\" cargo xtask image …"
            );
        }
        setup::install_missing(NEEDED)?;
        fs_err::create_dir_all(directory)?;
        let settings = directory.join("storage.conf");
        let part = |name: &str| directory.join(name).display().to_string();
        fs_err::write(
            &settings,
            format!(
                "[storage]\ndriver = \"overlay\"\ngraphroot = {:?}\nrunroot = {:?}\n",
                part("graph"),
                part("run")
            ),
        )?;
        Ok(Self { settings })
    }

    /// Unmounts and removes what builds left in use; their layers stay for the next time.
    ///
    /// # Errors
    /// When buildah fails.
    pub(crate) fn release(&self) -> Result<()> {
        shell::output(self.buildah().args(["rm", "--all"])).map(drop)
    }

    /// Removes a storage with all that is in it, if there is one.
    ///
    /// # Errors
    /// When something of it is still in use.
    pub(crate) fn remove(directory: &Path) -> Result<()> {
        if !directory.exists() {
            return Ok(());
        }
        let settings = directory.join("storage.conf");
        if settings.exists() {
            Self { settings }.release()?;
        }
        // The storage driver mounts its directory onto itself; it may be unmounted already.
        for part in ["graph/overlay", "graph", "run"] {
            let part = directory.join(part);
            let mounted = fs_err::read_to_string("/proc/self/mountinfo")?;
            if mounted.split(' ').any(|word| Path::new(word) == part) {
                shell::output(shell::tool("umount").arg(&part))?;
            }
        }
        fs_err::remove_dir_all(directory)?;
        Ok(())
    }

    /// `buildah`.
    pub(crate) fn buildah(&self) -> Command {
        let mut command = shell::tool("buildah");
        command.env("CONTAINERS_STORAGE_CONF", &self.settings);
        command
    }
}
