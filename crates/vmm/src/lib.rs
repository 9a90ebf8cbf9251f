//! VmSpec to a confined child process that is the virtual machine.
//!
//! [`spawn`] re-executes this binary as `agent-vm __vmm`; [`child_main`] is what runs there. The
//! child inherits an empty environment and the descriptors its [`VmSpec`] names, gives up every
//! right it does not need, and becomes the virtual machine. What must hold:
//!
//! - The child holds no token, no environment, no descriptor beside those of its description.
//! - It opens no file but those, creates no socket, starts no program; a forbidden system call
//!   kills it. Where the system cannot enforce this, no VM starts.
//! - It ends when its launcher ends, in whatever way.
//! - Every way a guest can end gives a [`VmExit`]; none of them is silently success.
//!
//! The network socket carries messages of a 12-byte `virtio_net_hdr_v1` and one Ethernet frame,
//! both ways. The control socket is joined to the guest's connection to vsock port
//! [`agent_vm_protocol::CONTROL_PORT`] of context id 2, the forwarder's, where there is one, to that to
//! [`agent_vm_protocol::FORWARD_PORT`].
#![deny(unsafe_code)]

mod bare;
mod child;
mod confine;
mod console;
mod disk;
mod engine;
mod exit;
mod ffi;
mod file_device;
mod host_port;
mod kernel;
mod memory;
mod memory_file;
mod net_link;
mod preflight;
mod spec;
mod vm;

pub use bare::{BareError, BareVm};
pub use child::child_main;
pub use exit::{ExitReason, VmExit, fuzz_report};
pub use file_device::EXIT_CODE_IOCTL;
pub use kernel::{KernelError, MAX_KERNEL_FILE};
pub use memory::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB, SizeError};
pub use memory_file::sealed_memory_file;
pub use preflight::{KVM_DEVICE, KvmError, PROBE_LIMIT, preflight, probe_tiny_guest};
pub use spec::{
    Access, Disk, GuestOwner, MAX_DISKS, MAX_PARTS, MAX_PROTECTED, MAX_PROTECTED_LEN, MAX_SHARES,
    ProtectedPath, Share, SpecError, VmSpec, WhenMissing,
};
pub use vm::{CHILD_COMMAND, SpawnError, Vm, spawn};
