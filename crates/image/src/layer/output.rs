//! The image file as it is written: past the page cache where the file system can.
//!
//! A layer is written once, in large pieces, and not read again by this process. Through the page cache each byte would be copied, take
//! a page that something else may need, and have to be waited for at the `fsync`; a direct write goes from our buffer to the disk while
//! other layers are decoded, and leaves nothing for the `fsync` but the file system's own records.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::erofs::{BLOCK_SIZE, BlockOutput};

/// An output with direct writes as long as they are possible.
pub(super) struct DirectFile<'a> {
    file: &'a File,
    direct: bool,
}

impl<'a> DirectFile<'a> {
    /// Takes an open file; file systems without direct writes (tmpfs) get usual ones.
    pub(super) fn new(file: &'a File) -> Self {
        let flags = fcntl_getfl(file).and_then(|flags| fcntl_setfl(file, flags | OFlags::DIRECT));
        Self {
            file,
            direct: flags.is_ok(),
        }
    }

    /// From now on through the page cache; the kernel keeps both views of the file the same.
    fn leave_direct(&mut self) -> io::Result<()> {
        self.direct = false;
        let flags = fcntl_getfl(self.file)?;
        Ok(fcntl_setfl(self.file, flags - OFlags::DIRECT)?)
    }
}

impl BlockOutput for DirectFile<'_> {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.direct && !is_aligned(bytes, offset) {
            self.leave_direct()?;
        }
        match self.file.write_all_at(bytes, offset) {
            // The device wants more than our alignment, or a write came back half done.
            Err(refused) if self.direct && refused.kind() == io::ErrorKind::InvalidInput => {
                self.leave_direct()?;
                self.file.write_all_at(bytes, offset)
            }
            written => written,
        }
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
}

/// Whether memory, place and length are whole blocks, as direct writes need it.
fn is_aligned(bytes: &[u8], offset: u64) -> bool {
    let address = bytes.as_ptr().addr() as u64;
    [address, offset, bytes.len() as u64]
        .iter()
        .all(|number| number.is_multiple_of(BLOCK_SIZE))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn aligned_and_other_writes_make_one_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut output = DirectFile::new(file.as_file());
        let mut memory = vec![0; 5 * 4096];
        let start = memory.as_ptr().align_offset(4096);
        for (index, block) in memory[start..start + 4 * 4096].chunks_mut(4096).enumerate() {
            block.fill(u8::try_from(index + 1).unwrap());
        }
        let blocks = &memory[start..start + 4 * 4096];
        assert!(is_aligned(blocks, 4096) && !is_aligned(&blocks[1..], 4096));
        output.write_at(&blocks[..2 * 4096], 4096).unwrap();
        output.write_at(&blocks[2 * 4096..], 5 * 4096).unwrap();
        output.write_at(b"head", 0).unwrap();
        output.write_at(&blocks[..4096], 3 * 4096).unwrap();
        output.set_length(8 * 4096).unwrap();
        let mut expected = vec![0; 8 * 4096];
        expected[..4].copy_from_slice(b"head");
        for (block, value) in [(1, 1), (2, 2), (3, 1), (5, 3), (6, 4)] {
            expected[block * 4096..][..4096].fill(value);
        }
        let mut read = Vec::new();
        fs_err::File::open(file.path())
            .unwrap()
            .read_to_end(&mut read)
            .unwrap();
        assert!(read == expected);
    }
}
