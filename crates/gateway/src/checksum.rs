//! The Internet checksum's pseudo-header part (RFC 9293 §3.1, RFC 8200 §8.1), for frames whose sum the guest finishes.

use std::net::IpAddr;

/// One's-complement sum over the pseudo-header, folded and not inverted: what a NEEDS_CSUM frame carries.
pub(crate) fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u16 {
    let mut sum = u32::from(protocol) + fold_len(len);
    for address in [source, destination] {
        sum += match address {
            IpAddr::V4(v4) => words(&v4.octets()),
            IpAddr::V6(v6) => words(&v6.octets()),
        };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn fold_len(len: usize) -> u32 {
    ((len >> 16) & 0xffff) as u32 + (len & 0xffff) as u32
}

fn words(octets: &[u8]) -> u32 {
    octets
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_addresses_protocol_and_length() {
        let sum = pseudo_header(
            IpAddr::from([10, 0, 0, 1]),
            IpAddr::from([10, 0, 0, 2]),
            6,
            20,
        );
        assert_eq!(sum, 0x0a00 + 1 + 0x0a00 + 2 + 6 + 20);
    }

    #[test]
    fn folds_the_carry() {
        let all = IpAddr::from([255, 255, 255, 255]);
        // 4 * 0xffff is zero in one's complement, which folds to 0xffff; adding 6 + 1 gives 7.
        assert_eq!(pseudo_header(all, all, 6, 1), 7);
    }
}
