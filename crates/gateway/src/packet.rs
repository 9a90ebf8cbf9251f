//! What a frame from the guest is, before anything is done with it.
//!
//! Parsing only: a frame is sorted into the few things the gateway carries or answers ([`Inbound`]), what is denied and
//! reported, and what is noise. Frames that do not come from the guest's own addresses are refused here, so nothing
//! behind this file needs to look at source addresses again. Checksums are not verified: the guest leaves them to its
//! card, and a wrong one harms the guest only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IPV4_HEADER_LEN, IPV6_HEADER_LEN,
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpAddress, IpProtocol, Ipv4Packet,
    Ipv6Packet, TCP_HEADER_LEN, TcpPacket, TcpRepr, UdpPacket,
};

use crate::config::LinkAddresses;
use crate::datagram_flow::DatagramKey;
use crate::flow::{FlowKey, Syn};
use crate::handler::{DatagramKind, DenyReason, Transport};

/// One frame, sorted.
#[derive(Debug)]
pub(crate) enum Inbound<'a> {
    /// An ARP packet.
    Arp(&'a [u8]),
    /// A neighbour or router solicitation, as an IPv6 packet.
    Discovery(&'a [u8]),
    /// An echo request to the gateway, as an IP packet.
    Echo(&'a [u8]),
    /// A TCP segment.
    Tcp(TcpSegment<'a>),
    /// A UDP datagram to our DNS server.
    Dns(DnsDatagram<'a>),
    /// A UDP datagram or an echo request to somewhere outside.
    Datagram(Datagram<'a>),
    /// Something that is not carried.
    Refused(Refused<'a>),
    /// Multicast and other things every machine says to itself.
    Noise,
    /// Not a frame we can read.
    Malformed,
}

/// A TCP segment whose headers are sound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TcpSegment<'a> {
    pub(crate) key: FlowKey,
    pub(crate) packet: &'a [u8],
    pub(crate) header_len: usize,
    pub(crate) sequence: u32,
    /// What it acknowledges.
    pub(crate) ack: Option<u32>,
    pub(crate) window: u16,
    pub(crate) payload: usize,
    pub(crate) kind: TcpKind,
    /// Whether it only acknowledges: no data, no SYN, FIN or RST.
    pub(crate) bare: bool,
}

impl TcpSegment<'_> {
    /// What a flow has to know of a SYN. Data on it is left out: the guest sends it again after the handshake.
    pub(crate) fn syn(&self, mtu: u16) -> Option<Syn> {
        let tcp = TcpPacket::new_checked(self.packet.get(self.header_len..)?).ok()?;
        let headers = self.header_len + usize::from(tcp.header_len());
        let mut packet = self.packet.get(..headers)?.to_vec();
        if self.key.remote.is_ipv4() {
            packet[2..4].copy_from_slice(&u16::try_from(headers).ok()?.to_be_bytes());
        } else {
            packet[4..6].copy_from_slice(&u16::from(tcp.header_len()).to_be_bytes());
        }
        let any = IpAddress::v4(0, 0, 0, 0);
        let repr = TcpRepr::parse(&tcp, &any, &any, &ChecksumCapabilities::ignored()).ok()?;
        let asked = match repr.max_seg_size {
            None | Some(0) => DEFAULT_MSS,
            Some(mss) => usize::from(mss).max(MIN_MSS),
        };
        let ip_header = if self.key.remote.is_ipv4() {
            IPV4_HEADER_LEN
        } else {
            IPV6_HEADER_LEN
        };
        Some(Syn {
            packet,
            sequence: self.sequence,
            mss: asked.min(usize::from(mtu).saturating_sub(ip_header + TCP_HEADER_LEN)),
        })
    }
}

/// What the flags of a segment mean for the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TcpKind {
    /// A SYN without ACK.
    Open,
    /// A RST.
    Reset,
    /// Anything else.
    Other,
}

/// A question for our DNS server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DnsDatagram<'a> {
    pub(crate) server: IpAddr,
    pub(crate) guest_port: u16,
    pub(crate) query: &'a [u8],
}

/// A datagram to somewhere outside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram<'a> {
    pub(crate) key: DatagramKey,
    /// The IP packet.
    pub(crate) packet: &'a [u8],
    /// UDP payload or ICMP message.
    pub(crate) payload: &'a [u8],
}

/// A packet that is not carried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused<'a> {
    pub(crate) transport: Transport,
    pub(crate) destination: IpAddr,
    pub(crate) port: Option<u16>,
    pub(crate) reason: DenyReason,
    /// The IP packet, to be quoted in an ICMP error; `None` when none may be sent.
    pub(crate) quote: Option<&'a [u8]>,
}

/// Segment size of a peer that names none (RFC 9293 §3.7.1).
const DEFAULT_MSS: usize = 536;

/// Smallest segment size we go down to.
const MIN_MSS: usize = 48;

/// DNS.
const DNS_PORT: u16 = 53;

/// Sorts one Ethernet frame.
pub(crate) fn classify<'a>(frame: &'a [u8], addresses: &LinkAddresses) -> Inbound<'a> {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else {
        return Inbound::Malformed;
    };
    let destination = ethernet.dst_addr();
    if destination != EthernetAddress(addresses.gateway_mac) && destination.is_unicast() {
        return Inbound::Noise;
    }
    let spoofed = ethernet.src_addr() != EthernetAddress(addresses.guest_mac);
    let payload = &frame[crate::link::ETHERNET_HEADER_LEN..];
    match ethernet.ethertype() {
        EthernetProtocol::Arp if !spoofed => Inbound::Arp(payload),
        EthernetProtocol::Ipv4 => classify_v4(payload, addresses, spoofed),
        EthernetProtocol::Ipv6 => classify_v6(payload, addresses, spoofed),
        EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => Inbound::Noise,
    }
}

/// Sorts one IP packet that came in a sound frame.
pub(crate) fn classify_packet<'a>(packet: &'a [u8], addresses: &LinkAddresses) -> Inbound<'a> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => classify_v4(packet, addresses, false),
        Some(6) => classify_v6(packet, addresses, false),
        _ => Inbound::Malformed,
    }
}

fn classify_v4<'a>(bytes: &'a [u8], addresses: &LinkAddresses, spoofed: bool) -> Inbound<'a> {
    let Ok(ip) = Ipv4Packet::new_checked(bytes) else {
        return Inbound::Malformed;
    };
    if ip.version() != 4 || usize::from(ip.header_len()) < IPV4_HEADER_LEN {
        return Inbound::Malformed;
    }
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    if destination.is_multicast()
        || destination.is_broadcast()
        || destination == subnet_broadcast(addresses)
    {
        return Inbound::Noise;
    }
    let packet = Packet {
        bytes: &bytes[..usize::from(ip.total_len())],
        header_len: usize::from(ip.header_len()),
        destination: destination.into(),
        protocol: ip.next_header(),
        gateway: destination == addresses.gateway_v4,
    };
    if spoofed || source != addresses.guest_v4 {
        return packet.refuse_silently(DenyReason::SpoofedSource);
    }
    if destination.is_unspecified()
        || destination.is_loopback()
        || destination == addresses.guest_v4
    {
        return packet.refuse_silently(DenyReason::Destination);
    }
    if ip.more_frags() || ip.frag_offset() != 0 {
        return packet.refuse_silently(DenyReason::Fragment);
    }
    packet.transport()
}

fn classify_v6<'a>(bytes: &'a [u8], addresses: &LinkAddresses, spoofed: bool) -> Inbound<'a> {
    let Ok(ip) = Ipv6Packet::new_checked(bytes) else {
        return Inbound::Malformed;
    };
    if ip.version() != 6 {
        return Inbound::Malformed;
    }
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let packet = Packet {
        bytes: &bytes[..ip.total_len()],
        header_len: ip.header_len(),
        destination: destination.into(),
        protocol: ip.next_header(),
        gateway: destination == addresses.gateway_v6,
    };
    let link_local = source == addresses.guest_link_local();
    let known = source == addresses.guest_v6 || link_local || source.is_unspecified();
    if packet.is_discovery() && known && !spoofed {
        return Inbound::Discovery(packet.bytes);
    }
    if destination.is_multicast() {
        return Inbound::Noise;
    }
    let to_link_local = destination == addresses.gateway_link_local();
    if link_local && to_link_local && !spoofed && packet.is_echo() {
        return Inbound::Echo(packet.bytes);
    }
    if link_local && is_unicast_link_local(destination) && !spoofed {
        // Neighbour advertisements and the like.
        return Inbound::Noise;
    }
    if spoofed || source != addresses.guest_v6 {
        return packet.refuse_silently(DenyReason::SpoofedSource);
    }
    if destination.is_unspecified()
        || destination.is_loopback()
        || destination == addresses.guest_v6
        || is_unicast_link_local(destination)
    {
        return if packet.is_neighbour_talk() {
            Inbound::Noise
        } else {
            packet.refuse_silently(DenyReason::Destination)
        };
    }
    packet.transport()
}

fn is_unicast_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

fn subnet_broadcast(addresses: &LinkAddresses) -> Ipv4Addr {
    let host_bits = u32::MAX
        .checked_shr(u32::from(addresses.prefix_v4))
        .unwrap_or(0);
    Ipv4Addr::from(u32::from(addresses.guest_v4) | host_bits)
}

/// An IP packet of either family, cut to its length.
#[derive(Clone, Copy)]
struct Packet<'a> {
    bytes: &'a [u8],
    header_len: usize,
    destination: IpAddr,
    protocol: IpProtocol,
    gateway: bool,
}

impl<'a> Packet<'a> {
    fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.header_len..).unwrap_or_default()
    }

    fn transport(self) -> Inbound<'a> {
        match self.protocol {
            IpProtocol::Tcp => self.tcp(),
            IpProtocol::Udp => self.udp(),
            IpProtocol::Icmp | IpProtocol::Icmpv6 => self.icmp(),
            IpProtocol::Ipv6Frag => self.refuse_silently(DenyReason::Fragment),
            _ => self.refuse(None, DenyReason::Protocol),
        }
    }

    fn tcp(self) -> Inbound<'a> {
        let payload = self.payload();
        let Ok(tcp) = TcpPacket::new_checked(payload) else {
            return Inbound::Malformed;
        };
        let header_len = usize::from(tcp.header_len());
        if tcp.src_port() == 0 || tcp.dst_port() == 0 || header_len < TCP_HEADER_LEN {
            return Inbound::Malformed;
        }
        let kind = if tcp.rst() {
            TcpKind::Reset
        } else if tcp.syn() && !tcp.ack() {
            TcpKind::Open
        } else {
            TcpKind::Other
        };
        let payload = payload.len().saturating_sub(header_len);
        Inbound::Tcp(TcpSegment {
            key: FlowKey {
                guest_port: tcp.src_port(),
                remote: SocketAddr::new(self.destination, tcp.dst_port()),
            },
            packet: self.bytes,
            header_len: self.header_len,
            sequence: tcp.seq_number().0 as u32,
            ack: tcp.ack().then(|| tcp.ack_number().0 as u32),
            window: tcp.window_len(),
            payload,
            kind,
            bare: payload == 0 && kind == TcpKind::Other && !tcp.syn() && !tcp.fin(),
        })
    }

    fn udp(self) -> Inbound<'a> {
        let Ok(udp) = UdpPacket::new_checked(self.payload()) else {
            return Inbound::Malformed;
        };
        let port = udp.dst_port();
        if self.gateway && port == DNS_PORT {
            return Inbound::Dns(DnsDatagram {
                server: self.destination,
                guest_port: udp.src_port(),
                query: udp.payload(),
            });
        }
        if port == DNS_PORT {
            return self.refuse(Some(port), DenyReason::OtherDnsServer);
        }
        if port == 0 || udp.src_port() == 0 {
            return Inbound::Malformed;
        }
        self.datagram(DatagramKind::Udp, udp.src_port(), port, udp.payload())
    }

    fn datagram(
        self,
        kind: DatagramKind,
        guest_port: u16,
        port: u16,
        payload: &'a [u8],
    ) -> Inbound<'a> {
        let remote = SocketAddr::new(self.destination, port);
        Inbound::Datagram(Datagram {
            key: DatagramKey {
                kind,
                ends: FlowKey { guest_port, remote },
            },
            packet: self.bytes,
            payload,
        })
    }

    fn icmp(self) -> Inbound<'a> {
        if self.is_echo() {
            let message = self.payload();
            let &[_, 0, _, _, high, low, _, _, ..] = message else {
                return Inbound::Malformed;
            };
            return if self.gateway {
                Inbound::Echo(self.bytes)
            } else {
                let identifier = u16::from_be_bytes([high, low]);
                self.datagram(DatagramKind::Echo, identifier, 0, message)
            };
        }
        if self.is_neighbour_talk() || self.gateway || self.is_icmp_error() {
            return Inbound::Noise;
        }
        // No ICMP error about an ICMP message that is not an echo (RFC 1122 §3.2.2).
        self.refuse_silently(DenyReason::Icmp)
    }

    fn is_echo(&self) -> bool {
        match self.protocol {
            IpProtocol::Icmp => Icmpv4Packet::new_checked(self.payload())
                .is_ok_and(|icmp| icmp.msg_type() == Icmpv4Message::EchoRequest),
            IpProtocol::Icmpv6 => Icmpv6Packet::new_checked(self.payload())
                .is_ok_and(|icmp| icmp.msg_type() == Icmpv6Message::EchoRequest),
            _ => false,
        }
    }

    /// A router or neighbour solicitation.
    fn is_discovery(&self) -> bool {
        self.icmpv6_message().is_some_and(|message| {
            matches!(
                message,
                Icmpv6Message::RouterSolicit | Icmpv6Message::NeighborSolicit
            )
        })
    }

    fn is_neighbour_talk(&self) -> bool {
        self.icmpv6_message()
            .is_some_and(|message| message.is_ndisc() || message.is_mld())
    }

    /// The guest's answers to what we sent, such as "port unreachable".
    fn is_icmp_error(&self) -> bool {
        match self.protocol {
            IpProtocol::Icmp => Icmpv4Packet::new_checked(self.payload()).is_ok_and(|icmp| {
                matches!(
                    icmp.msg_type(),
                    Icmpv4Message::DstUnreachable
                        | Icmpv4Message::TimeExceeded
                        | Icmpv4Message::ParamProblem
                )
            }),
            _ => self
                .icmpv6_message()
                .is_some_and(|message| message.is_error()),
        }
    }

    fn icmpv6_message(&self) -> Option<Icmpv6Message> {
        if self.protocol != IpProtocol::Icmpv6 {
            return None;
        }
        let icmp = Icmpv6Packet::new_checked(self.payload()).ok()?;
        Some(icmp.msg_type())
    }

    fn refuse(self, port: Option<u16>, reason: DenyReason) -> Inbound<'a> {
        Inbound::Refused(Refused {
            transport: transport_of(self.protocol),
            destination: self.destination,
            port,
            reason,
            quote: Some(self.bytes),
        })
    }

    fn refuse_silently(self, reason: DenyReason) -> Inbound<'a> {
        let port = match self.protocol {
            IpProtocol::Tcp | IpProtocol::Udp if reason != DenyReason::Fragment => self
                .payload()
                .get(2..4)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u16::from_be_bytes),
            _ => None,
        };
        Inbound::Refused(Refused {
            transport: transport_of(self.protocol),
            destination: self.destination,
            port,
            reason,
            quote: None,
        })
    }
}

fn transport_of(protocol: IpProtocol) -> Transport {
    match protocol {
        IpProtocol::Tcp => Transport::Tcp,
        IpProtocol::Udp => Transport::Udp,
        IpProtocol::Icmp | IpProtocol::Icmpv6 => Transport::Icmp,
        other => Transport::Other(other.into()),
    }
}

#[cfg(test)]
mod tests;
