//! Packets the gateway makes itself: RST, ICMP errors, echo replies, UDP answers. All carry full checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr,
    IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

use crate::datagram_flow::DatagramKey;
use crate::handler::DatagramKind;
use crate::packet::TcpSegment;

/// Why a packet goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// Nobody listens there: a UDP client sees "connection refused".
    Port,
    /// There is no way to the host.
    Host,
    /// It is not allowed.
    Prohibited,
}

const HOP_LIMIT: u8 = 64;

/// The RST that answers a segment nobody takes (RFC 9293 §3.10.7.1); `None` if it is a RST itself.
pub(crate) fn reset(segment: &TcpSegment<'_>) -> Option<Vec<u8>> {
    let tcp = TcpPacket::new_checked(segment.packet.get(segment.header_len..)?).ok()?;
    if tcp.rst() {
        return None;
    }
    let occupied = segment.payload + usize::from(tcp.syn()) + usize::from(tcp.fin());
    let (seq_number, ack_number) = if tcp.ack() {
        (tcp.ack_number(), None)
    } else {
        (TcpSeqNumber(0), Some(tcp.seq_number() + occupied))
    };
    let repr = TcpRepr {
        src_port: tcp.dst_port(),
        dst_port: tcp.src_port(),
        control: TcpControl::Rst,
        seq_number,
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload: &[],
    };
    let (guest, remote) = ends(segment.packet)?;
    let ip = IpRepr::new(remote, guest, IpProtocol::Tcp, repr.buffer_len(), HOP_LIMIT);
    Some(build(&ip, |payload| {
        repr.emit(
            &mut TcpPacket::new_unchecked(payload),
            &remote,
            &guest,
            &ChecksumCapabilities::default(),
        );
    }))
}

/// The ICMP error about a packet, sent in the name of `from`, our address of the packet's family.
pub(crate) fn unreachable(quoted: &[u8], from: IpAddr, why: Unreachable) -> Option<Vec<u8>> {
    match from {
        IpAddr::V4(from) => unreachable_v4(quoted, from, why),
        IpAddr::V6(from) => unreachable_v6(quoted, from, why),
    }
}

fn unreachable_v4(quoted: &[u8], from: Ipv4Addr, why: Unreachable) -> Option<Vec<u8>> {
    let original = Ipv4Packet::new_checked(quoted).ok()?;
    let header = Ipv4Repr::parse(&original, &ChecksumCapabilities::ignored()).ok()?;
    let data = original.payload();
    let icmp = Icmpv4Repr::DstUnreachable {
        reason: match why {
            Unreachable::Port => Icmpv4DstUnreachable::PortUnreachable,
            Unreachable::Host => Icmpv4DstUnreachable::HostUnreachable,
            Unreachable::Prohibited => Icmpv4DstUnreachable::CommProhibited,
        },
        header,
        data: &data[..data.len().min(QUOTE_V4)],
    };
    let guest = original.src_addr();
    let ip = IpRepr::new(
        IpAddress::Ipv4(from),
        IpAddress::Ipv4(guest),
        IpProtocol::Icmp,
        icmp.buffer_len(),
        HOP_LIMIT,
    );
    Some(build(&ip, |payload| {
        icmp.emit(
            &mut Icmpv4Packet::new_unchecked(payload),
            &ChecksumCapabilities::default(),
        );
    }))
}

fn unreachable_v6(quoted: &[u8], from: Ipv6Addr, why: Unreachable) -> Option<Vec<u8>> {
    let original = Ipv6Packet::new_checked(quoted).ok()?;
    let header = Ipv6Repr::parse(&original).ok()?;
    let data = original.payload();
    let icmp = Icmpv6Repr::DstUnreachable {
        reason: match why {
            Unreachable::Port => Icmpv6DstUnreachable::PortUnreachable,
            Unreachable::Host => Icmpv6DstUnreachable::AddrUnreachable,
            Unreachable::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
        },
        header,
        data: &data[..data.len().min(QUOTE_V6)],
    };
    let guest = original.src_addr();
    let ip = IpRepr::new(
        IpAddress::Ipv6(from),
        IpAddress::Ipv6(guest),
        IpProtocol::Icmpv6,
        icmp.buffer_len(),
        HOP_LIMIT,
    );
    Some(build(&ip, |payload| {
        icmp.emit(
            &from,
            &guest,
            &mut Icmpv6Packet::new_unchecked(payload),
            &ChecksumCapabilities::default(),
        );
    }))
}

/// The reply to an echo request.
pub(crate) fn echo_reply(request: &[u8]) -> Option<Vec<u8>> {
    match ends(request)? {
        (IpAddress::Ipv4(guest), IpAddress::Ipv4(target)) => {
            let original = Ipv4Packet::new_checked(request).ok()?;
            let icmp = Icmpv4Packet::new_checked(original.payload()).ok()?;
            let Icmpv4Repr::EchoRequest {
                ident,
                seq_no,
                data,
            } = Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::ignored()).ok()?
            else {
                return None;
            };
            let reply = Icmpv4Repr::EchoReply {
                ident,
                seq_no,
                data,
            };
            let len = reply.buffer_len();
            let ip = IpRepr::new(
                target.into(),
                guest.into(),
                IpProtocol::Icmp,
                len,
                HOP_LIMIT,
            );
            Some(build(&ip, |payload| {
                reply.emit(
                    &mut Icmpv4Packet::new_unchecked(payload),
                    &ChecksumCapabilities::default(),
                );
            }))
        }
        (IpAddress::Ipv6(guest), IpAddress::Ipv6(target)) => echo_reply_v6(request, guest, target),
        _ => None,
    }
}

fn echo_reply_v6(request: &[u8], guest: Ipv6Addr, target: Ipv6Addr) -> Option<Vec<u8>> {
    let original = Ipv6Packet::new_checked(request).ok()?;
    let icmp = Icmpv6Packet::new_checked(original.payload()).ok()?;
    let ignored = ChecksumCapabilities::ignored();
    let Icmpv6Repr::EchoRequest {
        ident,
        seq_no,
        data,
    } = Icmpv6Repr::parse(&guest, &target, &icmp, &ignored).ok()?
    else {
        return None;
    };
    let reply = Icmpv6Repr::EchoReply {
        ident,
        seq_no,
        data,
    };
    let len = reply.buffer_len();
    let ip = IpRepr::new(
        target.into(),
        guest.into(),
        IpProtocol::Icmpv6,
        len,
        HOP_LIMIT,
    );
    Some(build(&ip, |payload| {
        reply.emit(
            &target,
            &guest,
            &mut Icmpv6Packet::new_unchecked(payload),
            &ChecksumCapabilities::default(),
        );
    }))
}

/// A UDP datagram from `source` to the guest.
pub(crate) fn datagram(
    source: (IpAddr, u16),
    guest: (IpAddr, u16),
    payload: &[u8],
) -> Option<Vec<u8>> {
    let udp = UdpRepr {
        src_port: source.1,
        dst_port: guest.1,
    };
    let (from, to) = (IpAddress::from(source.0), IpAddress::from(guest.0));
    if from.version() != to.version() || payload.len() > MAX_DATAGRAM {
        return None;
    }
    let len = udp.header_len() + payload.len();
    let ip = IpRepr::new(from, to, IpProtocol::Udp, len, HOP_LIMIT);
    Some(build(&ip, |room| {
        udp.emit(
            &mut UdpPacket::new_unchecked(room),
            &from,
            &to,
            payload.len(),
            |bytes| bytes.copy_from_slice(payload),
            &ChecksumCapabilities::default(),
        );
    }))
}

/// What the guest sent of a flow, as far as an ICMP error has to quote it.
pub(crate) fn sent_datagram(key: &DatagramKey, guest: IpAddr) -> Option<Vec<u8>> {
    let (from, to) = (
        IpAddress::from(guest),
        IpAddress::from(key.ends.remote.ip()),
    );
    if from.version() != to.version() {
        return None;
    }
    let (protocol, head) = match (key.kind, guest) {
        (DatagramKind::Udp, _) => (
            IpProtocol::Udp,
            [key.ends.guest_port, key.ends.remote.port(), 8, 0],
        ),
        (DatagramKind::Echo, IpAddr::V4(_)) => {
            (IpProtocol::Icmp, [0x0800, 0, key.ends.guest_port, 0])
        }
        (DatagramKind::Echo, IpAddr::V6(_)) => {
            (IpProtocol::Icmpv6, [0x8000, 0, key.ends.guest_port, 0])
        }
    };
    let ip = IpRepr::new(from, to, protocol, 8, HOP_LIMIT);
    Some(build(&ip, |room| {
        for (place, word) in room.chunks_exact_mut(2).zip(head) {
            place.copy_from_slice(&word.to_be_bytes());
        }
    }))
}

fn build(ip: &IpRepr, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut packet = vec![0; ip.buffer_len()];
    ip.emit(&mut packet[..], &ChecksumCapabilities::default());
    fill(&mut packet[ip.header_len()..]);
    packet
}

/// Source and destination of a packet from the guest.
fn ends(packet: &[u8]) -> Option<(IpAddress, IpAddress)> {
    if packet.first()? >> 4 == 6 {
        let ip = Ipv6Packet::new_checked(packet).ok()?;
        Some((ip.src_addr().into(), ip.dst_addr().into()))
    } else {
        let ip = Ipv4Packet::new_checked(packet).ok()?;
        Some((ip.src_addr().into(), ip.dst_addr().into()))
    }
}

/// Bytes of a packet's payload quoted in an ICMPv4 error, so that it stays within 576 (RFC 1812 §4.3.2.3).
const QUOTE_V4: usize = 500;

/// Bytes of a packet's payload quoted in an ICMPv6 error, so that it stays within 1 280 (RFC 4443 §2.4).
const QUOTE_V6: usize = 1_152;

/// Largest answer we send in one datagram.
const MAX_DATAGRAM: usize = 32 * 1024;

#[cfg(test)]
mod tests;
