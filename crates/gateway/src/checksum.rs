//! The Internet checksum (RFC 1071): its pseudo-header part (RFC 9293 §3.1, RFC 8200 §8.1), for frames whose sum the guest
//! finishes, and the sum of everything, for those it does not.

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

/// One's-complement sum of the 16-bit words of `bytes`, the last one filled up with zero; folded and not inverted.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    // The sum does not depend on the byte order, apart from that of the result (RFC 1071 §2); wide words are quick.
    let words = bytes.chunks_exact(8);
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    let mut sum = u128::from(u64::from_ne_bytes(last));
    for word in words {
        sum += u128::from(u64::from_ne_bytes(word.try_into().expect("it is 8 bytes")));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::from_be(sum as u16)
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

    #[test]
    fn sums_words_of_any_number_of_bytes() {
        // The example of RFC 1071 §3.
        let example = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&example), 0xddf2);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0xab]), 0xab00);
        for len in 0..70 {
            let bytes: Vec<u8> = (0..len).map(|n: u8| n.wrapping_mul(201) ^ 0x5a).collect();
            let mut plain: u32 = bytes
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
                .sum();
            while plain > 0xffff {
                plain = (plain & 0xffff) + (plain >> 16);
            }
            assert_eq!(u32::from(sum(&bytes)), plain, "{len} bytes");
        }
    }
}
