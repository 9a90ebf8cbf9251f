//! The least VM the engine can run, in this very process and unconfined: kernel, root, console, and for network
//! benchmarks a card on a stream socket. The yardstick of benchmarks, not part of a launch.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::sync::Arc;

use msb_krun_devices::virtio::net::device::VirtioNetBackend;
use msb_krun_vmm::vmm_config::net::NetworkInterfaceConfig;

use crate::engine::{EngineError, Parts};
use crate::file_device::FileDevice;
use crate::kernel::KernelError;
use crate::net_link::{card_with, feature};
use crate::spec::{Access, GuestOwner, WireShare, WireSpec};

/// What libkrun offers a guest behind passt unless it is told otherwise (`COMPAT_NET_FEATURES` of its `libkrun.h`;
/// virtio 1.2, 5.1.3).
const STREAM_FEATURES: u32 = feature(0) // CSUM
    | feature(1) // GUEST_CSUM
    | feature(7) // GUEST_TSO4
    | feature(10) // GUEST_UFO
    | feature(11) // HOST_TSO4
    | feature(14); // HOST_UFO

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

/// A VM with one processor and nothing that is not named here.
#[derive(Debug)]
pub struct BareVm {
    /// The pinned kernel file, a `libkrunfw.so.5`.
    pub kernel: OwnedFd,
    /// The guest's first program: a static executable in a memory file.
    pub init: OwnedFd,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// The writing end of a pipe for the guest's console.
    pub console: OwnedFd,
    /// A directory of the host, opened with `O_PATH`, that the guest may read as `/shares/0`.
    pub share: Option<OwnedFd>,
    /// A stream socket to a network stack in user space, as passt takes it: each Ethernet frame after its length in
    /// four bytes, big-endian, without a virtio header.
    pub network: Option<OwnedFd>,
}

impl BareVm {
    /// Boots it. Ends the process when the guest ends.
    ///
    /// # Errors
    /// Only before the guest runs.
    pub fn run(self) -> Result<Infallible, BareError> {
        crate::console::install(self.console).map_err(BareError::Console)?;
        let read_only = || WireShare {
            root: -1,
            access: Access::ReadOnly,
            protected: Vec::new(),
        };
        let spec = WireSpec {
            vcpus: 1,
            memory_mib: self.memory_mib,
            kernel: -1,
            init: -1,
            disks: Vec::new(),
            shares: self.share.iter().map(|_| read_only()).collect(),
            owner: GuestOwner { uid: 0, gid: 0 },
            network: -1,
            control: -1,
            forward: None,
            status: -1,
        };
        let files = FileDevice::new(self.init, self.share.into_iter().collect(), &spec)?;
        let parts = Parts {
            vcpus: 1,
            memory_mib: self.memory_mib,
            kernel: crate::kernel::map(&File::from(self.kernel))?,
            files: Arc::new(files),
            disks: Vec::new(),
            network: self.network.map(stream_card),
            ports: Vec::new(),
        };
        Ok(crate::engine::run(parts, |_stop| ())?)
    }
}

/// The guest's network card on libkrun's own stream link.
fn stream_card(socket: OwnedFd) -> NetworkInterfaceConfig {
    // The engine takes the number over and closes it.
    let backend = VirtioNetBackend::UnixstreamFd(socket.into_raw_fd());
    card_with(backend, STREAM_FEATURES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_card_is_the_products_with_libkruns_link_and_features() {
        let (_far, near) = rustix::pipe::pipe().unwrap();
        let ours = crate::net_link::card(rustix::io::dup(&near).unwrap());
        let card = stream_card(near);
        assert!(matches!(card.backend, VirtioNetBackend::UnixstreamFd(_)));
        assert_eq!((card.mac, card.features), (ours.mac, 0x4c83));
    }
}
