//! The guest's PID 1, which this program carries inside.

use std::io::Write as _;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// The static program built by `build.rs`.
const BYTES: &[u8] = include_bytes!(env!("AGENT_VM_GUEST_BINARY"));

/// The program as a memory file nobody can change any more.
///
/// # Errors
/// When the kernel has no memory for it.
pub(crate) fn sealed() -> std::io::Result<OwnedFd> {
    let file = memfd_create(
        "agent-vm-guest",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    let mut file = std::fs::File::from(file);
    file.write_all(BYTES)?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_static_program_and_cannot_be_changed() {
        assert_eq!(&BYTES[..4], b"\x7fELF");
        // A program that needs an interpreter has its path in it.
        assert!(
            !BYTES.windows(15).any(|window| window == b"/lib64/ld-linux"),
            "the guest is not static"
        );
        let file = std::fs::File::from(sealed().unwrap());
        assert_eq!(file.metadata().unwrap().len(), BYTES.len() as u64);
        assert!((&file).write_all(b"x").is_err());
    }
}
