//! The 512-byte header block (POSIX.1 ustar; GNU variant).

use super::sparse::Segment;
use super::{ArchiveError, BLOCK, EntryKind};
use crate::escape::Escaped;

/// The most device numbers Linux has: 12 bits major, 20 bits minor.
const MAX_MAJOR: u64 = (1 << 12) - 1;
const MAX_MINOR: u64 = (1 << 20) - 1;

/// A header whose checksum is right.
pub(super) struct Header([u8; BLOCK]);

impl Header {
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Self, ArchiveError> {
        let header = Self(block);
        let stated = header.number(148, 8, "checksum")?;
        let counted = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
        let unsigned: u64 = block
            .iter()
            .enumerate()
            .map(|(at, &byte)| u64::from(counted(at, byte)))
            .sum();
        // Some old writers summed signed characters.
        let signed: i64 = block
            .iter()
            .enumerate()
            .map(|(at, &byte)| i64::from(counted(at, byte).cast_signed()))
            .sum();
        if stated == unsigned || i64::try_from(stated) == Ok(signed) {
            Ok(header)
        } else {
            Err(header.refuse("wrong checksum"))
        }
    }

    /// The type flag.
    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// What the entry is; sizes of files are filled in by the caller. `link` gives the link target.
    pub(super) fn entry_kind(
        &self,
        path: &[u8],
        link: impl Fn() -> Vec<u8>,
    ) -> Result<EntryKind, ArchiveError> {
        Ok(match self.kind() {
            // Before POSIX a directory was a file whose name ends in a slash.
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File {
                size: 0,
                segments: None,
            },
            b'1' => EntryKind::HardLink { target: link() },
            b'2' => EntryKind::Symlink { target: link() },
            b'3' => EntryKind::CharDevice {
                major: self.device(329, MAX_MAJOR)?,
                minor: self.device(337, MAX_MINOR)?,
            },
            b'4' => EntryKind::BlockDevice {
                major: self.device(329, MAX_MAJOR)?,
                minor: self.device(337, MAX_MINOR)?,
            },
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            _ => return Err(self.refuse("unknown entry type")),
        })
    }

    pub(super) fn path(&self) -> Result<Vec<u8>, ArchiveError> {
        let name = text(&self.0[..100]);
        // Only POSIX headers have a prefix; GNU keeps other things there.
        let prefix = if &self.0[257..263] == b"ustar\0" {
            text(&self.0[345..500])
        } else {
            &[]
        };
        if prefix.is_empty() {
            Ok(name.to_vec())
        } else {
            Ok([prefix, b"/", name].concat())
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u16, ArchiveError> {
        let mode = self.number(100, 8, "mode")?;
        Ok(u16::try_from(mode & 0o7777).expect("twelve bits"))
    }

    pub(super) fn uid(&self) -> Result<u32, ArchiveError> {
        self.owner(108)
    }

    pub(super) fn gid(&self) -> Result<u32, ArchiveError> {
        self.owner(116)
    }

    pub(super) fn size(&self) -> Result<u64, ArchiveError> {
        // The stream is counted in 64 bits with room to add: no real archive comes near.
        self.number(124, 12, "size").and_then(|size| {
            if size > 1 << 60 {
                Err(self.refuse("size out of range"))
            } else {
                Ok(size)
            }
        })
    }

    pub(super) fn mtime(&self) -> Result<i64, ArchiveError> {
        signed_number(&self.0[136..148])
            .ok_or_else(|| self.refuse("modification time out of range"))
    }

    /// The up to four segments of an old GNU sparse header, and whether more blocks of them follow.
    pub(super) fn sparse_map(&self) -> Result<(Vec<Segment>, bool), ArchiveError> {
        let map =
            segments(&self.0[386..482]).ok_or_else(|| self.refuse("sparse map out of range"))?;
        Ok((map, self.0[482] != 0))
    }

    /// The size of an old GNU sparse file with its holes.
    pub(super) fn real_size(&self) -> Result<u64, ArchiveError> {
        self.number(483, 12, "real size")
    }

    fn owner(&self, at: usize) -> Result<u32, ArchiveError> {
        u32::try_from(self.number(at, 8, "owner")?).map_err(|_| self.refuse("owner out of range"))
    }

    fn device(&self, at: usize, limit: u64) -> Result<u32, ArchiveError> {
        match self.number(at, 8, "device number")? {
            number if number <= limit => Ok(u32::try_from(number).expect("at most twenty bits")),
            _ => Err(self.refuse("device number out of range")),
        }
    }

    fn number(&self, at: usize, length: usize, what: &'static str) -> Result<u64, ArchiveError> {
        let number =
            signed_number(&self.0[at..at + length]).and_then(|number| u64::try_from(number).ok());
        number.ok_or_else(|| ArchiveError::Header {
            path: Escaped::new(text(&self.0[..100])),
            what,
        })
    }

    fn refuse(&self, what: &'static str) -> ArchiveError {
        ArchiveError::Header {
            path: Escaped::new(text(&self.0[..100])),
            what,
        }
    }
}

/// Pairs of offset and length, twelve bytes each, up to the first empty one.
pub(super) fn segments(bytes: &[u8]) -> Option<Vec<Segment>> {
    let mut map = Vec::new();
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let offset = u64::try_from(signed_number(&pair[..12])?).ok()?;
        let length = u64::try_from(signed_number(&pair[12..])?).ok()?;
        map.push(Segment { offset, length });
    }
    Some(map)
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Octal text, or GNU base-256 with the top bit set (two's complement, big-endian).
fn signed_number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, &byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative {
                byte & 0x7f
            } else {
                byte
            };
            value = value << 8 | i128::from(byte);
        }
        return i64::try_from(value).ok();
    }
    let digits = field.trim_ascii_start();
    let end = digits
        .iter()
        .position(|byte| matches!(byte, 0 | b' '))
        .unwrap_or(digits.len());
    if !digits[end..].iter().all(|byte| matches!(byte, 0 | b' ')) {
        return None;
    }
    digits[..end]
        .iter()
        .try_fold(0_i64, |value, &digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_octal_and_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"12x4567\0", None),
            (b"12\x004567\0", None),
            (b"8\0\0\0\0\0\0\0", None),
            (b"-1\0\0\0\0\0\0", None),
        ] {
            assert_eq!(signed_number(field), value, "{field:?}");
        }
    }
}
