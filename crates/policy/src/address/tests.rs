//! The registries as a table, and every notation of the addresses that matter most.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use AddressClass as Class;

/// IANA special-purpose address registries (2025): block, what we make of it.
const REGISTRY: &[(&str, Class)] = &[
    ("0.0.0.0/8", Class::Unspecified),
    ("10.0.0.0/8", Class::Private),
    ("100.64.0.0/10", Class::Shared),
    ("127.0.0.0/8", Class::Loopback),
    ("169.254.0.0/16", Class::LinkLocal),
    ("172.16.0.0/12", Class::Private),
    ("192.0.0.0/24", Class::Reserved),
    ("192.0.0.0/29", Class::Reserved),
    ("192.0.0.8/32", Class::Reserved),
    ("192.0.0.9/32", Class::Reserved),
    ("192.0.0.10/32", Class::Reserved),
    ("192.0.0.170/31", Class::Reserved),
    ("192.0.2.0/24", Class::Documentation),
    ("192.31.196.0/24", Class::Global),
    ("192.52.193.0/24", Class::Global),
    ("192.88.99.0/24", Class::Transition),
    ("192.168.0.0/16", Class::Private),
    ("192.175.48.0/24", Class::Global),
    ("198.18.0.0/15", Class::Documentation),
    ("198.51.100.0/24", Class::Documentation),
    ("203.0.113.0/24", Class::Documentation),
    ("224.0.0.0/4", Class::Multicast),
    ("240.0.0.0/5", Class::Reserved),
    ("255.255.255.255/32", Class::Broadcast),
    ("::1/128", Class::Loopback),
    ("::/128", Class::Unspecified),
    ("::ffff:7f00:0/104", Class::Loopback),
    ("64:ff9b::10.0.0.0/104", Class::Private),
    ("64:ff9b:1::/48", Class::Transition),
    ("100::/64", Class::Reserved),
    ("100:0:0:1::/64", Class::Reserved),
    ("2001::/32", Class::Transition),
    ("2001:1::1/128", Class::Reserved),
    ("2001:1::2/128", Class::Reserved),
    ("2001:1::3/128", Class::Reserved),
    ("2001:2::/48", Class::Documentation),
    ("2001:3::/32", Class::Global),
    ("2001:4:112::/48", Class::Global),
    ("2001:10::/28", Class::Reserved),
    ("2001:20::/28", Class::Reserved),
    ("2001:30::/28", Class::Reserved),
    ("2001:1ff::/32", Class::Reserved),
    ("2001:db8::/32", Class::Documentation),
    ("2002:a00::/24", Class::Private),
    ("2002:808::/32", Class::Transition),
    ("2620:4f:8000::/48", Class::Global),
    ("3fff::/20", Class::Documentation),
    ("5f00::/16", Class::Reserved),
    ("fc00::/7", Class::Private),
    ("fe80::/10", Class::LinkLocal),
    ("fec0::/10", Class::Private),
    ("ff00::/8", Class::Multicast),
];

#[test]
fn first_and_last_address_of_every_registered_block_have_its_class() {
    for (block, class) in REGISTRY {
        let net: IpNet = block.parse().unwrap();
        for address in [net.network(), net.broadcast()] {
            assert_eq!(classify(address), *class, "{address} of {block}");
        }
    }
}

#[test]
fn neighbours_of_special_blocks_are_public() {
    for text in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "8.8.8.8",
        "2000::",
        "2001:200::",
        "2001:db7:ffff::",
        "2001:db9::",
        "2003::",
        "2606:4700::1111",
        "3ffe::1",
        "3fff:1000::",
        "64:ff9b::8.8.8.8",
    ] {
        let address: IpAddr = text.parse().unwrap();
        assert_eq!(classify(address), Class::Global, "{text}");
    }
}

#[test]
fn loopback_and_metadata_are_seen_through_every_notation() {
    for (v4, class) in [
        (Ipv4Addr::LOCALHOST, Class::Loopback),
        (Ipv4Addr::new(169, 254, 169, 254), Class::Metadata),
        (Ipv4Addr::new(10, 1, 2, 3), Class::Private),
        (Ipv4Addr::UNSPECIFIED, Class::Unspecified),
    ] {
        let [a, b, c, d] = v4.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let notations = [
            v4.to_ipv6_mapped(),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
        ];
        for v6 in notations {
            assert_eq!(classify(v6.into()), class, "{v6}");
        }
    }
}

#[test]
fn metadata_services_are_named_as_such() {
    for text in [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:168.63.129.16",
        "64:ff9b::168.63.129.16",
    ] {
        assert_eq!(classify(text.parse().unwrap()), Class::Metadata, "{text}");
    }
}

proptest! {
    #[test]
    fn a_mapped_address_has_the_class_of_its_ipv4_address(bits: u32) {
        let v4 = Ipv4Addr::from_bits(bits);
        prop_assert_eq!(classify(v4.to_ipv6_mapped().into()), classify(v4.into()));
    }

    #[test]
    fn outside_global_unicast_only_nat64_is_public(bits: u128) {
        let v6 = Ipv6Addr::from_bits(bits);
        let outside = v6.segments()[0] & 0xe000 != 0x2000 && v6.to_ipv4_mapped().is_none();
        if outside && v6.segments()[..6] != [0x64, 0xff9b, 0, 0, 0, 0] {
            prop_assert_ne!(classify(v6.into()), Class::Global);
        }
    }
}
