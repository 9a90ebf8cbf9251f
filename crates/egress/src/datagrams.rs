//! Datagrams of the guest, UDP and echo requests: each flow is one address and port, decided about as a connection is.
//!
//! Nothing looks into them, so they pass only where the address alone decides. What was allowed for its name, or is
//! intercepted for a credential, is denied: QUIC to such a host is refused at once, and clients go on with TCP. The host's
//! proxies carry no datagrams; to an address that is reached through one they are denied too, never sent past it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use agent_vm_policy::{ConnectVerdict, DenyReason};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use tokio::net::UdpSocket;

use crate::audit::{DeniedPacket, Kind, PacketProtocol};
use crate::dial::{DialError, Route};
use crate::egress::{ConnectRequest, Egress, OpenError};
use crate::judged::{Denial, Flow};
use crate::record::Record;

/// Kinds of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramKind {
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo, without a port (0). The host's kernel must let its user send them
    /// (`net.ipv4.ping_group_range`, for both families).
    Echo,
}

/// The line of the audit log for a flow of datagrams, written when this is dropped.
pub struct DatagramRecord(Record);

impl DatagramRecord {
    /// How many bytes have passed until now, from the guest and to it.
    pub fn passed(&mut self, up: u64, down: u64) {
        self.0.traffic().up.set(up);
        self.0.traffic().down.set(down);
    }
}

impl Egress {
    /// Judges datagrams to one address and port and gives a socket that is connected to where they go: the kernel hands
    /// up only what comes from there.
    ///
    /// # Errors
    /// When they are denied (recorded, equal ones not again for a while) or cannot be sent.
    pub async fn open_datagrams(
        &self,
        kind: DatagramKind,
        request: ConnectRequest,
    ) -> Result<(UdpSocket, DatagramRecord), OpenError> {
        let shared = self.shared();
        let protocol = match kind {
            DatagramKind::Udp => PacketProtocol::Udp,
            DatagramKind::Echo => PacketProtocol::Icmp,
        };
        let (address, port) = (request.address, request.port);
        let decided = shared
            .decide(request)
            .map_err(|Denial { reason, .. }| reason);
        let decided = decided.and_then(|flow| Ok((target(kind, &flow)?, flow)));
        let (target, flow) = decided.map_err(|reason| {
            let packet = DeniedPacket {
                protocol,
                address,
                port: (kind == DatagramKind::Udp).then_some(port),
                reason,
            };
            self.record_denied_packet(packet, 0);
            OpenError::Denied { reason }
        })?;
        let mut place = flow.place();
        place.protocol = Some(protocol);
        let mut record = Record::begin(shared, Kind::Connect, place);
        match connected(kind, target).await {
            Ok(socket) => Ok((socket, DatagramRecord(record))),
            Err(source) => {
                let error = DialError::from_io(target, source);
                record.failed(error.reason());
                Err(OpenError::Dial(error))
            }
        }
    }
}

/// Where a flow goes that nobody needs to look into.
fn target(kind: DatagramKind, flow: &Flow) -> Result<SocketAddr, DenyReason> {
    if flow.verdict != ConnectVerdict::Tunnel {
        return Err(DenyReason::Protocol);
    }
    match flow.route {
        Route::Direct(target) if kind == DatagramKind::Echo => Ok((target.ip(), 0).into()),
        Route::Direct(target) => Ok(target),
        Route::HostService(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Route::Tunnel(..) | Route::Forward(..) => Err(DenyReason::Protocol),
    }
}

async fn connected(kind: DatagramKind, target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match kind {
        DatagramKind::Udp => {
            let any: IpAddr = match target {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            UdpSocket::bind((any, 0)).await?
        }
        DatagramKind::Echo => echo_socket(target.ip())?,
    };
    socket.connect(target).await?;
    Ok(socket)
}

/// An ICMP socket as `ping` without privileges has it (Linux `IPPROTO_ICMP` datagram sockets): the kernel chooses the
/// identifier, and hands up only replies that carry it.
fn echo_socket(address: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match address {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
    UdpSocket::from_std(socket.into())
}
