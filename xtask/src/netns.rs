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
    let name = format!("avm{}", std::process::id());
    let tap = ffi::open_tap(&name, ffi::Offload::Segments)?;
    let socket = directory.path().join("link");
    let listener = UnixListener::bind(&socket)?;
    let mut link = Link(
        shell::tool(agent_vm.to_str().context("path of agent-vm")?)
            .arg("__link")
            .arg(&socket)
            .args(&arguments.launch)
            .current_dir(&arguments.project)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start agent-vm")?,
    );
    let Some(stream) = accept(&listener, &mut link)? else {
        return Ok(ExitCode::from(125));
    };
    send_descriptor(&stream, tap)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let view: GuestView =
        serde_json::from_str(&line).context("agent-vm did not describe the guest")?;
    let namespace = Namespace::make(&name, &view)?;
    let status = run_command(&namespace, &view, directory.path(), &arguments.project)?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
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
        drop(shell::run(
            shell::tool("ip").args(["netns", "del", &self.0]),
        ));
    }
}

/// Runs the command with a home, a resolver and a trust store of the guest's; gives its exit code.
fn run_command(
    namespace: &Namespace,
    view: &GuestView,
    directory: &Path,
    project: &Path,
) -> Result<i32> {
    let home = directory.join("home");
    for file in &view.files {
        let path = home.join(file.path.trim_start_matches("/root/"));
        fs_err::create_dir_all(path.parent().context("a file has a directory")?)?;
        fs_err::write(
            &path,
            base64::engine::general_purpose::STANDARD.decode(&file.content_base64)?,
        )?;
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(file.mode))?;
    }
    fs_err::create_dir_all(&home)?;
    let bundle = directory.join("bundle.pem");
    let system = fs_err::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    fs_err::write(&bundle, format!("{system}\n{}", view.ca_pem))?;
    fs_err::write(directory.join("ca.pem"), &view.ca_pem)?;
    let search = match &view.search[..] {
        [] => String::new(),
        domains => format!("search {}\n", domains.join(" ")),
    };
    let server = format!("nameserver {}\n", view.gateway_v4);
    let options = format!("options edns0 trust-ad ndots:{}\n", view.ndots);
    fs_err::write(
        directory.join("resolv.conf"),
        format!("{server}{search}{options}"),
    )?;
    let script = "mount --bind \"$0/bundle.pem\" /etc/ssl/certs/ca-certificates.crt && \
        mount --bind \"$0/resolv.conf\" \"$(readlink -f /etc/resolv.conf)\" && exec \"$@\"";
    let mut command = shell::tool("ip");
    command.args([
        "netns",
        "exec",
        &namespace.0,
        "unshare",
        "--mount",
        "sh",
        "-c",
        script,
    ]);
    command
        .arg(directory)
        .args(&view.argv)
        .current_dir(project)
        .env_clear();
    command.envs(view.env.iter().map(|(name, value)| (name, value)));
    command
        .env("HOME", &home)
        .env("NODE_EXTRA_CA_CERTS", directory.join("ca.pem"));
    let search = std::env::var_os("PATH").unwrap_or_default();
    let status = command
        .env("PATH", search)
        .status()
        .context("cannot start the command")?;
    Ok(status.code().unwrap_or(1))
}
