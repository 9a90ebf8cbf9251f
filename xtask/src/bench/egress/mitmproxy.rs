//! The peer mitmproxy, from the Python package index, in a virtual environment of the checkout's cache: the newest that
//! runs on this Python.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::way::Running;
use crate::{shell, workspace};

/// Interpreters to try, the best first: mitmproxy 12 needs Python 3.12.
const PYTHONS: [&str; 4] = ["python3.14", "python3.13", "python3.12", "python3"];

/// Bodies go on as they come, as the egress has it.
const ADDON: &str = "def requestheaders(flow):\n    flow.request.stream = True\n\n\
    def responseheaders(flow):\n    flow.response.stream = True\n";

/// How often it is looked whether it listens, and how long between two looks.
const LOOKS: u32 = 600;
const PAUSE: Duration = Duration::from_millis(50);

/// An installation.
pub(super) struct Mitmproxy {
    program: PathBuf,
    version: String,
}

impl Mitmproxy {
    /// What is installed; does so when nothing is.
    ///
    /// # Errors
    /// When there is no Python or the index does not have it.
    pub(super) fn install() -> Result<Self> {
        let runs = |python: &str| shell::output(Command::new(python).args(["-c", ""])).is_ok();
        let python = PYTHONS.iter().find(|python| runs(python));
        let python = python.context("no Python")?;
        let home = workspace::cache(&format!("mitmproxy-{python}"));
        let program = home.join("bin/mitmdump");
        if !program.is_file() {
            shell::output(Command::new(python).args(["-m", "venv"]).arg(&home))?;
            let mut pip = Command::new(home.join("bin/pip"));
            shell::output(pip.args(["install", "--quiet", "mitmproxy"]))?;
        }
        let said = shell::output(Command::new(&program).arg("--version"))?;
        let version = said
            .lines()
            .find_map(|line| line.strip_prefix("Mitmproxy:"));
        Ok(Self {
            version: version
                .context("mitmdump has no version")?
                .trim()
                .to_owned(),
            program,
        })
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// The certificate of its authority, which it makes when it first starts with `directory`.
    pub(super) fn authority(directory: &Path) -> PathBuf {
        directory.join("mitmproxy-ca-cert.pem")
    }

    /// Starts it; gives its address.
    ///
    /// # Errors
    /// When it does not listen.
    pub(super) fn start(&self, directory: &Path) -> Result<(Running, String)> {
        let addon = directory.join("streams.py");
        fs_err::write(&addon, ADDON)?;
        // It does not say which port it took.
        let free = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = free.local_addr()?;
        drop(free);
        let mut command = Command::new(&self.program);
        command.args(["--quiet", "--ssl-insecure", "--listen-host", "127.0.0.1"]);
        command.args(["--listen-port", &address.port().to_string()]);
        let confdir = format!("confdir={}", directory.display());
        command.args(["--set", &confdir, "--scripts"]).arg(addon);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start mitmdump")?;
        let mut running = Running(child);
        for _ in 0..LOOKS {
            if std::net::TcpStream::connect(address).is_ok() {
                return Ok((running, address.to_string()));
            }
            if let Some(status) = running.0.try_wait()? {
                bail!("mitmdump ended with {status}");
            }
            std::thread::sleep(PAUSE);
        }
        bail!("mitmdump does not listen")
    }
}
