//! What the boot cases stand on: one user with a home, a project, an image store, and `agent-vm` run as that user
//! on a machine whose /dev/kvm really runs guests (this one, or the emulated host of `cargo xtask lab`).
//!
//! The runner is `cargo xtask boot`. It sets [`IMAGE_VARIABLE`] and [`STORE_VARIABLE`]; without them every case fails
//! and says so, because a boot test that does not boot has not passed.

#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests start programs as a user does"
)]

mod agent_vm;
mod machine;
mod processes;
mod pty;
mod standstill;

pub use agent_vm::{AgentVm, Finished, Running, scaled};
pub use machine::{Machine, vmm_of};
pub use pty::Pty;

/// Names the reference of the image the cases boot; it is already in the store.
pub const IMAGE_VARIABLE: &str = "AGENT_VM_BOOT_IMAGE";
/// Names the data home (`XDG_DATA_HOME`) that holds the prepared image store.
pub const STORE_VARIABLE: &str = "AGENT_VM_BOOT_STORE";
/// Names the directory of guest-side helper programs (`escape_probe`, …).
pub const HELPERS_VARIABLE: &str = "AGENT_VM_BOOT_HELPERS";
