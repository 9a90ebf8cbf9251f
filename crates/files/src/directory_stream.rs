//! Listing a host directory page by page at the host's own offsets.
//!
//! The guest continues at any offset it was given; those are the cookies of getdents64, so they stay
//! valid while the directory changes and nothing has to be remembered but the page just read.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Result;

/// Bytes asked from the host at once.
const PAGE_BYTES: usize = 32 * 1024;

#[derive(Debug)]
pub(crate) struct DirectoryStream {
    fd: OwnedFd,
    page: Mutex<Page>,
}

#[derive(Debug, Default)]
struct Page {
    entries: Vec<RawEntry>,
    names: Vec<u8>,
    next: usize,
    /// Where the guest stands: cookie of the last entry taken.
    offset: u64,
}

#[derive(Debug)]
struct RawEntry {
    ino: u64,
    offset: u64,
    kind: u32,
    name: std::ops::Range<usize>,
}

/// One entry of a listing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed<'a> {
    pub(crate) ino: u64,
    pub(crate) offset: u64,
    pub(crate) kind: u32,
    pub(crate) name: &'a CStr,
}

/// Exclusive use of a stream during one request.
pub(crate) struct Cursor<'a> {
    fd: &'a OwnedFd,
    page: MutexGuard<'a, Page>,
}

impl DirectoryStream {
    /// `fd` is open for reading.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            page: Mutex::default(),
        }
    }

    /// The directory, for fsync.
    pub(crate) fn fd(&self) -> impl AsFd {
        &self.fd
    }

    /// Continues after the entry whose offset was `offset`; 0 is the beginning, read afresh.
    pub(crate) fn at(&self, offset: u64) -> Result<Cursor<'_>> {
        let mut page = self.page.lock();
        let known = if offset == 0 {
            None
        } else if page.offset == offset {
            Some(page.next)
        } else {
            let entry = page.entries.iter().position(|entry| entry.offset == offset);
            entry.map(|index| index + 1)
        };
        if let Some(next) = known {
            page.next = next;
        } else {
            page.entries.clear();
            page.next = 0;
            seek(&self.fd, SeekFrom::Start(offset))?;
        }
        page.offset = offset;
        Ok(Cursor { fd: &self.fd, page })
    }
}

impl Cursor<'_> {
    /// The next entry without moving past it.
    pub(crate) fn peek(&mut self) -> Result<Option<Listed<'_>>> {
        if self.page.next >= self.page.entries.len() {
            self.fill()?;
        }
        let page = &*self.page;
        Ok(page.entries.get(page.next).map(|entry| Listed {
            ino: entry.ino,
            offset: entry.offset,
            kind: entry.kind,
            name: CStr::from_bytes_with_nul(&page.names[entry.name.clone()])
                .expect("stored with its NUL"),
        }))
    }

    /// Moves past the entry just seen.
    pub(crate) fn advance(&mut self) {
        if let Some(entry) = self.page.entries.get(self.page.next) {
            self.page.offset = entry.offset;
            self.page.next += 1;
        }
    }

    fn fill(&mut self) -> Result<()> {
        let page = &mut *self.page;
        page.entries.clear();
        page.names.clear();
        page.next = 0;
        let mut buffer = [MaybeUninit::uninit(); PAGE_BYTES];
        let mut raw = RawDir::new(self.fd, &mut buffer);
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let start = page.names.len();
            page.names
                .extend_from_slice(entry.file_name().to_bytes_with_nul());
            page.entries.push(RawEntry {
                ino: entry.ino(),
                offset: entry.next_entry_cookie(),
                kind: directory_type(entry.file_type()),
                name: start..page.names.len(),
            });
            if raw.is_buffer_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// `DT_*` of a file type.
fn directory_type(kind: FileType) -> u32 {
    match kind {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs::File;

    fn directory(count: usize) -> (tempfile::TempDir, DirectoryStream) {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..count {
            File::create(dir.path().join(format!("file-{number:05}"))).unwrap();
        }
        let stream = DirectoryStream::new(File::open(dir.path()).unwrap().into());
        (dir, stream)
    }

    fn take(stream: &DirectoryStream, mut offset: u64, count: usize) -> (Vec<String>, u64) {
        let mut names = Vec::new();
        let mut cursor = stream.at(offset).unwrap();
        while names.len() < count {
            let Some(entry) = cursor.peek().unwrap() else {
                break;
            };
            offset = entry.offset;
            names.push(entry.name.to_str().unwrap().to_owned());
            cursor.advance();
        }
        (names, offset)
    }

    #[test]
    fn lists_every_name_once_whatever_the_size_of_the_pieces() {
        let (_dir, stream) = directory(3000);
        for piece in [1, 7, 100, 10_000] {
            let mut all = BTreeSet::new();
            let mut offset = 0;
            loop {
                let (names, next) = take(&stream, offset, piece);
                if names.is_empty() {
                    break;
                }
                for name in names {
                    assert!(all.insert(name.clone()), "{name} twice");
                }
                offset = next;
            }
            assert_eq!(all.len(), 3002);
        }
    }

    #[test]
    fn continues_at_an_old_offset_and_sees_new_files_from_the_beginning() {
        let (dir, stream) = directory(2000);
        let (first, middle) = take(&stream, 0, 900);
        let (rest, _) = take(&stream, middle, usize::MAX);
        let (again, _) = take(&stream, middle, usize::MAX);
        assert_eq!(rest, again);
        assert_eq!(first.len() + rest.len(), 2002);
        File::create(dir.path().join("new")).unwrap();
        assert!(take(&stream, 0, usize::MAX).0.contains(&"new".to_owned()));
    }
}
