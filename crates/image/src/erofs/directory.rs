//! Directory contents: blocks of entries followed by their names, sorted by name through the whole directory, so that the kernel can
//! search first among the blocks, then within one.

use super::BLOCK_SIZE;
use super::format::dirent;

const ENTRY: usize = 12;

/// One name for the directory being written.
pub(super) struct Name<'a> {
    pub(super) name: &'a [u8],
    pub(super) nid: u64,
    pub(super) kind: u8,
}

/// The bytes a directory with names of these lengths, in order, takes.
pub(super) fn size(lengths: impl Iterator<Item = usize>) -> u64 {
    let (mut blocks, mut used) = (0, 0);
    for length in lengths {
        if used + ENTRY + length > BLOCK_SIZE as usize {
            blocks += 1;
            used = 0;
        }
        used += ENTRY + length;
    }
    blocks * BLOCK_SIZE + used as u64
}

/// Writes the directory's content to `emit`, block by block; the last one only as far as it is used.
pub(super) fn write<'a, E>(
    names: impl Iterator<Item = Name<'a>>,
    mut emit: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut block: Vec<Name<'a>> = Vec::new();
    let mut used = 0;
    for name in names {
        let needed = ENTRY + name.name.len();
        if used + needed > BLOCK_SIZE as usize {
            let mut bytes = encode(&block);
            bytes.resize(BLOCK_SIZE as usize, 0);
            emit(&bytes)?;
            block.clear();
            used = 0;
        }
        used += needed;
        block.push(name);
    }
    emit(&encode(&block))
}

fn encode(names: &[Name<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK_SIZE as usize);
    let mut name_at = names.len() * ENTRY;
    for name in names {
        bytes.extend_from_slice(&dirent(
            name.nid,
            u16::try_from(name_at).expect("within a block"),
            name.kind,
        ));
        name_at += name.name.len();
    }
    for name in names {
        bytes.extend_from_slice(name.name);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_predicted_size_is_the_written_size(lengths in proptest::collection::vec(1_usize..=255, 1..600)) {
            let text = [b'n'; 255];
            let mut written = Vec::new();
            let names = lengths.iter().map(|&length| Name { name: &text[..length], nid: 1, kind: 1 });
            write(names, |bytes| { written.extend_from_slice(bytes); Ok::<_, ()>(()) }).unwrap();
            prop_assert_eq!(written.len() as u64, size(lengths.into_iter()));
        }
    }
}
