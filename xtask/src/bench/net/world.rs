//! The namespace that is the host, its servers, and the programs everything is made of.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::shell;

/// First port of the servers.
pub(super) const PORT: u16 = 900;

/// Programs of ours, built for release.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) gateway: PathBuf,
    pub(super) other: Option<PathBuf>,
    pub(super) load: PathBuf,
    pub(super) pump: PathBuf,
}

/// The host of the benchmark.
#[derive(Debug)]
pub(super) struct World {
    pub(super) programs: Programs,
    pub(super) host: Namespace,
    _servers: Running,
    /// Keeps the route of the host alive.
    _beyond: Namespace,
    directory: tempfile::TempDir,
}

impl World {
    pub(super) fn make(programs: Programs) -> Result<Self> {
        let host = Namespace::make("host")?;
        let beyond = Namespace::make("beyond")?;
        // The peers want a host with a route to somewhere.
        join(
            &host,
            &beyond,
            1_500,
            [Ipv4Addr::new(10, 200, 0, 1), Ipv4Addr::new(10, 200, 0, 2)],
        )?;
        host.ip("route add default via 10.200.0.2")?;
        for setting in [
            "net.ipv4.ip_local_port_range=1024 65535",
            "net.core.somaxconn=4096",
        ] {
            shell::output(host.command(Path::new("sysctl")).args(["-qw", setting]))?;
        }
        let mut serve = host.command(&programs.load);
        serve.args(["serve", &PORT.to_string()]);
        let servers = Running::start(&mut serve)?;
        let directory = tempfile::Builder::new().prefix("bench-net-").tempdir()?;
        Ok(Self {
            programs,
            host,
            _servers: servers,
            _beyond: beyond,
            directory,
        })
    }

    /// A path for a socket.
    pub(super) fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Joins two namespaces by a veth pair with these addresses.
pub(super) fn join(
    one: &Namespace,
    other: &Namespace,
    mtu: u32,
    addresses: [Ipv4Addr; 2],
) -> Result<()> {
    let [first, second] = [format!("{}v", other.short()), format!("{}w", other.short())];
    one.ip(&format!(
        "link add {first} mtu {mtu} type veth peer name {second} mtu {mtu}"
    ))?;
    one.ip(&format!("link set {second} netns {}", other.0))?;
    for (namespace, device, address) in
        [(one, &first, addresses[0]), (other, &second, addresses[1])]
    {
        namespace.ip(&format!("addr add {address}/30 dev {device}"))?;
        namespace.ip(&format!("link set {device} up"))?;
    }
    Ok(())
}

/// A network namespace; removed when dropped.
#[derive(Debug)]
pub(super) struct Namespace(pub(super) String);

impl Namespace {
    pub(super) fn make(name: &str) -> Result<Self> {
        let name = format!("avmb{}-{name}", std::process::id());
        shell::output(shell::tool("ip").args(["netns", "add", &name]))?;
        let namespace = Self(name);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs `ip` in it.
    pub(super) fn ip(&self, arguments: &str) -> Result<()> {
        shell::output(
            shell::tool("ip")
                .args(["-n", &self.0])
                .args(arguments.split(' ')),
        )
        .map(drop)
    }

    /// A command that runs in it; the process is the program itself.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = shell::tool("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    pub(super) fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// Part of a device's name.
    fn short(&self) -> String {
        let digits: String = self.0.bytes().map(|byte| format!("{byte:x}")).collect();
        let hash = digits.bytes().fold(7_u32, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(u32::from(byte))
        });
        format!("b{hash:08x}")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(shell::output(
            shell::tool("ip").args(["netns", "del", &self.0]),
        ));
    }
}

/// A process that is killed when dropped.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Running {
    /// Starts it without output.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_args().nth(3).map(|name| name.to_owned());
        let child = command.stderr(Stdio::null()).spawn();
        Ok(Self(
            child.with_context(|| format!("cannot start {name:?}"))?,
        ))
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Looks until something is there.
pub(super) fn wait_for(what: &str, found: impl Fn() -> bool) -> Result<()> {
    for _ in 0..LOOKS {
        if found() {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    anyhow::bail!("{what} did not come")
}

/// How often something is looked for, and how long between two looks.
const LOOKS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// The address by which a guest reaches the servers.
pub(super) fn address(octets: [u8; 4]) -> IpAddr {
    IpAddr::from(octets)
}
