//! Bounds of a VM's size.

/// Least guest memory, in MiB: the kernel alone takes 40.
pub const MIN_MEMORY_MIB: u32 = 128;
/// Most guest memory, in MiB (1 TiB).
pub const MAX_MEMORY_MIB: u32 = 1 << 20;
/// Most virtual processors: the guest kernel and the engine are both built for 64.
pub const MAX_VCPUS: u8 = 64;

/// Why a VM cannot have the size asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Memory outside of the bounds.
    #[error(
        "bad memory size: {memory_mib} MiB is not between {MIN_MEMORY_MIB} and {MAX_MEMORY_MIB} MiB"
    )]
    Memory {
        /// The size asked for, in MiB.
        memory_mib: u32,
    },
    /// No or too many processors.
    #[error("bad number of processors: {vcpus} is not between 1 and {MAX_VCPUS}")]
    Vcpus {
        /// The number asked for.
        vcpus: u8,
    },
}

/// Checks a VM's size.
///
/// # Errors
/// When it is outside of the bounds above.
pub(crate) fn check(vcpus: u8, memory_mib: u32) -> Result<(), SizeError> {
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&memory_mib) {
        return Err(SizeError::Memory { memory_mib });
    }
    if !(1..=MAX_VCPUS).contains(&vcpus) {
        return Err(SizeError::Vcpus { vcpus });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_bounds_and_nothing_outside() {
        assert_eq!(check(1, MIN_MEMORY_MIB), Ok(()));
        assert_eq!(check(MAX_VCPUS, MAX_MEMORY_MIB), Ok(()));
        assert_eq!(check(1, 127), Err(SizeError::Memory { memory_mib: 127 }));
        assert_eq!(
            check(1, MAX_MEMORY_MIB + 1),
            Err(SizeError::Memory {
                memory_mib: MAX_MEMORY_MIB + 1
            })
        );
        assert_eq!(check(0, 512), Err(SizeError::Vcpus { vcpus: 0 }));
        assert_eq!(check(65, 512), Err(SizeError::Vcpus { vcpus: 65 }));
    }

    #[test]
    fn names_the_reason() {
        assert!(
            SizeError::Memory { memory_mib: 3 }
                .to_string()
                .starts_with("bad memory size: 3 MiB")
        );
    }
}
