//! What kind of address a destination is, from the IANA IPv4 and IPv6 special-purpose address registries
//! (RFC 6890 and updates), after undoing every notation that hides an IPv4 address in an IPv6 one.
//!
//! Stricter than the registries where "globally reachable" would still reach the user's own network: the anycast
//! addresses of port control and TURN (192.0.0.9, 192.0.0.10, 2001:1::1 to ::3) end at the nearest router, and some
//! clouds answer instance metadata at otherwise ordinary addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Kind of a destination; only [`AddressClass::Global`] may be reached without an explicit exemption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressClass {
    /// Global unicast: the public Internet.
    Global,
    /// 0.0.0.0/8 and `::`: this host, this network.
    Unspecified,
    /// 127.0.0.0/8 and `::1`.
    Loopback,
    /// RFC 1918 networks, unique local and site-local addresses.
    Private,
    /// 100.64.0.0/10, shared between carriers and subscribers (RFC 6598).
    Shared,
    /// 169.254.0.0/16 and fe80::/10.
    LinkLocal,
    /// Instance metadata services of clouds: they hand out credentials.
    Metadata,
    /// 224.0.0.0/4 and ff00::/8.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// Documentation and benchmarking networks: never real hosts.
    Documentation,
    /// Tunnels and translators whose end cannot be judged: 6to4, Teredo, locally assigned NAT64.
    Transition,
    /// Everything the registries keep for special or future use.
    Reserved,
}

/// The address that is really meant: an IPv4-mapped IPv6 address is the IPv4 address, also when it is dialled.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The kind of `address`, whatever notation it came in.
#[must_use]
pub fn classify(address: IpAddr) -> AddressClass {
    match canonical(address) {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

/// Metadata services: AWS, GCP, Azure, Hetzner, DigitalOcean (169.254.169.254), AWS ECS (169.254.170.2) and EKS
/// (169.254.170.23), Alibaba, Oracle, and Azure's WireServer, which is a public address.
const METADATA_V4: [Ipv4Addr; 6] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];

/// Metadata services: AWS, AWS EKS, GCP, Scaleway.
const METADATA_V6: [Ipv6Addr; 4] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    use AddressClass as Class;
    if METADATA_V4.contains(&address) {
        return Class::Metadata;
    }
    match address.octets() {
        [0, ..] => Class::Unspecified,
        [127, ..] => Class::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Class::Private,
        [100, 64..=127, ..] => Class::Shared,
        [169, 254, ..] => Class::LinkLocal,
        [192, 0, 0, _] => Class::Reserved,
        [192, 88, 99, _] => Class::Transition,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [198, 18 | 19, ..] => {
            Class::Documentation
        }
        [224..=239, ..] => Class::Multicast,
        [255, 255, 255, 255] => Class::Broadcast,
        [240..=255, ..] => Class::Reserved,
        _ => Class::Global,
    }
}

fn classify_v6(address: Ipv6Addr) -> AddressClass {
    use AddressClass as Class;
    if METADATA_V6.contains(&address) {
        return Class::Metadata;
    }
    let segments = address.segments();
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Class::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Loopback,
        // IPv4-compatible (RFC 4291 §2.5.5.1) and IPv4-translated (RFC 2765): named after what they hide.
        [0, 0, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            hidden(high, low, Class::Reserved)
        }
        // NAT64 (RFC 6052): reaches exactly the IPv4 address it holds.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => hidden(high, low, Class::Global),
        [0x64, 0xff9b, 1, ..] => Class::Transition,
        [0x2002, high, low, ..] => hidden(high, low, Class::Transition),
        [0x2001, 0, ..] => Class::Transition,
        [0x2001, 2, 0, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Class::Documentation,
        // AMT and AS112 are the only globally reachable parts of 2001::/23 that are hosts.
        [0x2001, 3, ..] | [0x2001, 4, 0x112, ..] => Class::Global,
        [0x2001, 0..=0x1ff, ..] => Class::Reserved,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Class::Private,
        [0xfe80..=0xfebf, ..] => Class::LinkLocal,
        [0xff00..=0xffff, ..] => Class::Multicast,
        [0x2000..=0x3fff, ..] => Class::Global,
        _ => Class::Reserved,
    }
}

/// The class of an IPv4 address inside an IPv6 one; `when_global` if that address itself is public.
fn hidden(high: u16, low: u16, when_global: AddressClass) -> AddressClass {
    let bits = u32::from(high) << 16 | u32::from(low);
    match classify_v4(Ipv4Addr::from_bits(bits)) {
        AddressClass::Global => when_global,
        class => class,
    }
}

#[cfg(test)]
mod tests;
