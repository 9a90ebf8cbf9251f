//! The gateway on a stream socket: guests come one after the other.

use std::error::Error;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use agent_vm_gateway::{GatewayConfig, HostResolver, LinkAddresses};
use rustix::net::RecvFlags;

use super::{Way, serve};

/// What the command line says.
struct Settings<'a> {
    path: &'a Path,
    mtu: u16,
    large_frames: bool,
    allow_host: bool,
}

/// Serves until it is ended from outside.
pub(super) fn run(words: &[String]) -> Result<(), Box<dyn Error>> {
    let settings = parse(words)?;
    remove_stale(settings.path)?;
    let listener = UnixListener::bind(settings.path)
        .map_err(|error| format!("cannot listen on {}: {error}", settings.path.display()))?;
    eprintln!("listening on {}", settings.path.display());
    loop {
        let (stream, _) = listener.accept()?;
        // One guest's end is no reason not to serve the next.
        if let Err(error) = serve_guest(stream, &settings) {
            eprintln!("the guest's link broke: {error}");
        }
    }
}

fn serve_guest(stream: UnixStream, settings: &Settings<'_>) -> Result<(), Box<dyn Error>> {
    let Some(guest_mac) = first_sender(&stream)? else {
        return Ok(());
    };
    let config = GatewayConfig {
        addresses: LinkAddresses {
            guest_mac,
            gateway_v4: Ipv4Addr::new(198, 18, 9, 1),
            guest_v4: Ipv4Addr::new(198, 18, 9, 2),
            prefix_v4: 24,
            ..LinkAddresses::default()
        },
        mtu: settings.mtu,
        gateway_ports_offered: settings.allow_host,
        large_frames: settings.large_frames,
        ..GatewayConfig::default()
    };
    serve(config, OwnedFd::from(stream), |config| Way::Straight {
        gateway: config.addresses.clone(),
        names: HostResolver::watching(Path::new("/etc/resolv.conf"), Path::new("/etc/hosts")),
    })
}

/// The Ethernet address the first frame comes from: the guest may have any. The frame stays in the socket. `None` when
/// the guest ends before.
fn first_sender(stream: &UnixStream) -> io::Result<Option<[u8; 6]>> {
    // Length, destination, source.
    let mut start = [0; 4 + 6 + 6];
    let flags = RecvFlags::PEEK | RecvFlags::WAITALL;
    let (len, _) = rustix::net::recv(stream, &mut start[..], flags)?;
    Ok(start.last_chunk().filter(|_| len == start.len()).copied())
}

/// Takes away a socket that nobody listens on any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs_err::remove_file(path),
        _ => Ok(()),
    }
}

fn parse(words: &[String]) -> Result<Settings<'_>, Box<dyn Error>> {
    let (mut path, mut mtu, mut large_frames, mut allow_host) = (None, None, false, false);
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--listen" => path = words.next(),
            "--mtu" => mtu = words.next(),
            "--tso" => large_frames = true,
            "--allow-host" => allow_host = true,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(Settings {
        path: Path::new(path.ok_or(USAGE)?),
        mtu: mtu.ok_or(USAGE)?.parse()?,
        large_frames,
        allow_host,
    })
}

const USAGE: &str = "bare_gateway MTU | --listen PATH --mtu N [--tso] [--allow-host]";
