//! Archives out of arbitrary bytes, with checksums that fit: guessing them would take a fuzzer for ever.

#![allow(dead_code, reason = "each target uses one of them")]

const BLOCK: usize = 512;

/// The bytes as an archive: each block that looks like a header gets the checksum it should have.
pub(crate) fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut archive = data.to_vec();
    for block in archive.chunks_exact_mut(BLOCK) {
        if block[257..262] == *b"ustar" {
            set_checksum(block);
        }
    }
    archive
}

/// Two archives: the first byte says how many blocks belong to the first.
pub(crate) fn two(data: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let Some((&blocks, data)) = data.split_first() else {
        return (Vec::new(), Vec::new());
    };
    let (lower, upper) = data.split_at(data.len().min(usize::from(blocks) * BLOCK));
    (with_checksums(lower), with_checksums(upper))
}

/// Half of the bytes (as the first one divides them) as the pax records of a file, the rest as its content.
pub(crate) fn with_records(data: &[u8]) -> Vec<u8> {
    let Some((&share, data)) = data.split_first() else {
        return Vec::new();
    };
    let (records, content) = data.split_at(data.len() * usize::from(share) / 255);
    let mut archive = Vec::new();
    push(&mut archive, b'x', records);
    push(&mut archive, b'0', content);
    push(&mut archive, b'0', b"next");
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

fn push(archive: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let mut header = [0; BLOCK];
    header[..4].copy_from_slice(b"name");
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    set_checksum(&mut header);
    archive.extend(header);
    archive.extend(body);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

fn set_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}
