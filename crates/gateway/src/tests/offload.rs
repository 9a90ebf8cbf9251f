//! What the guest's driver does with frames whose checksum or segmentation was left to it.

/// Adds the sum of everything from `start` to the pseudo-header sum in place.
pub(super) fn finish_checksum(frame: &mut [u8], start: usize, offset: usize) {
    let mut sum: u32 = frame[start..]
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !(sum as u16);
    frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Cuts a TCP frame into segments of `size` bytes.
pub(super) fn segments(
    frame: &[u8],
    header_len: usize,
    size: usize,
    tcp_at: usize,
) -> Vec<Vec<u8>> {
    let (headers, payload) = frame.split_at(header_len);
    let sequence = u32::from_be_bytes(headers[tcp_at + 4..tcp_at + 8].try_into().unwrap());
    let v6 = headers[14] >> 4 == 6;
    let source = if v6 {
        headers[22..54].to_vec()
    } else {
        headers[26..34].to_vec()
    };
    let pieces: Vec<&[u8]> = payload.chunks(size).collect();
    let last = pieces.len() - 1;
    let mut out = Vec::new();
    for (number, piece) in pieces.into_iter().enumerate() {
        let mut segment = headers.to_vec();
        segment.extend_from_slice(piece);
        let at = sequence.wrapping_add((number * size) as u32);
        segment[tcp_at + 4..tcp_at + 8].copy_from_slice(&at.to_be_bytes());
        if number != last {
            segment[tcp_at + 13] &= !0x09; // FIN and PSH belong to the last
        }
        let tcp_len = segment.len() - tcp_at;
        let mut sum: u32 = source
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        sum += 6 + tcp_len as u32;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        segment[tcp_at + 16..tcp_at + 18].copy_from_slice(&(sum as u16).to_be_bytes());
        finish_checksum(&mut segment, tcp_at, 16);
        if v6 {
            segment[18..20].copy_from_slice(&(tcp_len as u16).to_be_bytes());
        } else {
            let total = (segment.len() - 14) as u16;
            segment[16..18].copy_from_slice(&total.to_be_bytes());
            segment[24..26].fill(0);
            let mut header = segment[14..34].to_vec();
            finish_checksum(&mut header, 0, 10);
            segment[14..34].copy_from_slice(&header);
        }
        out.push(segment);
    }
    out
}
