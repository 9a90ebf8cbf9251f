//! Names of addresses: `4.3.2.1.in-addr.arpa` (RFC 1035 §3.5) and the nibbles of `ip6.arpa` (RFC 3596 §2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;

/// The address whose reverse name is `name`.
pub(crate) fn address_of(name: &Name) -> Option<IpAddr> {
    let (address, parts) = network_of(name)?;
    let whole = if address.is_ipv4() { 4 } else { 32 };
    (parts == whole && usize::from(name.num_labels()) == whole + 2).then_some(address)
}

/// The lowest address of the network whose reverse zone `name` is in, and how many octets or nibbles of it the name
/// gives; `None` if that is nothing.
pub(crate) fn network_of(name: &Name) -> Option<(IpAddr, usize)> {
    let labels: Vec<&[u8]> = name.iter().collect();
    let mut from_end = labels.iter().rev().map(|label| label.to_ascii_lowercase());
    if from_end.next()? != b"arpa" {
        return None;
    }
    match &from_end.next()?[..] {
        b"in-addr" => {
            let mut octets = [0; 4];
            let parts = fill(&mut octets, from_end, |label| {
                let text = str::from_utf8(label).ok()?;
                let plain = text.len() == 1 || !text.starts_with(['0', '+']);
                plain.then(|| text.parse().ok())?
            });
            (parts > 0).then(|| (Ipv4Addr::from(octets).into(), parts))
        }
        b"ip6" => {
            let mut nibbles = [0; 32];
            let parts = fill(&mut nibbles, from_end, |label| match label {
                [digit] => Some(char::from(*digit).to_digit(16)? as u8),
                _ => None,
            });
            let bits = nibbles
                .iter()
                .fold(0, |bits, nibble| bits << 4 | u128::from(*nibble));
            (parts > 0).then(|| (Ipv6Addr::from_bits(bits).into(), parts))
        }
        _ => None,
    }
}

fn fill(
    room: &mut [u8],
    labels: impl Iterator<Item = Vec<u8>>,
    read: impl Fn(&[u8]) -> Option<u8>,
) -> usize {
    let mut parts = 0;
    for (slot, label) in room.iter_mut().zip(labels) {
        let Some(part) = read(&label) else { break };
        *slot = part;
        parts += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_whole_names_are_addresses() {
        let address = |text: &str| address_of(&Name::from_ascii(text).unwrap());
        assert_eq!(
            address("1.2.0.192.IN-ADDR.arpa."),
            Some([192, 0, 2, 1].into())
        );
        for name in [
            "2.0.192.in-addr.arpa.",
            "x.1.2.0.192.in-addr.arpa.",
            "1.2.0.192.arpa.",
            "01.2.0.192.in-addr.arpa.",
            "in-addr.arpa.",
            ".",
        ] {
            assert_eq!(address(name), None, "{name}");
        }
        let network = |text: &str| network_of(&Name::from_ascii(text).unwrap());
        assert_eq!(
            network("b._dns-sd._udp.0.168.192.in-addr.arpa."),
            Some(([192, 168, 0, 0].into(), 3))
        );
        assert_eq!(
            network("d.f.ip6.arpa."),
            Some(("fd00::".parse().unwrap(), 2))
        );
        assert_eq!(network("in-addr.arpa."), None);
    }

    proptest! {
        #[test]
        fn every_address_has_one_name(v4: [u8; 4], v6: [u8; 16]) {
            for address in [IpAddr::from(v4), IpAddr::from(v6)] {
                prop_assert_eq!(address_of(&Name::from(address)), Some(address));
            }
        }
    }
}
