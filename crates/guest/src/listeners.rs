//! Which TCP ports of the guest are listened at, told soon after it changes.
//!
//! The kernel is asked by `sock_diag(7)` for sockets in the state LISTEN only, which costs some tens of microseconds; a
//! kernel without `inet_diag` is asked by `/proc/net/tcp` and `tcp6`. Linux has no netlink message for "a socket listens
//! now", so it is asked every [`LOOK`].

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agent_vm_protocol::MAX_LISTENING;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::netlink::{AF_INET, AF_INET6, HEADER, NLM_F_REQUEST, NLMSG_ERROR};

/// Time between two looks: with what the host needs, a third of the half second there is.
const LOOK: Duration = Duration::from_millis(200);

/// Most bytes read of one `/proc` file: the listening sockets come first.
const MAX_PROC_BYTES: u64 = 256 * 1024;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_DONE: u16 = 3;
const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN: u8 = 10;
/// `struct inet_diag_req_v2`, `struct inet_diag_msg` in bytes.
const REQUEST: usize = 56;
const ANSWER: usize = 72;

/// The listening ports, as last told.
#[derive(Debug)]
pub(crate) struct Listeners {
    own: Vec<IpAddr>,
    diag: Option<OwnedFd>,
    next: Instant,
    told: Vec<u16>,
}

impl Listeners {
    /// Nothing was told yet. `own` are the addresses of the guest's card.
    ///
    /// # Errors
    /// The kernel tells in neither way.
    pub(crate) fn new(own: &[IpAddr]) -> io::Result<Self> {
        let mut this = Self {
            own: own.to_vec(),
            diag: open_diag().ok(),
            next: Instant::now(),
            told: Vec::new(),
        };
        this.ports()?;
        Ok(this)
    }

    /// How long until [`Listeners::changed`] looks again.
    pub(crate) fn next_look(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Looks when it is time; gives the ports when they are others than told before.
    pub(crate) fn changed(&mut self, now: Instant) -> Option<Vec<u16>> {
        if now < self.next {
            return None;
        }
        self.next = now + LOOK;
        // A look that does not succeed changes nothing; the next one may.
        let ports = self.ports().ok()?;
        if ports == self.told {
            return None;
        }
        self.told.clone_from(&ports);
        Some(ports)
    }

    fn ports(&mut self) -> io::Result<Vec<u16>> {
        let mut found = BTreeSet::new();
        let own = self.own.clone();
        let mut see = |address: IpAddr, port: u16| {
            if is_reachable(address, &own) {
                found.insert(port);
            }
        };
        let asked = match &self.diag {
            Some(socket) => {
                ask(socket, AF_INET, &mut see).and_then(|()| ask(socket, AF_INET6, &mut see))
            }
            None => Err(io::ErrorKind::Unsupported.into()),
        };
        if asked.is_err() {
            self.diag = None;
            read_proc("/proc/net/tcp", &mut see)?;
            // A kernel without IPv6 has none.
            let _ = read_proc("/proc/net/tcp6", &mut see);
        }
        found.remove(&0);
        Ok(found.into_iter().take(MAX_LISTENING).collect())
    }
}

/// Whether the forwarder, which connects to 127.0.0.1, `::1` and the card's addresses, gets there.
fn is_reachable(address: IpAddr, own: &[IpAddr]) -> bool {
    let address = address.to_canonical();
    address.is_unspecified()
        || address == Ipv4Addr::LOCALHOST
        || address == Ipv6Addr::LOCALHOST
        || own.contains(&address)
}

fn open_diag() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

/// Asks for the listening sockets of one family.
fn ask(socket: &OwnedFd, family: u8, see: &mut impl FnMut(IpAddr, u16)) -> io::Result<()> {
    let mut request = Vec::with_capacity(HEADER + REQUEST);
    request.extend(u32::try_from(HEADER + REQUEST).unwrap_or(0).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family, IPPROTO_TCP, 0, 0]);
    request.extend((1_u32 << TCP_LISTEN).to_ne_bytes());
    request.resize(HEADER + REQUEST, 0);
    rustix::net::send(socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (count, _) = rustix::net::recv(socket, &mut buffer, RecvFlags::empty())?;
        if read_answers(&buffer[..count], see)? == Dump::Complete {
            return Ok(());
        }
    }
}

/// Whether more answers follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dump {
    Goes,
    Complete,
}

/// Reads `struct inet_diag_msg`s (`linux/inet_diag.h`).
fn read_answers(mut rest: &[u8], see: &mut impl FnMut(IpAddr, u16)) -> io::Result<Dump> {
    while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::try_from(length).unwrap_or(0);
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let body = rest.get(HEADER..length).ok_or_else(broken)?;
        match kind {
            NLMSG_DONE => return Ok(Dump::Complete),
            NLMSG_ERROR => {
                let code = body
                    .first_chunk()
                    .map_or(0, |code| i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            SOCK_DIAG_BY_FAMILY if body.len() >= ANSWER => {
                if let Some((address, port)) = listener(body) {
                    see(address, port);
                }
            }
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Dump::Goes)
}

/// Family, state, then at 4 the port in network order, at 8 the address.
fn listener(body: &[u8]) -> Option<(IpAddr, u16)> {
    let port = u16::from_be_bytes(*body.get(4..6)?.first_chunk()?);
    let address = match body[0] {
        AF_INET => IpAddr::from(*body.get(8..12)?.first_chunk::<4>()?),
        AF_INET6 => IpAddr::from(*body.get(8..24)?.first_chunk::<16>()?),
        _ => return None,
    };
    (body[1] == TCP_LISTEN).then_some((address, port))
}

fn read_proc(path: &str, see: &mut impl FnMut(IpAddr, u16)) -> io::Result<()> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(MAX_PROC_BYTES)
        .read_to_string(&mut text)?;
    for (address, port) in text.lines().filter_map(proc_line) {
        see(address, port);
    }
    Ok(())
}

/// `  0: 0100007F:1F90 00000000:0000 0A …`: the address in words of the machine's order, the port, the state.
fn proc_line(line: &str) -> Option<(IpAddr, u16)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match bytes.len() {
        4 => IpAddr::from(*bytes.first_chunk::<4>()?),
        16 => IpAddr::from(*bytes.first_chunk::<16>()?),
        _ => return None,
    };
    (u8::from_str_radix(state, 16) == Ok(TCP_LISTEN)).then_some((address, port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn wait_for(listeners: &mut Listeners, port: u16, there: bool) {
        let begun = Instant::now();
        loop {
            let now = Instant::now();
            listeners.changed(now);
            if listeners.told.contains(&port) == there {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "never seen");
            std::thread::sleep(listeners.next_look(now));
        }
    }

    #[test]
    fn sees_listeners_of_both_families_come_and_go_by_diag_and_by_proc() {
        for by_diag in [true, false] {
            let mut listeners = Listeners::new(&[]).unwrap();
            if by_diag && listeners.diag.is_none() {
                eprintln!("this kernel has no inet_diag: only /proc is tried");
                continue;
            }
            if !by_diag {
                listeners.diag = None;
            }
            for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
                let Ok(server) = TcpListener::bind(address) else {
                    eprintln!("no {address} here");
                    continue;
                };
                let port = server.local_addr().unwrap().port();
                wait_for(&mut listeners, port, true);
                drop(server);
                wait_for(&mut listeners, port, false);
            }
            assert_eq!(by_diag, listeners.diag.is_some());
        }
    }

    #[test]
    fn does_not_tell_what_the_forwarder_cannot_reach() {
        let own = ["10.0.0.2".parse().unwrap()];
        for (address, reachable) in [
            ("0.0.0.0", true),
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("::1", true),
            ("::", true),
            ("10.0.0.2", true),
            ("127.0.0.53", false),
            ("172.17.0.1", false),
        ] {
            assert_eq!(
                is_reachable(address.parse().unwrap(), &own),
                reachable,
                "{address}"
            );
        }
    }

    #[test]
    fn reads_only_listening_lines_of_proc() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        assert_eq!(proc_line(line), Some((Ipv4Addr::LOCALHOST.into(), 8080)));
        assert_eq!(proc_line(&line.replace(" 0A ", " 01 ")), None);
        let v6 = "   1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(proc_line(v6), Some((Ipv6Addr::LOCALHOST.into(), 22)));
        for bad in [
            "",
            "  sl  local_address rem_address   st",
            "0: x:y z 0A",
            "0: 00:00 a 0A",
        ] {
            assert_eq!(proc_line(bad), None, "{bad}");
        }
    }

    #[test]
    fn damaged_answers_are_an_error_not_a_panic() {
        let mut none = |_: IpAddr, _: u16| panic!("nothing to see");
        assert!(read_answers(&[0xff; 20], &mut none).is_err());
        assert!(read_answers(&[0; 16], &mut none).is_err());
        assert_eq!(read_answers(&[], &mut none).unwrap(), Dump::Goes);
        let mut short = vec![0; 20];
        short[0] = 20;
        short[4] = 20;
        assert_eq!(read_answers(&short, &mut none).unwrap(), Dump::Goes);
    }
}
