//! The guest's PID 1, which this program carries inside.

use std::os::fd::OwnedFd;

use agent_vm_vmm::sealed_memory_file;

/// The static program built by `build.rs`.
const BYTES: &[u8] = include_bytes!(env!("AGENT_VM_GUEST_BINARY"));

/// The program as a memory file nobody can change any more.
///
/// # Errors
/// When the kernel has no memory for it.
pub(crate) fn sealed() -> std::io::Result<OwnedFd> {
    sealed_memory_file("agent-vm-guest", BYTES)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

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
