use smoltcp::wire::IpAddress;

use super::*;
use crate::packet::{Inbound, classify};
use crate::tests::refusals::frame;

fn config() -> GatewayConfig {
    GatewayConfig::default()
}

fn who_has(sender: EthernetAddress, target: std::net::Ipv4Addr) -> Vec<u8> {
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: sender,
        source_protocol_addr: config().addresses.guest_v4,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let mut bytes = vec![0; request.buffer_len()];
    request.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
    bytes
}

#[test]
fn arp_answers_for_the_gateway_to_the_guest_only() {
    let addresses = config().addresses;
    let guest = EthernetAddress(addresses.guest_mac);
    let answer = answer_arp(&who_has(guest, addresses.gateway_v4), &addresses).unwrap();
    let repr = ArpRepr::parse(&ArpPacket::new_checked(&answer[..]).unwrap()).unwrap();
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        ..
    } = repr
    else {
        panic!("an Ethernet reply");
    };
    assert_eq!(operation, ArpOperation::Reply);
    assert_eq!(source_hardware_addr.0, addresses.gateway_mac);
    assert_eq!(source_protocol_addr, addresses.gateway_v4);
    assert_eq!(target_hardware_addr, guest);
    assert!(answer_arp(&who_has(guest, [10, 118, 0, 3].into()), &addresses).is_none());
    let other = EthernetAddress([2, 0, 0, 0, 0, 9]);
    assert!(answer_arp(&who_has(other, addresses.gateway_v4), &addresses).is_none());
}

fn solicit(source: Ipv6Addr, message: NdiscRepr<'_>) -> Option<Vec<u8>> {
    let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let packet = emit(source, all_routers, message);
    // As it comes through the front door.
    let mut bytes = frame(
        IpAddress::Ipv6(source),
        IpAddress::Ipv6(all_routers),
        IpProtocol::Icmpv6,
        &packet[40..],
    );
    bytes[21] = HOP_LIMIT;
    let Inbound::Discovery(packet) = classify(&bytes, &config().addresses) else {
        return None;
    };
    answer_discovery(packet, &config())
}

fn parse(packet: &[u8]) -> (Ipv6Addr, Ipv6Addr, NdiscRepr<'_>) {
    let ip = Ipv6Packet::new_checked(packet).unwrap();
    assert_eq!(ip.hop_limit(), HOP_LIMIT);
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let icmp = Icmpv6Packet::new_checked(&packet[40..]).unwrap();
    let checked = ChecksumCapabilities::default();
    let repr = Icmpv6Repr::parse(&source, &destination, &icmp, &checked).unwrap();
    let Icmpv6Repr::Ndisc(message) = repr else {
        panic!("a neighbour message");
    };
    (source, destination, message)
}

#[test]
fn neighbour_solicitation_is_answered_for_both_of_our_addresses_only() {
    let addresses = config().addresses;
    for target in [addresses.gateway_v6, addresses.gateway_link_local()] {
        for source in [addresses.guest_v6, addresses.guest_link_local()] {
            let message = NdiscRepr::NeighborSolicit {
                target_addr: target,
                lladdr: None,
            };
            let answer = solicit(source, message).unwrap();
            let (from, to, message) = parse(&answer);
            assert_eq!((from, to), (target, source));
            let NdiscRepr::NeighborAdvert {
                lladdr,
                target_addr,
                ..
            } = message
            else {
                panic!("an advertisement");
            };
            assert_eq!(target_addr, target);
            assert_eq!(lladdr, Some(EthernetAddress(addresses.gateway_mac).into()));
        }
    }
    let message = NdiscRepr::NeighborSolicit {
        target_addr: addresses.guest_v6,
        lladdr: None,
    };
    assert!(
        solicit(Ipv6Addr::UNSPECIFIED, message).is_none(),
        "the guest's own address is free"
    );
}

#[test]
fn router_solicitation_gets_a_default_route_and_no_address() {
    let addresses = config().addresses;
    let message = NdiscRepr::RouterSolicit { lladdr: None };
    let answer = solicit(addresses.guest_link_local(), message).unwrap();
    let (from, to, message) = parse(&answer);
    assert_eq!(from, addresses.gateway_link_local());
    assert_eq!(to, addresses.guest_link_local());
    let NdiscRepr::RouterAdvert {
        router_lifetime,
        mtu,
        prefix_info: Some(prefix),
        ..
    } = message
    else {
        panic!("an advertisement");
    };
    assert!(router_lifetime > Duration::ZERO);
    assert_eq!(mtu, Some(65_520));
    assert_eq!(prefix.flags, NdiscPrefixInfoFlags::ON_LINK);
    assert_eq!(
        prefix.prefix,
        Ipv6Addr::new(0xfd76, 0x6d00, 0, 0, 0, 0, 0, 0)
    );
    let message = NdiscRepr::RouterSolicit { lladdr: None };
    let answer = solicit(Ipv6Addr::UNSPECIFIED, message).unwrap();
    assert_eq!(parse(&answer).1, ALL_NODES);
}

#[test]
fn solicitations_that_crossed_a_router_are_ignored() {
    let addresses = config().addresses;
    let message = NdiscRepr::NeighborSolicit {
        target_addr: addresses.gateway_v6,
        lladdr: None,
    };
    let mut packet = emit(addresses.guest_v6, addresses.gateway_v6, message);
    assert!(answer_discovery(&packet, &config()).is_some());
    packet[7] = 254;
    assert!(answer_discovery(&packet, &config()).is_none());
}
