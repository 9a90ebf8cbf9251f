//! The 512-byte header block: the `tar` crate reads it, this reader says what it accepts of it.
//!
//! Only the crate's view of a block is used, not its iteration over an archive: that goes on from the size in the header, while the
//! next header is found by the pax size, by the type (only files have content) and after the further blocks of a sparse map; its
//! metadata buffers are unbounded, and it cannot tell a broken stream from a wrong header.
//!
//! With the crate stricter than Go, in what no layer has: permission bits and device numbers must be octal, never GNU base-256, and a
//! device needs a POSIX or GNU header (Go reads 0:0 from an older one).

use std::io;

use tar::{EntryType, GnuSparseHeader};

use super::sparse::Segment;
use super::{ArchiveError, BLOCK, EntryKind};
use crate::escape::Escaped;

/// The most device numbers Linux has: 12 bits major, 20 bits minor.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;
/// The largest size: the stream is counted in 64 bits with room to add, and no real archive comes near.
const MAX_SIZE: u64 = 1 << 60;

/// A header whose checksum is right.
pub(super) struct Header(tar::Header);

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, ArchiveError> {
        let mut header = Self(tar::Header::from_byte_slice(block).clone());
        let cksum = &header.0.as_old().cksum;
        let stated = header.octal(cksum, "checksum", |raw| raw.cksum().map(Some))?;
        let mut summed = header.0.clone();
        summed.set_cksum();
        if summed.cksum().ok() != Some(stated) && !is_signed_sum(&summed, stated) {
            return Err(header.refuse("wrong checksum"));
        }
        // Go takes any version of the POSIX header. The crate knows only `00` and would lose the first part of the path of another.
        if block[257..].starts_with(b"ustar\0") {
            header.0.as_mut_bytes()[263..265].copy_from_slice(b"00");
        }
        Ok(header)
    }

    /// The type flag.
    pub(super) fn kind(&self) -> EntryType {
        self.0.entry_type()
    }

    /// What the entry is; sizes of files are filled in by the caller. `link` gives the link target.
    pub(super) fn entry_kind(
        &self,
        path: &[u8],
        link: impl Fn() -> Vec<u8>,
    ) -> Result<EntryKind, ArchiveError> {
        Ok(match self.kind() {
            // Before POSIX a directory was a file whose name ends in a slash.
            EntryType::Regular if self.0.as_old().linkflag == [0] && path.ends_with(b"/") => {
                EntryKind::Directory
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::File {
                size: 0,
                segments: None,
            },
            EntryType::Link => EntryKind::HardLink { target: link() },
            EntryType::Symlink => EntryKind::Symlink { target: link() },
            EntryType::Char => {
                let (major, minor) = self.device()?;
                EntryKind::CharDevice { major, minor }
            }
            EntryType::Block => {
                let (major, minor) = self.device()?;
                EntryKind::BlockDevice { major, minor }
            }
            EntryType::Directory => EntryKind::Directory,
            EntryType::Fifo => EntryKind::Fifo,
            _ => return Err(self.refuse("unknown entry type")),
        })
    }

    pub(super) fn path(&self) -> Vec<u8> {
        self.0.path_bytes().into_owned()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        self.0.link_name_bytes().unwrap_or_default().into_owned()
    }

    pub(super) fn mode(&self) -> Result<u16, ArchiveError> {
        let mode = self.octal(&self.0.as_old().mode, "mode", |raw| raw.mode().map(Some))?;
        Ok(u16::try_from(mode & 0o7777).expect("twelve bits"))
    }

    pub(super) fn uid(&self) -> Result<u32, ArchiveError> {
        self.owner(number(&self.0.as_old().uid, || self.0.uid()))
    }

    pub(super) fn gid(&self) -> Result<u32, ArchiveError> {
        self.owner(number(&self.0.as_old().gid, || self.0.gid()))
    }

    /// The bytes that follow the header, whatever the entry is.
    pub(super) fn size(&self) -> Result<u64, ArchiveError> {
        size(&self.0.as_old().size, || self.0.entry_size())
            .ok_or_else(|| self.refuse("size out of range"))
    }

    pub(super) fn mtime(&self) -> Result<i64, ArchiveError> {
        number(&self.0.as_old().mtime, || self.0.mtime())
            .map(u64::cast_signed)
            .ok_or_else(|| self.refuse("modification time out of range"))
    }

    /// The up to four segments of an old GNU sparse header, and whether more blocks of them follow.
    pub(super) fn sparse_map(&self) -> Result<(Vec<Segment>, bool), ArchiveError> {
        let gnu = self.gnu()?;
        let map = segments(&gnu.sparse).ok_or_else(|| self.refuse("sparse map out of range"))?;
        Ok((map, gnu.isextended != [0]))
    }

    /// The size of an old GNU sparse file with its holes.
    pub(super) fn real_size(&self) -> Result<u64, ArchiveError> {
        let gnu = self.gnu()?;
        size(&gnu.realsize, || gnu.real_size()).ok_or_else(|| self.refuse("real size out of range"))
    }

    /// As in Go: the star format has the same type with another layout.
    fn gnu(&self) -> Result<&tar::GnuHeader, ArchiveError> {
        self.0
            .as_gnu()
            .ok_or_else(|| self.refuse("a sparse file without a GNU header"))
    }

    fn owner(&self, number: Option<u64>) -> Result<u32, ArchiveError> {
        let number = number.ok_or_else(|| self.refuse("owner"))?;
        u32::try_from(number).map_err(|_| self.refuse("owner out of range"))
    }

    fn device(&self) -> Result<(u32, u32), ArchiveError> {
        let bytes = self.0.as_bytes();
        let what = "device number";
        let major = self.octal(&bytes[329..337], what, tar::Header::device_major)?;
        let minor = self.octal(&bytes[337..345], what, tar::Header::device_minor)?;
        if major > MAX_MAJOR || minor > MAX_MINOR {
            return Err(self.refuse("device number out of range"));
        }
        Ok((major, minor))
    }

    /// A field the crate reads as octal only, and `None` where the header has no such field.
    fn octal(
        &self,
        field: &[u8],
        what: &'static str,
        read: impl Fn(&tar::Header) -> io::Result<Option<u32>>,
    ) -> Result<u32, ArchiveError> {
        let number = match form(field) {
            Form::Blank => Some(0),
            Form::Octal => read(&self.0).ok().flatten(),
            Form::Binary | Form::Malformed => None,
        };
        number.ok_or_else(|| self.refuse(what))
    }

    fn refuse(&self, what: &'static str) -> ArchiveError {
        ArchiveError::Header {
            path: Escaped::new(self.0.path_bytes()),
            what,
        }
    }
}

/// Some old writers summed signed characters, which Go takes and the crate does not: 256 less for each byte with the top bit set.
fn is_signed_sum(summed: &tar::Header, stated: u32) -> bool {
    // The checksum field itself holds digits here.
    let high = summed.as_bytes().iter().filter(|byte| !byte.is_ascii());
    let less = 256 * u32::try_from(high.count()).expect("at most 512 bytes");
    summed.cksum().ok() == stated.checked_add(less)
}

/// The segments of an old GNU sparse map up to the first empty one (as in Go); `None` if one is out of range.
pub(super) fn segments(map: &[GnuSparseHeader]) -> Option<Vec<Segment>> {
    map.iter()
        .take_while(|segment| segment.offset[0] != 0)
        .map(|segment| {
            Some(Segment {
                offset: size(&segment.offset, || segment.offset())?,
                length: size(&segment.numbytes, || segment.length())?,
            })
        })
        .collect()
}

fn size(field: &[u8], read: impl Fn() -> io::Result<u64>) -> Option<u64> {
    number(field, read).filter(|&size| size <= MAX_SIZE)
}

/// A number as the crate reads it (negative ones in two's complement), where every reader would read the same.
fn number(field: &[u8], read: impl Fn() -> io::Result<u64>) -> Option<u64> {
    match form(field) {
        Form::Blank => Some(0),
        Form::Octal | Form::Binary => read().ok(),
        Form::Malformed => None,
    }
}

/// How a number is written.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    Blank,
    Octal,
    /// GNU base-256: the top bit is set, the rest is big-endian two's complement.
    Binary,
    Malformed,
}

/// Looks at a number before the crate reads it: it refuses blank fields (zero for Go and GNU tar), and it takes what readers disagree
/// about: signs, bytes after a NUL, and twelve binary bytes, of which it drops the first four.
fn form(field: &[u8]) -> Form {
    if field[0] & 0x80 != 0 {
        let kept = match field.split_last_chunk::<8>() {
            Some(([], _)) => true,
            Some((dropped, [0..=0x7f, ..])) => dropped == [0x80, 0, 0, 0],
            Some((dropped, _)) => dropped == [0xff; 4],
            None => false,
        };
        return if kept { Form::Binary } else { Form::Malformed };
    }
    let padding = |byte: &u8| matches!(byte, 0 | b' ');
    let Some(last) = field.iter().rposition(|byte| !padding(byte)) else {
        return Form::Blank;
    };
    if field[..=last]
        .trim_ascii_start()
        .iter()
        .all(|byte| matches!(byte, b'0'..=b'7'))
    {
        Form::Octal
    } else {
        Form::Malformed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_checksum(mut header: tar::Header, less: u32) -> [u8; BLOCK] {
        header.set_cksum();
        let sum = header.cksum().unwrap() - less;
        header.as_old_mut().cksum = format!("{sum:06o}\0 ").into_bytes().try_into().unwrap();
        *header.as_bytes()
    }

    #[test]
    fn owners_in_octal_and_base_256() {
        for (field, value) in [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\x80\0\0\x01\0\0\0\0", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"12x4567\0", None),
            (b"12\x004567\0", None),
            (b"12 4567\0", None),
            (b"8\0\0\0\0\0\0\0", None),
            (b"-1\0\0\0\0\0\0", None),
            (b"+1\0\0\0\0\0\0", None),
        ] {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().uid = *field;
            let header = Header::parse(&with_checksum(header, 0)).unwrap();
            assert_eq!(header.uid().ok(), value, "{field:?}");
        }
    }

    #[test]
    fn times_in_octal_and_base_256() {
        for (field, value) in [
            (b"14524700000\0", Some(0o14_524_700_000)),
            (b"\x80\0\0\0\0\0\0\x01\0\0\0\0", Some(1 << 32)),
            (&[0xff; 12], Some(-1)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xc0\0\0\0\0\0\0\0\0\0\0\0", None),
        ] {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().mtime = *field;
            let header = Header::parse(&with_checksum(header, 0)).unwrap();
            assert_eq!(header.mtime().ok(), value, "{field:?}");
        }
    }

    #[test]
    fn fields_that_are_octal_only_refuse_base_256() {
        for field in [*b"\x80\0\0\0\0\0\x01\0", *b"\xc2\xa0644\0\0\0"] {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().mode = field;
            let header = Header::parse(&with_checksum(header, 0)).unwrap();
            assert!(header.mode().is_err(), "{field:?}");
        }
    }

    #[test]
    fn checksums_of_unsigned_and_of_signed_characters() {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..3].copy_from_slice("\u{e9}x".as_bytes());
        for (less, valid) in [(0, true), (512, true), (256, false), (1, false)] {
            let block = with_checksum(header.clone(), less);
            assert_eq!(Header::parse(&block).is_ok(), valid, "{less}");
        }
    }

    #[test]
    fn every_version_of_a_posix_header_has_a_prefix() {
        for (magic, path) in [
            (b"ustar\x0000", &b"prefix/name"[..]),
            (b"ustar\0\0\0", b"prefix/name"),
            (b"ustar  \0", b"name"),
            (&[0; 8], b"name"),
        ] {
            let mut header = tar::Header::new_old();
            header.as_old_mut().name[..4].copy_from_slice(b"name");
            header.as_mut_bytes()[257..265].copy_from_slice(magic);
            header.as_mut_bytes()[345..351].copy_from_slice(b"prefix");
            let header = Header::parse(&with_checksum(header, 0)).unwrap();
            assert_eq!(header.path(), path, "{magic:?}");
        }
    }
}
