//! Address resolution for the only two stations of the link: ARP (RFC 826), neighbour discovery and router
//! advertisement (RFC 4861). The gateway answers for its own addresses and for nothing else, and learns nothing: the
//! guest's addresses are known.

use std::net::Ipv6Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol,
    Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscPrefixInfoFlags, NdiscPrefixInformation,
    NdiscRepr, NdiscRouterFlags,
};

use crate::config::{GatewayConfig, LinkAddresses};

/// The answer to an ARP packet, if it has one.
pub(crate) fn answer_arp(bytes: &[u8], addresses: &LinkAddresses) -> Option<Vec<u8>> {
    let packet = ArpPacket::new_checked(bytes).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let from_guest = source_hardware_addr == EthernetAddress(addresses.guest_mac)
        && (source_protocol_addr == addresses.guest_v4 || source_protocol_addr.is_unspecified());
    if !from_guest || target_protocol_addr != addresses.gateway_v4 {
        return None;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(addresses.gateway_mac),
        source_protocol_addr: addresses.gateway_v4,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let mut answer = vec![0; reply.buffer_len()];
    reply.emit(&mut ArpPacket::new_unchecked(&mut answer[..]));
    Some(answer)
}

/// The answer to a neighbour or router solicitation, if it has one, as an IPv6 packet.
pub(crate) fn answer_discovery(bytes: &[u8], config: &GatewayConfig) -> Option<Vec<u8>> {
    let addresses = &config.addresses;
    let ip = Ipv6Packet::new_checked(bytes).ok()?;
    if ip.hop_limit() != HOP_LIMIT {
        return None;
    }
    let icmp = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    let repr = Icmpv6Repr::parse(
        &ip.src_addr(),
        &ip.dst_addr(),
        &icmp,
        &ChecksumCapabilities::ignored(),
    )
    .ok()?;
    let guest = ip.src_addr();
    match repr {
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }) => {
            let ours = target_addr == addresses.gateway_v6
                || target_addr == addresses.gateway_link_local();
            // From the unspecified address it asks whether the address is free; the guest's own is.
            let advert = NdiscRepr::NeighborAdvert {
                flags: NdiscNeighborFlags::ROUTER
                    | NdiscNeighborFlags::OVERRIDE
                    | if guest.is_unspecified() {
                        NdiscNeighborFlags::empty()
                    } else {
                        NdiscNeighborFlags::SOLICITED
                    },
                target_addr,
                lladdr: Some(EthernetAddress(addresses.gateway_mac).into()),
            };
            ours.then(|| emit(target_addr, reply_to(guest), advert))
        }
        Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { .. }) => Some(emit(
            addresses.gateway_link_local(),
            reply_to(guest),
            router_advert(config),
        )),
        _ => None,
    }
}

fn reply_to(guest: Ipv6Addr) -> Ipv6Addr {
    if guest.is_unspecified() {
        ALL_NODES
    } else {
        guest
    }
}

/// A default route and the prefix as on-link; addresses are set by the guest's init, never made up (no SLAAC).
fn router_advert(config: &GatewayConfig) -> NdiscRepr<'static> {
    let addresses = &config.addresses;
    let host_bits = u128::MAX
        .checked_shr(u32::from(addresses.prefix_v6))
        .unwrap_or(0);
    NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: Duration::from_secs(u64::from(u16::MAX)),
        reachable_time: Duration::ZERO,
        retrans_time: Duration::ZERO,
        lladdr: Some(EthernetAddress(addresses.gateway_mac).into()),
        mtu: Some(u32::from(config.mtu)),
        prefix_info: Some(NdiscPrefixInformation {
            prefix_len: addresses.prefix_v6,
            flags: NdiscPrefixInfoFlags::ON_LINK,
            valid_lifetime: Duration::from_secs(u64::from(u32::MAX)),
            preferred_lifetime: Duration::from_secs(u64::from(u32::MAX)),
            prefix: Ipv6Addr::from(u128::from(addresses.gateway_v6) & !host_bits),
        }),
    }
}

fn emit(source: Ipv6Addr, destination: Ipv6Addr, message: NdiscRepr<'_>) -> Vec<u8> {
    let icmp = Icmpv6Repr::Ndisc(message);
    let ip = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    let mut packet = vec![0; ip.buffer_len() + icmp.buffer_len()];
    ip.emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
    icmp.emit(
        &source,
        &destination,
        &mut Icmpv6Packet::new_unchecked(&mut packet[ip.buffer_len()..]),
        &ChecksumCapabilities::default(),
    );
    packet
}

/// Neighbour discovery is valid only with this hop limit (RFC 4861 §7.1): it has crossed no router.
const HOP_LIMIT: u8 = 255;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

#[cfg(test)]
mod tests;
