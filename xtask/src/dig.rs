//! `dig`: the DNS corpus, asked with real `dig` behind the real gateway, in the namespace of `netns`; needs root.
//!
//! The host's resolver settings are replaced for the run by ones that name a server of our own, which knows a record of
//! every kind (`crates/gateway/examples/name_server.rs`); the expectations are in `dig.sh`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{build, shell};

/// The task.
///
/// # Errors
/// When something cannot be started; a failed expectation is the exit code.
pub(crate) fn run() -> Result<ExitCode> {
    if shell::find("dig").is_none() {
        bail!("there is no dig: install bind9-dnsutils");
    }
    let directory = tempfile::Builder::new().prefix("dig-").tempdir()?;
    let _server = NameServer::start(directory.path().join("questions").as_path())?;
    let (settings, script) = (
        directory.path().join("resolv.conf"),
        directory.path().join("dig.sh"),
    );
    let text = format!("nameserver {SERVER}\nsearch corpus.test\n");
    fs_err::write(&settings, text)?;
    fs_err::write(&script, include_str!("dig.sh"))?;
    // A mount namespace of our own: only this run sees the settings.
    let mount = "mount --bind \"$0\" \"$(readlink -f /etc/resolv.conf)\" && exec \"$@\"";
    let mut command = shell::tool("unshare");
    command.args(["--mount", "sh", "-c", mount]).arg(&settings);
    command.arg(std::env::current_exe()?).args(["netns", "--"]);
    // A host with a credential is intercepted.
    command.args(["--secret", "TOK@api.corpus.test", "--", "sh"]);
    command.arg(&script).arg(directory.path().join("questions"));
    let status = command
        .env("TOK", "not-a-secret")
        .status()
        .context("cannot start unshare")?;
    Ok(ExitCode::from(if status.success() { 0 } else { 1 }))
}

/// The name server; killed when dropped.
struct NameServer(Child);

impl NameServer {
    fn start(log: &std::path::Path) -> Result<Self> {
        let program = build::example("agent-vm-gateway", "name_server")?;
        let child = Command::new(program)
            .arg(format!("{SERVER}:53"))
            .stdin(Stdio::null())
            .stdout(fs_err::File::create(log)?.into_parts().0)
            .spawn()
            .context("cannot start the name server")?;
        let mut server = Self(child);
        for _ in 0..LOOKS {
            let mut line = String::new();
            BufReader::new(fs_err::File::open(log)?).read_line(&mut line)?;
            if line.ends_with('\n') {
                return Ok(server);
            }
            if let Some(status) = server.0.try_wait()? {
                bail!("the name server ended with {status}");
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        bail!("the name server does not listen");
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// An address of the loopback that nothing else uses.
const SERVER: &str = "127.66.0.53";

/// How often it is looked whether the name server listens.
const LOOKS: u32 = 1_000;
