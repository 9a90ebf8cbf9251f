//! One flow's side of the link as smoltcp sees it: an IP device that takes at most one packet at a time.
//!
//! smoltcp writes the IP packet straight into the message buffer, behind room for the virtio and Ethernet headers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken,
};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetProtocol, IPV4_HEADER_LEN, IPV6_HEADER_LEN, Icmpv4Packet,
    Icmpv6Packet, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, TcpPacket, UDP_HEADER_LEN,
};

use crate::checksum::pseudo_header;
use crate::config::{DEFAULT_MTU, LinkAddresses};
use crate::link::{ETHERNET_HEADER_LEN, IP_OFFSET, Link, MAX_MESSAGE};
use crate::virtio_header::{TcpOffload, VNET_HEADER_LEN, emit_plain, emit_tcp, emit_udp};

/// IANA number of TCP.
pub(crate) const TCP: u8 = 6;

/// The link with the buffer that frames are built in.
#[derive(Debug)]
pub(crate) struct Transmitter {
    pub(crate) link: Link,
    message: Box<[u8]>,
    guest_mac: EthernetAddress,
    gateway_mac: EthernetAddress,
}

impl Transmitter {
    pub(crate) fn new(link: Link, addresses: &LinkAddresses) -> Self {
        Self {
            link,
            message: vec![0; MAX_MESSAGE].into_boxed_slice(),
            guest_mac: EthernetAddress(addresses.guest_mac),
            gateway_mac: EthernetAddress(addresses.gateway_mac),
        }
    }

    /// Sends an IP packet of `len` bytes that `fill` writes whole, checksums included.
    pub(crate) fn send_ip(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) {
        let Some(packet) = self.message.get_mut(IP_OFFSET..IP_OFFSET + len) else {
            return;
        };
        fill(packet);
        let protocol = ethertype(packet);
        self.ethernet_header(protocol);
        emit_plain(self.virtio_header());
        self.link.send(&mut self.message[..IP_OFFSET + len]);
    }

    /// Sends the UDP datagram that `fill` writes and whose length it gives.
    pub(crate) fn send_udp(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let ip_header = ip_header_len(from.ip());
        let at = IP_OFFSET + ip_header;
        let len = fill(&mut self.message[at + UDP_HEADER_LEN..])?;
        let whole = UDP_HEADER_LEN + len;
        if from.is_ipv6() && at + whole == self.message.len() {
            // It may have been longer: the largest of IPv6 does not fit a message.
            return Ok(0);
        }
        self.ip_header(from.ip(), to.ip(), IpProtocol::Udp, whole);
        let sum = pseudo_header(from.ip(), to.ip(), UDP, whole);
        let words = [from.port(), to.port(), whole as u16, sum];
        for (place, word) in self.message[at..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        emit_udp(
            self.virtio_header(),
            (ETHERNET_HEADER_LEN + ip_header) as u16,
        );
        self.link.send(&mut self.message[..at + whole]);
        Ok(len)
    }

    /// Sends the echo reply that `fill` writes, with this identifier. What is no echo reply is not sent.
    pub(crate) fn send_echo_reply(
        &mut self,
        (from, to): (IpAddr, IpAddr),
        identifier: u16,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let at = IP_OFFSET + ip_header_len(from);
        let len = fill(&mut self.message[at..])?;
        let message = &mut self.message[at..at + len];
        let protocol = match (&*message, from, to) {
            ([0, 0, _, _, _, _, _, _, ..], IpAddr::V4(_), _) => {
                message[4..6].copy_from_slice(&identifier.to_be_bytes());
                Icmpv4Packet::new_unchecked(message).fill_checksum();
                IpProtocol::Icmp
            }
            ([129, 0, _, _, _, _, _, _, ..], IpAddr::V6(from), IpAddr::V6(to)) => {
                message[4..6].copy_from_slice(&identifier.to_be_bytes());
                Icmpv6Packet::new_unchecked(message).fill_checksum(&from, &to);
                IpProtocol::Icmpv6
            }
            _ => return Ok(0),
        };
        self.ip_header(from, to, protocol, len);
        emit_plain(self.virtio_header());
        self.link.send(&mut self.message[..at + len]);
        Ok(len)
    }

    /// Writes the headers of a packet that carries `len` bytes.
    fn ip_header(&mut self, from: IpAddr, to: IpAddr, protocol: IpProtocol, len: usize) {
        let ip = IpRepr::new(from.into(), to.into(), protocol, len, HOP_LIMIT);
        let packet = &mut self.message[IP_OFFSET..];
        ip.emit(&mut *packet, &ChecksumCapabilities::default());
        let protocol = ethertype(packet);
        self.ethernet_header(protocol);
    }

    /// Sends an Ethernet payload that is no IP packet.
    pub(crate) fn send_ethernet(&mut self, protocol: EthernetProtocol, payload: &[u8]) {
        let Some(room) = self.message.get_mut(IP_OFFSET..IP_OFFSET + payload.len()) else {
            return;
        };
        room.copy_from_slice(payload);
        self.ethernet_header(protocol);
        emit_plain(self.virtio_header());
        self.link
            .send(&mut self.message[..IP_OFFSET + payload.len()]);
    }

    /// Sends a TCP packet that smoltcp wrote without a TCP checksum.
    fn send_tcp<R>(&mut self, len: usize, mss: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let packet = &mut self.message[IP_OFFSET..IP_OFFSET + len];
        let result = fill(packet);
        let protocol = ethertype(packet);
        let offload = tcp_offload(packet, mss);
        self.ethernet_header(protocol);
        match offload {
            Some(offload) => emit_tcp(self.virtio_header(), offload),
            None => emit_plain(self.virtio_header()),
        }
        self.link.send(&mut self.message[..IP_OFFSET + len]);
        result
    }

    fn virtio_header(&mut self) -> &mut [u8; VNET_HEADER_LEN] {
        self.message
            .first_chunk_mut()
            .expect("the buffer is longer than the header")
    }

    fn ethernet_header(&mut self, protocol: EthernetProtocol) {
        let header = &mut self.message[VNET_HEADER_LEN..IP_OFFSET];
        header[..6].copy_from_slice(self.guest_mac.as_bytes());
        header[6..12].copy_from_slice(self.gateway_mac.as_bytes());
        header[12..].copy_from_slice(&u16::from(protocol).to_be_bytes());
    }
}

fn ip_header_len(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => IPV4_HEADER_LEN,
        IpAddr::V6(_) => IPV6_HEADER_LEN,
    }
}

/// IANA number of UDP.
const UDP: u8 = 17;

/// Time to live of what we send.
const HOP_LIMIT: u8 = 64;

fn ethertype(packet: &[u8]) -> EthernetProtocol {
    match packet.first().map(|byte| byte >> 4) {
        Some(6) => EthernetProtocol::Ipv6,
        _ => EthernetProtocol::Ipv4,
    }
}

/// Puts the pseudo-header sum into a TCP packet and says what the guest has to finish.
fn tcp_offload(packet: &mut [u8], mss: usize) -> Option<TcpOffload> {
    let ipv6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
    let (source, destination, header_len): (IpAddr, IpAddr, usize) = if ipv6 {
        let ip = Ipv6Packet::new_checked(&*packet).ok()?;
        (ip.src_addr().into(), ip.dst_addr().into(), ip.header_len())
    } else {
        let ip = Ipv4Packet::new_checked(&*packet).ok()?;
        (
            ip.src_addr().into(),
            ip.dst_addr().into(),
            usize::from(ip.header_len()),
        )
    };
    let segment = packet.get_mut(header_len..)?;
    let sum = pseudo_header(source, destination, TCP, segment.len());
    let mut tcp = TcpPacket::new_checked(&mut *segment).ok()?;
    tcp.set_checksum(sum);
    let tcp_header = usize::from(tcp.header_len());
    let payload = segment.len().saturating_sub(tcp_header);
    Some(TcpOffload {
        transport_offset: u16::try_from(ETHERNET_HEADER_LEN + header_len).ok()?,
        header_len: u16::try_from(ETHERNET_HEADER_LEN + header_len + tcp_header).ok()?,
        segment: (payload > mss).then(|| u16::try_from(mss).ok()).flatten(),
        ipv6,
    })
}

/// What every flow's interface is made with.
pub(crate) fn capabilities(mtu: u16, large_frames: bool) -> DeviceCapabilities {
    let mut checksum = ChecksumCapabilities::ignored();
    checksum.ipv4 = Checksum::Tx;
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = usize::from(mtu);
    capabilities.checksum = checksum;
    // Whatever the MTU: the guest's card takes large frames of small segments.
    let largest = NonZeroUsize::new(usize::from(DEFAULT_MTU)).filter(|_| large_frames);
    capabilities.segmentation.tcpv4 = largest;
    capabilities.segmentation.tcpv6 = largest;
    capabilities
}

/// The device for one call into smoltcp.
pub(crate) struct FlowDevice<'a> {
    /// The packet to hand in, once.
    pub(crate) inbound: Option<&'a [u8]>,
    /// Where packets go.
    pub(crate) transmitter: &'a mut Transmitter,
    /// Frames that may still be sent in this call.
    pub(crate) burst: usize,
    /// Largest segment the guest takes on this connection.
    pub(crate) mss: usize,
    /// MTU of the link.
    pub(crate) mtu: u16,
}

impl Device for FlowDevice<'_> {
    type RxToken<'t>
        = Inbound<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Outbound<'t>
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Inbound<'_>, Outbound<'_>)> {
        let packet = self.inbound.take()?;
        let outbound = Outbound {
            transmitter: self.transmitter,
            mss: self.mss,
        };
        Some((Inbound(packet), outbound))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outbound<'_>> {
        if self.burst == 0 || !self.transmitter.link.is_clear() {
            return None;
        }
        self.burst -= 1;
        Some(Outbound {
            transmitter: self.transmitter,
            mss: self.mss,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.mtu, self.transmitter.link.takes_large_frames())
    }
}

/// One packet from the guest.
pub(crate) struct Inbound<'a>(&'a [u8]);

impl RxToken for Inbound<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for one packet to the guest.
pub(crate) struct Outbound<'a> {
    transmitter: &'a mut Transmitter,
    mss: usize,
}

impl TxToken for Outbound<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.transmitter.send_tcp(len, self.mss, f)
    }
}
