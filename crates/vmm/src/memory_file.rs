//! Memory files for another process: complete, and nobody can change them any more.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// A sealed memory file with this content, positioned at its beginning. `name` is for people.
///
/// # Errors
/// When the kernel has no memory for it.
pub fn sealed_memory_file(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create(name, flags)?);
    file.write_all(content)?;
    file.rewind()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_from_its_beginning_and_cannot_be_changed() {
        let mut file = File::from(sealed_memory_file("x", b"content").unwrap());
        let mut text = String::new();
        io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, "content");
        assert!(file.write_all(b"x").is_err() && file.set_len(0).is_err());
    }
}
