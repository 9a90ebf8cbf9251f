//! Directory contents: blocks of entries followed by their names, sorted by name through the whole directory, so that the kernel can
//! search first among the blocks, then within one.

use super::BLOCK_SIZE;
use super::format::{DIRENT_SIZE as ENTRY, dirent, parse_dirent};

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

/// The names in one block of a directory as it is stored, `.` and `..` left out. `None` in place of an entry that is damaged.
pub(super) fn read(block: &[u8]) -> impl Iterator<Item = Option<Name<'_>>> {
    let entry = move |number: usize| {
        let bytes = block.get(number * ENTRY..)?.first_chunk()?;
        Some(parse_dirent(bytes))
    };
    let names_at = entry(0).map_or(ENTRY, |(_, name_at, _)| name_at);
    let count = (names_at / ENTRY).max(1);
    let name = move |number: usize| {
        let (nid, from, kind) = entry(number)?;
        let last = number + 1 == count;
        let to = if last {
            block.len()
        } else {
            entry(number + 1)?.1
        };
        let mut name = block.get(from..to)?;
        if last {
            // Zeros fill up the block.
            let used = name.iter().position(|&byte| byte == 0);
            name = &name[..used.unwrap_or(name.len())];
        }
        let valid =
            !name.is_empty() && name.len() <= 255 && !name.contains(&0) && !name.contains(&b'/');
        valid.then_some(Name { name, nid, kind })
    };
    (0..count).map(name).filter(|read| {
        !read
            .as_ref()
            .is_some_and(|read| matches!(read.name, b"." | b".."))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_back_from_their_blocks() {
        let text: Vec<_> = (0..700_u32)
            .map(|number| format!("{number:05}{}", "n".repeat(number as usize % 200)))
            .collect();
        let names = text.iter().zip(5..).map(|(name, nid)| Name {
            name: name.as_bytes(),
            nid,
            kind: 2,
        });
        let mut found = Vec::new();
        write(names, |block| {
            for name in read(block) {
                let name = name.unwrap();
                found.push((String::from_utf8(name.name.to_vec()).unwrap(), name.nid));
            }
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_eq!(found, text.into_iter().zip(5..).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn any_block_is_read_without_a_panic(block in proptest::collection::vec(any::<u8>(), 0..300)) {
            for name in read(&block).flatten() {
                prop_assert!(!name.name.is_empty() && !name.name.contains(&b'/'));
            }
        }

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
