//! The least VM the engine can run, in this very process and unconfined: kernel, root, console.
//! The yardstick for launch benchmarks, not part of a launch.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::engine::{EngineError, Parts};
use crate::file_device::FileDevice;
use crate::kernel::KernelError;
use crate::spec::{GuestOwner, WireSpec};

/// Why the bare VM did not start.
#[derive(Debug, thiserror::Error)]
pub enum BareError {
    /// The kernel is not usable.
    #[error("the bare VM has no kernel")]
    Kernel(#[from] KernelError),
    /// The root cannot be served.
    #[error("the bare VM has no root")]
    Files(#[from] agent_vm_files::BuildError),
    /// The console cannot be set up.
    #[error("the bare VM has no console")]
    Console(#[source] io::Error),
    /// The engine refused.
    #[error("the bare VM does not run: {detail}")]
    Engine {
        /// The engine's reason.
        detail: String,
    },
}

impl From<EngineError> for BareError {
    fn from(error: EngineError) -> Self {
        Self::Engine {
            detail: error.to_string(),
        }
    }
}

/// Boots `kernel` with one processor, `memory_mib` of memory and `init`, a static executable in a
/// memory file. The guest's console goes to `console`. Ends the process when the guest ends.
///
/// # Errors
/// Only before the guest runs.
pub fn bare_boot(
    kernel: OwnedFd,
    init: OwnedFd,
    memory_mib: u32,
    console: OwnedFd,
) -> Result<Infallible, BareError> {
    crate::console::install(console).map_err(BareError::Console)?;
    let spec = WireSpec {
        vcpus: 1,
        memory_mib,
        kernel: -1,
        init: -1,
        disks: Vec::new(),
        shares: Vec::new(),
        owner: GuestOwner { uid: 0, gid: 0 },
        network: -1,
        control: -1,
        forward: None,
        status: -1,
    };
    let files = FileDevice::new(init, Vec::new(), &spec)?;
    let parts = Parts {
        vcpus: 1,
        memory_mib,
        kernel: crate::kernel::map(&File::from(kernel))?,
        files: Arc::new(files),
        disks: Vec::new(),
        network: None,
        ports: Vec::new(),
    };
    Ok(crate::engine::run(parts, |_stop| ())?)
}
