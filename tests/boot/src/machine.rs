//! One test's machine: a home of its own, a project, and what `agent-vm` needs to find.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use agent_vm_test_support::upstream::{Upstream, UpstreamConfig};
use anyhow::{Context as _, Result};

use crate::processes::{children, command_line};
use crate::{AgentVm, IMAGE_VARIABLE, STORE_VARIABLE};

/// The user `agent-vm` runs as when the test itself is root.
const USER_ID: u32 = 1000;

/// Uses each credential once, as the agent would, and in `hold` mode stays until the project has a file `end`.
const STAND_IN_CLAUDE: &str = r#"#!/bin/sh
for argument in "$@"; do printf '<%s> ' "$argument"; done; echo
case $BOOT_TEST in
hold)
  token=$(sed -n 's/.*"accessToken": *"\([^"]*\)".*/\1/p' "$HOME/.claude/.credentials.json")
  curl -sS -X POST https://api.anthropic.com/v1/messages -H "Authorization: Bearer $token"
  curl -sS https://api.example.test/ -H "Authorization: Bearer $TOK"
  echo holding
  while [ ! -e end ]; do sleep 0.1; done;;
key)
  curl -sS https://api.anthropic.com/v1/messages -H "x-api-key: $ANTHROPIC_API_KEY";;
esac
"#;

/// A home directory with everything below it, removed at the end.
#[derive(Debug)]
pub struct Machine {
    directory: tempfile::TempDir,
    image: String,
    store: PathBuf,
}

impl Machine {
    /// A machine with an empty home.
    ///
    /// # Errors
    /// When the runner did not name the image, or the home cannot be made.
    pub fn new() -> Result<Self> {
        let image = std::env::var(IMAGE_VARIABLE).with_context(|| {
            format!("{IMAGE_VARIABLE} is not set: run the boot tests by `cargo xtask boot`")
        })?;
        let store = PathBuf::from(std::env::var_os(STORE_VARIABLE).context(STORE_VARIABLE)?);
        let base = if Path::new("/home/user").is_dir() {
            "/home/user"
        } else {
            "/var/tmp"
        };
        let directory = tempfile::Builder::new().prefix("boot-").tempdir_in(base)?;
        let machine = Self {
            directory,
            image,
            store,
        };
        for part in ["home", "project", "runtime"] {
            machine.make_directory(&machine.directory.path().join(part))?;
        }
        machine.give_to_user(machine.directory.path())?;
        Ok(machine)
    }

    /// The home directory of the user.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// The project directory.
    #[must_use]
    pub fn project(&self) -> PathBuf {
        self.directory.path().join("project")
    }

    /// The image the cases boot.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The same image with many layers on top: `agent_vm_test_support::layered_image`.
    #[must_use]
    pub fn layered_image(&self) -> String {
        self.image.replace("agent-vm/small", "agent-vm/layered")
    }

    /// The prepared image store.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// Makes a directory that belongs to the user.
    ///
    /// # Errors
    /// As from the file system.
    pub fn make_directory(&self, path: &Path) -> Result<()> {
        fs_err::create_dir_all(path)?;
        self.give_to_user(path)
    }

    /// Writes a file that belongs to the user.
    ///
    /// # Errors
    /// As from the file system.
    pub fn write(&self, path: &Path, content: &str, mode: u32) -> Result<()> {
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            self.make_directory(parent)?;
        }
        fs_err::write(path, content)?;
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        self.give_to_user(path)
    }

    fn give_to_user(&self, path: &Path) -> Result<()> {
        if is_root() {
            std::os::unix::fs::chown(path, Some(USER_ID), Some(USER_ID))
                .with_context(|| format!("cannot give {} to the user", path.display()))?;
        }
        Ok(())
    }

    /// `agent-vm ARGUMENTS` run by the user in the project directory.
    #[must_use]
    pub fn agent_vm<S: AsRef<str>>(&self, arguments: &[S]) -> AgentVm {
        AgentVm::new(self, arguments)
    }

    /// `agent-vm run --image IMAGE OPTIONS -- sh -c SCRIPT`.
    #[must_use]
    pub fn script(&self, options: &[&str], script: &str) -> AgentVm {
        let mut arguments = vec!["run", "--image", self.image.as_str()];
        arguments.extend_from_slice(options);
        arguments.extend_from_slice(&["--", "sh", "-c", script]);
        self.agent_vm(&arguments)
    }

    /// A fake HTTPS upstream on the machine's loopback for these names.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn upstream(&self, names: &[&str]) -> Result<Upstream> {
        Upstream::start(UpstreamConfig {
            tls_listen: "127.0.0.1:0".parse()?,
            plain_listen: Some("127.0.0.1:0".parse()?),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            log: self.directory.path().join("upstream.jsonl"),
            ca_dir: self.directory.path().to_path_buf(),
        })
    }

    /// All audit lines of this machine's sessions, in file order.
    ///
    /// # Errors
    /// When there is no audit log or a line of it is broken.
    pub fn audit_log(&self) -> Result<Vec<serde_json::Value>> {
        let mut events = Vec::new();
        let mut pending = vec![self.home().join(".local/state/agent-vm")];
        let mut logs = 0;
        while let Some(directory) = pending.pop() {
            for entry in fs_err::read_dir(&directory)? {
                let path = entry?.path();
                if path.is_dir() {
                    pending.push(path);
                } else if path
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().contains("audit"))
                {
                    logs += 1;
                    events.extend(agent_vm_test_support::upstream::read_log(&path)?);
                }
            }
        }
        anyhow::ensure!(logs > 0, "there is no audit log");
        Ok(events)
    }

    /// A program the tests put in place of an agent: shows its arguments, then does what `BOOT_TEST` says with the
    /// placeholders it was given. Gives the `--mount` that places it.
    ///
    /// # Errors
    /// As from the file system.
    pub fn stand_in_claude(&self) -> Result<String> {
        let path = self.home().join("stand-in-claude");
        self.write(&path, STAND_IN_CLAUDE, 0o755)?;
        Ok(format!("{}:/usr/local/bin/claude:ro", path.display()))
    }

    /// The file with the authority of [`Machine::upstream`].
    #[must_use]
    pub fn upstream_ca(&self) -> PathBuf {
        self.directory.path().join("upstream-ca.pem")
    }
}

/// The virtual machine monitor of a launcher: its only child called `__vmm`.
///
/// # Errors
/// When there is none.
pub fn vmm_of(launcher: u32) -> Result<u32> {
    let is_vmm = |pid: &u32| command_line(*pid).iter().any(|word| word == "__vmm");
    let vmm = children(launcher).find(is_vmm);
    vmm.with_context(|| format!("process {launcher} has no child `__vmm`"))
}

/// Whether this process is root, so that `agent-vm` is run as another user.
#[must_use]
pub(crate) fn is_root() -> bool {
    fs_err::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")))
}
