//! The entries of a layer as they were read, kept until its tree is made: in memory as long as they are few, then in a temporary file.

use std::io::{self, BufReader, BufWriter, Read, Seek as _, Write as _};
use std::path::Path;

use tempfile::SpooledTempFile;

use crate::tree::Tree;

/// What is kept in memory, in bytes.
const IN_MEMORY: usize = 256 << 10;
/// What is written to and read from the file at once, in bytes.
const BUFFER: usize = 64 << 10;
/// The most bytes of a journal.
const MAX_BYTES: u64 = 1 << 30;
/// Bytes of a record before its path.
const FIXED: usize = 42;

/// An entry, its content written already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// As in the archive; not longer than a path may be.
    pub(super) path: Vec<u8>,
    /// Target of a link; not longer than a path may be.
    pub(super) target: Vec<u8>,
    /// Extended attributes, encoded.
    pub(super) xattrs: Vec<u8>,
    /// With type bits; hard links and whiteouts have none.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) mtime_ns: u32,
    /// Bytes of a file.
    pub(super) size: u64,
    /// First block of a file, number of a device.
    pub(super) data: u32,
}

/// All entries of a layer.
#[derive(Debug)]
pub(crate) struct Journal {
    file: BufWriter<SpooledTempFile>,
    records: u64,
    /// Bytes of names, link targets and extended attributes of all records.
    text: u64,
    bytes: u64,
}

impl Journal {
    /// Few entries stay in memory, more go to a nameless file in `directory`.
    pub(crate) fn new(directory: &Path) -> Self {
        Self::of(tempfile::spooled_tempfile_in(IN_MEMORY, directory))
    }

    /// Everything stays in memory.
    pub(crate) fn in_memory() -> Self {
        Self::of(SpooledTempFile::new(usize::MAX))
    }

    fn of(file: SpooledTempFile) -> Self {
        Self {
            file: BufWriter::with_capacity(BUFFER, file),
            records: 0,
            text: 0,
            bytes: 0,
        }
    }

    /// The room of a tree of these entries, if directories they imply are few.
    pub(crate) fn room(&self) -> u64 {
        Tree::room_for(self.records + self.records / 8 + 64, self.text)
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Adds a record whose own name, without its parents, has `name` bytes; `false` if the journal would be too long.
    pub(super) fn push(&mut self, record: &Record, name: usize) -> io::Result<bool> {
        let length = |text: &[u8]| u16::try_from(text.len()).expect("checked against MAX_PATH");
        let xattrs = u32::try_from(record.xattrs.len()).expect("checked against MAX_XATTR_SET");
        let texts = [&record.path, &record.target, &record.xattrs];
        let variable: usize = texts.iter().map(|text| text.len()).sum();
        self.bytes += (FIXED + variable) as u64;
        if self.bytes > MAX_BYTES {
            return Ok(false);
        }
        self.records += 1;
        self.text += (name + record.target.len() + record.xattrs.len()) as u64;
        for field in [
            &length(&record.path).to_le_bytes()[..],
            &length(&record.target).to_le_bytes(),
            &xattrs.to_le_bytes(),
            &record.mode.to_le_bytes(),
            &record.uid.to_le_bytes(),
            &record.gid.to_le_bytes(),
            &record.mtime.to_le_bytes(),
            &record.mtime_ns.to_le_bytes(),
            &record.size.to_le_bytes(),
            &record.data.to_le_bytes(),
        ] {
            self.file.write_all(field)?;
        }
        for text in texts {
            self.file.write_all(text)?;
        }
        Ok(true)
    }

    /// All records from the first.
    pub(super) fn replay(&mut self) -> io::Result<Replay<'_>> {
        self.file.flush()?;
        let file = self.file.get_mut();
        file.rewind()?;
        Ok(Replay {
            reader: BufReader::with_capacity(BUFFER, file),
            left: self.records,
        })
    }
}

/// The records of a journal in the order they were added.
pub(super) struct Replay<'a> {
    reader: BufReader<&'a mut SpooledTempFile>,
    left: u64,
}

impl Replay<'_> {
    /// Reads the next record into `record`; `false` at the end.
    pub(super) fn next(&mut self, record: &mut Record) -> io::Result<bool> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(false);
        };
        self.left = left;
        let lengths = [
            usize::from(u16::from_le_bytes(self.field()?)),
            usize::from(u16::from_le_bytes(self.field()?)),
            usize::try_from(u32::from_le_bytes(self.field()?)).map_err(io::Error::other)?,
        ];
        record.mode = u16::from_le_bytes(self.field()?);
        record.uid = u32::from_le_bytes(self.field()?);
        record.gid = u32::from_le_bytes(self.field()?);
        record.mtime = i64::from_le_bytes(self.field()?);
        record.mtime_ns = u32::from_le_bytes(self.field()?);
        record.size = u64::from_le_bytes(self.field()?);
        record.data = u32::from_le_bytes(self.field()?);
        let texts = [&mut record.path, &mut record.target, &mut record.xattrs];
        for (text, length) in texts.into_iter().zip(lengths) {
            text.resize(length, 0);
            self.reader.read_exact(text)?;
        }
        Ok(true)
    }

    fn field<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u32) -> Record {
        Record {
            path: format!("d/{number}").into_bytes(),
            target: vec![b't'; number as usize % 9],
            xattrs: vec![b'x'; number as usize % 7],
            mode: 0o100_644,
            uid: number,
            gid: u32::MAX - 1,
            mtime: -i64::from(number),
            mtime_ns: 999_999_999,
            size: 1 << 40,
            data: number,
        }
    }

    #[test]
    fn records_are_read_back_as_often_as_wanted_from_memory_and_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        for count in [0, 3, 20_000] {
            let mut journal = Journal::new(directory.path());
            for number in 0..count {
                assert!(journal.push(&record(number), 1).unwrap());
            }
            for _ in 0..2 {
                let (mut replay, mut read) = (journal.replay().unwrap(), Record::default());
                for number in 0..count {
                    assert!(replay.next(&mut read).unwrap());
                    assert_eq!(read, record(number));
                }
                assert!(!replay.next(&mut read).unwrap());
            }
            assert_eq!(journal.file.get_ref().is_rolled(), count > 1000);
        }
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_journal_does_not_grow_without_end() {
        let mut journal = Journal::in_memory();
        journal.bytes = MAX_BYTES - 100;
        assert!(journal.push(&Record::default(), 0).unwrap());
        assert!(journal.push(&Record::default(), 0).unwrap());
        assert!(!journal.push(&Record::default(), 0).unwrap());
    }
}
