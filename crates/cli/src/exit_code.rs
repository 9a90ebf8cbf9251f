//! Exit codes of agent-vm. A program's own code passes through, 126 and 127 come from the guest.

/// agent-vm itself did not do what was asked, usage errors included.
pub(crate) const FAILED: u8 = 125;
