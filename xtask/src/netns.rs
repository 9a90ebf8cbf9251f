//! `netns`: a command behind the real gateway and egress, without a virtual machine, at native speed.
//!
//! A network namespace is the guest: its only device is a TAP whose frames go to `agent-vm __link`, which is a launch
//! without its machine. The command sees the placeholders, the session's authority and the environment a guest would.

pub(crate) mod ffi;

use std::io::{BufRead as _, BufReader, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use clap::Args;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Deserialize;

use crate::{build, setup, shell};

#[derive(Debug, Args)]
pub(crate) struct NetnsArguments {
    /// The project directory.
    #[arg(long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// Flags of the launch, then `--` and the command.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    launch: Vec<String>,
}

/// What `agent-vm __link` tells of the guest it stands for.
#[derive(Debug, Deserialize)]
struct GuestView {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    files: Vec<GuestFile>,
    ca_pem: String,
    guest_address_v4: String,
    guest_address_v6: String,
    guest_mac: String,
    mtu: u32,
    gateway_v4: String,
    gateway_v6: String,
    search: Vec<String>,
    ndots: u8,
}

#[derive(Debug, Deserialize)]
struct GuestFile {
    path: String,
    mode: u32,
    content_base64: String,
}

/// The task: runs the command and takes over its status.
///
/// # Errors
/// When the namespace cannot be made or the launch is refused.
pub(crate) fn run(arguments: &NetnsArguments) -> Result<ExitCode> {
    setup::run()?;
    let agent_vm = build::agent_vm()?;
    let directory = tempfile::Builder::new().prefix("netns-").tempdir()?;
    let run = NetnsRun {
        agent_vm: &agent_vm,
        project: &arguments.project,
        launch: &arguments.launch,
        directory: directory.path(),
        host_env: None,
        said: None,
    };
    let status = run.run(&mut |_| Ok(()))?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}

/// One command behind the gateway.
pub(crate) struct NetnsRun<'a> {
    /// The program that is the launcher half.
    pub(crate) agent_vm: &'a Path,
    /// Where both halves start.
    pub(crate) project: &'a Path,
    /// Flags of the launch, `--`, the command.
    pub(crate) launch: &'a [String],
    /// An empty directory: `home` and `tmp` become the command's, the rest is what it sees of the system.
    pub(crate) directory: &'a Path,
    /// The environment of the launcher half; ours when absent.
    pub(crate) host_env: Option<&'a [(String, String)]>,
    /// Where the command's output goes: the files `stdout` and `stderr` of this directory; to ours when absent.
    pub(crate) said: Option<&'a Path>,
}

impl NetnsRun<'_> {
    /// Runs it and gives its status. `watch` is called again and again with the name of the namespace while it runs;
    /// its error ends the command.
    ///
    /// # Errors
    /// When the namespace cannot be made, or `watch` says so.
    pub(crate) fn run(&self, watch: &mut dyn FnMut(&str) -> Result<()>) -> Result<i32> {
        let name = format!("avm{}", std::process::id());
        let tap = ffi::open_tap(&name, ffi::Offload::Segments)?;
        let socket = self.directory.join("link");
        let listener = UnixListener::bind(&socket)?;
        let mut link = self.link(&socket)?;
        let Some(stream) = accept(&listener, &mut link)? else {
            return Ok(125);
        };
        send_descriptor(&stream, tap)?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        let view: GuestView =
            serde_json::from_str(&line).context("agent-vm did not describe the guest")?;
        let namespace = Namespace::make(&name, &view)?;
        let mut command = self.command(&namespace, &view)?;
        let mut child = Command(command.spawn().context("cannot start the command")?);
        loop {
            if let Some(status) = child.0.try_wait()? {
                return Ok(status.code().unwrap_or(1));
            }
            watch(&name)?;
            std::thread::sleep(WATCH_PAUSE);
        }
    }

    fn link(&self, socket: &Path) -> Result<Link> {
        let mut command = shell::tool(self.agent_vm.to_str().context("path of agent-vm")?);
        command.arg("__link").arg(socket).args(self.launch);
        if let Some(variables) = self.host_env {
            command.env_clear().envs(variables.iter().cloned());
        }
        if let Some(said) = self.said {
            command.stderr(fs_err::File::create(said.join("launcher"))?.into_parts().0);
        }
        let command = command.current_dir(self.project).stdin(Stdio::null());
        Ok(Link(command.spawn().context("cannot start agent-vm")?))
    }

    /// The command with a home, a resolver and the trust stores of the guest's.
    fn command(&self, namespace: &Namespace, view: &GuestView) -> Result<std::process::Command> {
        let home = self.directory.join("home");
        for part in ["home", "tmp", "etc", "etc.work", "share", "share.work"] {
            fs_err::create_dir_all(self.directory.join(part))?;
        }
        for file in &view.files {
            let path = home.join(file.path.trim_start_matches("/root/"));
            fs_err::create_dir_all(path.parent().context("a file has a directory")?)?;
            fs_err::write(
                &path,
                base64::engine::general_purpose::STANDARD.decode(&file.content_base64)?,
            )?;
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(file.mode))?;
        }
        fs_err::write(self.directory.join("ca.pem"), &view.ca_pem)?;
        fs_err::write(self.directory.join("resolv.conf"), resolver(view))?;
        let mut command = shell::tool("ip");
        command.args(["netns", "exec", &namespace.0, "unshare", "--mount"]);
        command.args(["sh", "-c", SYSTEM]).arg(self.directory);
        command.arg(std::env::current_exe()?).args(&view.argv);
        command.current_dir(self.project).env_clear();
        command.envs(view.env.iter().map(|(name, value)| (name, value)));
        let search = std::env::var_os("PATH").unwrap_or_default();
        command.env("HOME", &home).env("PATH", search);
        if let Some(said) = self.said {
            command.stdin(Stdio::null());
            command.stdout(fs_err::File::create(said.join("stdout"))?.into_parts().0);
            command.stderr(fs_err::File::create(said.join("stderr"))?.into_parts().0);
        }
        Ok(command)
    }
}

/// Makes the mount namespace a guest's system: `/etc` and the local certificates may be written without touching ours,
/// and get the session's authority by what PID 1 of a guest does.
const SYSTEM: &str = r#"set -e
mount -t overlay -o "lowerdir=/etc,upperdir=$0/etc,workdir=$0/etc.work" overlay /etc
mount -t overlay -o "lowerdir=/usr/local/share,upperdir=$0/share,workdir=$0/share.work" overlay /usr/local/share
mount --bind "$0/resolv.conf" "$(readlink -f /etc/resolv.conf)"
"$1" __guest-trust "$0/ca.pem"
shift
exec "$@"
"#;

/// How long between two looks at a running command.
const WATCH_PAUSE: Duration = Duration::from_millis(20);

/// The command; killed when dropped.
struct Command(Child);

impl Drop for Command {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
}

fn resolver(view: &GuestView) -> String {
    let search = match &view.search[..] {
        [] => String::new(),
        domains => format!("search {}\n", domains.join(" ")),
    };
    let server = format!("nameserver {}\n", view.gateway_v4);
    let options = format!("options edns0 trust-ad ndots:{}\n", view.ndots);
    format!("{server}{search}{options}")
}

/// Installs an authority into the stores of this mount namespace, by the code of the guest.
///
/// # Errors
/// When a store cannot be changed.
pub(crate) fn install_trust(pem: &Path) -> Result<()> {
    let tree = agent_vm_guest::tree::Tree::open("/")?;
    let problems = agent_vm_guest::trust::install(&tree, &fs_err::read(pem)?);
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}

/// The launcher half; ends when its connection is closed, else it is killed when dropped.
struct Link(Child);

/// How often a launcher half that shall end is looked at, and how long between two looks.
const END_LOOKS: u32 = 200;
const LOOK_PAUSE: Duration = Duration::from_millis(5);

impl Drop for Link {
    fn drop(&mut self) {
        for _ in 0..END_LOOKS {
            if let Ok(Some(_)) = self.0.try_wait() {
                return;
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits for `agent-vm` to connect; nothing when it ended instead, after it said why.
fn accept(listener: &UnixListener, link: &mut Link) -> Result<Option<UnixStream>> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(Some(stream));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if link.0.try_wait()?.is_some() {
            return Ok(None);
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

fn send_descriptor(stream: &UnixStream, descriptor: OwnedFd) -> Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(
        stream,
        &[IoSlice::new(b"t")],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    Ok(())
}

/// A network namespace with the TAP in it; removed when dropped.
struct Namespace(String);

impl Namespace {
    fn make(name: &str, view: &GuestView) -> Result<Self> {
        let ip = |arguments: &str| shell::run(shell::tool("ip").args(arguments.split(' ')));
        ip(&format!("netns add {name}"))?;
        let namespace = Self(name.to_owned());
        ip(&format!("link set {name} netns {name}"))?;
        for step in [
            "link set lo up".to_owned(),
            format!(
                "link set {name} address {} mtu {} up",
                view.guest_mac, view.mtu
            ),
            format!("addr add {} dev {name}", view.guest_address_v4),
            format!("-6 addr add {} dev {name} nodad", view.guest_address_v6),
            format!("route add default via {}", view.gateway_v4),
            format!("-6 route add default via {}", view.gateway_v6),
        ] {
            ip(&format!("-n {name} {step}"))?;
        }
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What the command left running would keep the namespace, and the cache of a run, in use.
        let left = shell::output(shell::tool("ip").args(["netns", "pids", &self.0]));
        let left = left.unwrap_or_default();
        for pid in left.lines().filter_map(|line| line.trim().parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        drop(shell::run(
            shell::tool("ip").args(["netns", "del", &self.0]),
        ));
    }
}
