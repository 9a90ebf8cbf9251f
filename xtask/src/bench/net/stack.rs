//! The stacks that are measured: each with a namespace of its own as its guest.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use super::world::{Namespace, Running, World, address, join, wait_for};
use crate::bench::process;
use crate::netns::ffi::{Offload, open_tap};
use crate::shell;

/// A way from the guest to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Kind {
    /// Our gateway on the guest's TAP device.
    Ours,
    /// As `ours`, built elsewhere.
    Other,
    /// Our gateway behind a virtual machine's network worker.
    OursSocket,
    /// Our gateway on a stream socket, behind the same worker as passt.
    OursStream,
    /// As `ours`, with many idle connections.
    OursCrowded,
    /// passt behind a virtual machine's network worker.
    Passt,
    /// The same program on the guest's TAP device.
    Pasta,
    /// slirp4netns on the guest's TAP device.
    Slirp4netns,
    /// A veth pair: the kernel alone.
    Veth,
}

impl Kind {
    pub(super) const ALL: &[Self] = &[
        Self::Ours,
        Self::Other,
        Self::OursSocket,
        Self::OursStream,
        Self::OursCrowded,
        Self::Passt,
        Self::Pasta,
        Self::Slirp4netns,
        Self::Veth,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Other => "other",
            Self::OursSocket => "ours-socket",
            Self::OursStream => "ours-stream",
            Self::OursCrowded => "ours-crowded",
            Self::Passt => "passt",
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
            Self::Veth => "veth",
        }
    }
}

/// Connections that stay idle behind [`Kind::OursCrowded`].
const CROWD: &str = "5000";

/// A stack at work with its guest.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) kind: Kind,
    /// MTU of its guest.
    pub(super) mtu: u32,
    pub(super) guest: Namespace,
    /// Where the guest finds the servers.
    pub(super) server: IpAddr,
    /// The process whose cost is measured.
    process: Option<Running>,
    _others: Vec<Running>,
    _crowd: Option<Running>,
}

/// A TAP device as the guest's: its addresses, the router's, where the servers are.
struct Card {
    setup: &'static [&'static str],
    offload: Offload,
    server: [u8; 4],
}

/// As `GatewayConfig::default()` of the gateway has it; every address leads to the host.
const OURS: Card = Card {
    setup: &[
        "link set tap0 address 02:76:6d:00:00:02",
        "addr add 10.118.0.2/30 dev tap0",
        "link set tap0 up",
        "route add default via 10.118.0.1",
    ],
    offload: Offload::Segments,
    server: [203, 0, 113, 1],
};

/// As passt is told below; its gateway is the host's loopback.
const PASST: Card = Card {
    setup: &[
        "addr add 10.0.2.15/24 dev tap0",
        "link set tap0 up",
        "route add default via 10.0.2.2",
    ],
    offload: Offload::Checksums,
    server: [10, 0, 2, 2],
};

/// As `cargo xtask gateway --allow-host` has it.
const STREAM: Card = Card {
    setup: &[
        "addr add 198.18.9.2/24 dev tap0",
        "link set tap0 up",
        "route add default via 198.18.9.1",
    ],
    offload: Offload::Segments,
    server: [198, 18, 9, 1],
};

/// What passt and pasta are both told.
const PASST_ARGUMENTS: &[&str] = &[
    "-f",
    "-4",
    "--runas",
    "0",
    "-t",
    "none",
    "-u",
    "none",
    "-a",
    "10.0.2.15",
    "-n",
    "24",
    "-g",
    "10.0.2.2",
];

impl Stack {
    /// Starts a stack and its guest with this MTU.
    pub(super) fn start(world: &World, kind: Kind, mtu: u32) -> Result<Self> {
        let guest = Namespace::make(&format!("{}-{mtu}", kind.name()))?;
        let mut stack = match kind {
            Kind::Ours => Self::ours(world, guest, mtu),
            Kind::Other => Self::other(world, guest, mtu),
            Kind::OursSocket => Self::ours_socket(world, guest, mtu),
            Kind::OursStream => Self::ours_stream(world, guest, mtu),
            Kind::OursCrowded => Self::ours(world, guest, mtu)?.crowded(world),
            Kind::Passt => Self::passt(world, guest, mtu),
            Kind::Pasta => Self::pasta(world, guest, mtu),
            Kind::Slirp4netns => Self::slirp4netns(world, guest, mtu),
            Kind::Veth => Self::veth(world, guest, mtu),
        }?;
        stack.mtu = mtu;
        Ok(stack)
    }

    fn new(kind: Kind, guest: Namespace, server: [u8; 4], process: Option<Running>) -> Self {
        let server = address(server);
        Self {
            kind,
            mtu: 0,
            guest,
            server,
            process,
            _others: Vec::new(),
            _crowd: None,
        }
    }

    fn ours(world: &World, guest: Namespace, mtu: u32) -> Result<Self> {
        Self::on_tap(
            Kind::Ours,
            world.host.command(&world.programs.gateway),
            guest,
            mtu,
        )
    }

    fn other(world: &World, guest: Namespace, mtu: u32) -> Result<Self> {
        let program = world
            .programs
            .other
            .as_deref()
            .context("--other PATH is needed")?;
        Self::on_tap(Kind::Other, world.host.command(program), guest, mtu)
    }

    fn on_tap(kind: Kind, mut gateway: Command, guest: Namespace, mtu: u32) -> Result<Self> {
        let tap = tap(&guest, &OURS, mtu)?;
        let process = Running::start(gateway.arg(mtu.to_string()).stdin(File::from(tap)))?;
        Ok(Self::new(kind, guest, OURS.server, Some(process)))
    }

    fn ours_socket(world: &World, guest: Namespace, mtu: u32) -> Result<Self> {
        let tap = tap(&guest, &OURS, mtu)?;
        let (near, far) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        let mut gateway = world.host.command(&world.programs.gateway);
        let process = Running::start(gateway.arg(mtu.to_string()).stdin(File::from(near)))?;
        let mut pump = world.host.command(&world.programs.pump);
        pump.arg("messages")
            .stdin(File::from(tap))
            .stdout(File::from(far));
        let mut stack = Self::new(Kind::OursSocket, guest, OURS.server, Some(process));
        stack._others.push(Running::start(&mut pump)?);
        Ok(stack)
    }

    fn crowded(mut self, world: &World) -> Result<Self> {
        self.kind = Kind::OursCrowded;
        let mut crowd = self.guest.command(&world.programs.load);
        let address = self.server.to_string();
        crowd.args([
            "hold",
            CROWD,
            "64",
            &address,
            &super::world::PORT.to_string(),
        ]);
        let log = world.socket("crowd");
        let output = fs_err::File::create(&log)?.into_file();
        self._crowd = Some(Running::start(crowd.stdin(Stdio::piped()).stdout(output))?);
        wait_for("the crowd", || {
            fs_err::read_to_string(&log).is_ok_and(|said| said.contains("held"))
        })?;
        Ok(self)
    }

    fn ours_stream(world: &World, guest: Namespace, mtu: u32) -> Result<Self> {
        let socket = world.socket(&format!("ours-{mtu}"));
        let mut gateway = world.host.command(&world.programs.gateway);
        gateway.arg("--listen").arg(&socket);
        gateway.args(["--mtu", &mtu.to_string(), "--tso", "--allow-host"]);
        Self::behind_worker(
            world,
            (Kind::OursStream, &STREAM),
            guest,
            (gateway, socket),
            mtu,
        )
    }

    fn passt(world: &World, guest: Namespace, mtu: u32) -> Result<Self> {
        let socket = world.socket(&format!("passt-{mtu}"));
        let mut passt = world.host.command(Path::new("passt"));
        passt
            .args(PASST_ARGUMENTS)
            .args(["-m", &mtu.to_string(), "-s"])
            .arg(&socket);
        Self::behind_worker(world, (Kind::Passt, &PASST), guest, (passt, socket), mtu)
    }

    /// A stack that listens on a stream socket, with the worker that connects to it.
    fn behind_worker(
        world: &World,
        (kind, card): (Kind, &Card),
        guest: Namespace,
        (mut command, socket): (Command, PathBuf),
        mtu: u32,
    ) -> Result<Self> {
        let tap = tap(&guest, card, mtu)?;
        let process = Running::start(command.stdin(Stdio::null()))?;
        wait_for(kind.name(), || socket.exists())?;
        let mut pump = world.host.command(&world.programs.pump);
        pump.arg("framed").arg(&socket).stdin(File::from(tap));
        let mut stack = Self::new(kind, guest, card.server, Some(process));
        stack._others.push(Running::start(&mut pump)?);
        Ok(stack)
    }

    fn pasta(world: &World, guest: Namespace, mtu: u32) -> Result<Self> {
        let mut pasta = world.host.command(Path::new("pasta"));
        pasta.args(PASST_ARGUMENTS).args([
            "-T",
            "none",
            "-U",
            "none",
            "-I",
            "tap0",
            "--config-net",
        ]);
        pasta.args([
            "--netns-only",
            "-m",
            &mtu.to_string(),
            "--netns",
            &guest.path(),
        ]);
        let process = Running::start(pasta.stdin(Stdio::null()).stdout(Stdio::null()))?;
        wait_for("pasta's device", || guest.ip("route get 10.0.2.2").is_ok())?;
        guest.ip(&format!("link set tap0 mtu {mtu}"))?;
        Ok(Self::new(Kind::Pasta, guest, PASST.server, Some(process)))
    }

    fn slirp4netns(world: &World, guest: Namespace, mtu: u32) -> Result<Self> {
        let mut slirp = world.host.command(Path::new("slirp4netns"));
        slirp.args([
            "--configure",
            &format!("--mtu={mtu}"),
            "--netns-type=path",
            &guest.path(),
            "tap0",
        ]);
        let process = Running::start(slirp.stdin(Stdio::null()).stdout(Stdio::null()))?;
        wait_for("slirp4netns's device", || {
            guest.ip("route get 10.0.2.2").is_ok()
        })?;
        Ok(Self::new(
            Kind::Slirp4netns,
            guest,
            PASST.server,
            Some(process),
        ))
    }

    fn veth(world: &World, guest: Namespace, mtu: u32) -> Result<Self> {
        let third = if mtu > 1_500 { 1 } else { 2 };
        let [near, far] = [1, 2].map(|last| Ipv4Addr::new(10, 201, third, last));
        join(&world.host, &guest, mtu, [near, far])?;
        Ok(Self::new(Kind::Veth, guest, near.octets(), None))
    }

    /// Processor time the stack has used so far, in seconds.
    pub(super) fn cpu_seconds(&self) -> Result<Option<f64>> {
        let Some(process) = &self.process else {
            return Ok(None);
        };
        process::cpu_seconds(process.id()).map(Some)
    }

    /// Descriptors the stack has open.
    pub(super) fn descriptors(&self) -> Result<usize> {
        let process = self.process.as_ref().context("a stack without a process")?;
        Ok(fs_err::read_dir(format!("/proc/{}/fd", process.id()))?.count())
    }

    /// Memory the stack has in use, in bytes.
    pub(super) fn resident_bytes(&self) -> Result<Option<f64>> {
        let Some(process) = &self.process else {
            return Ok(None);
        };
        process::resident_bytes(process.id()).map(Some)
    }
}

/// A TAP device in the guest's namespace, set up; its other end.
fn tap(guest: &Namespace, card: &Card, mtu: u32) -> Result<OwnedFd> {
    let name = format!("avmb{}", std::process::id());
    let tap = open_tap(&name, card.offload)?;
    shell::output(
        shell::tool("ip").args(["link", "set", &name, "netns", &guest.0, "name", "tap0"]),
    )?;
    guest.ip(&format!("link set tap0 mtu {mtu}"))?;
    for step in card.setup {
        guest.ip(step)?;
    }
    Ok(tap)
}
