//! Exit codes of agent-vm. A program's own code passes through; these are ours.

/// agent-vm itself did not do what was asked, usage errors included.
pub(crate) const FAILED: u8 = 125;
/// The program in the guest exists but cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The program does not exist in the guest.
pub(crate) const NOT_FOUND: u8 = 127;
