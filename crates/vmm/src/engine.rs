//! Builds the virtual machine from its parts and runs it; never returns once the guest runs.
//!
//! Everything that varies between launches reaches the guest over the control connection. What the
//! kernel is told here is constant but for one `virtio_mmio.device=` word per device, which the
//! engine appends.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use msb_krun_devices::virtio::block::SyncMode;
use msb_krun_devices::virtio::fs::DynFileSystem;
use msb_krun_devices::virtio::{CacheType, VsockPortBackend};
use msb_krun_polly::event_manager::EventManager;
use msb_krun_utils::eventfd::{EFD_NONBLOCK, EventFd};
use msb_krun_vmm::builder::{StartMicrovmError, build_microvm_paused};
use msb_krun_vmm::resources::{
    DefaultVirtioConsoleConfig, TsiFlags, VirtioConsoleConfigMode, VmResources,
};
use msb_krun_vmm::vmm_config::block::BlockDeviceConfig;
use msb_krun_vmm::vmm_config::fs::CustomFsDeviceConfig;
use msb_krun_vmm::vmm_config::kernel_bundle::KernelBundle;
use msb_krun_vmm::vmm_config::machine_config::VmConfig;
use msb_krun_vmm::vmm_config::net::NetworkInterfaceConfig;
use msb_krun_vmm::vmm_config::vsock::VsockDeviceConfig;

use crate::disk::OpenDisk;
use crate::host_port::{GUEST_CID, HostPort};
use crate::kernel::MappedKernel;
use crate::spec::{Access, MAX_DISKS};

/// What the guest kernel is told, the same for every VM.
///
/// `reboot=k` and `krun.poweroff=i8042` make both ways of stopping end the VM at once; `panic=-1`
/// turns a panic into a stop. `jent_mod_init` would measure timing jitter for 100 ms for a
/// generator nothing uses: the guest has RDRAND and virtio-rng. `cmos_init` would look for a clock
/// whose interrupt a device has taken; the guest's clock is KVM's.
pub(crate) const COMMAND_LINE: &str = "reboot=k panic=-1 panic_print=0 nomodule console=hvc0 \
    rootfstype=virtiofs rw quiet no-kvmapf krun.poweroff=i8042 initcall_blacklist=jent_mod_init,cmos_init init=/init";

/// Where guest memory makes room for devices, in MiB from 0.
const DEVICE_WINDOW_MIB: u64 = 3328;
/// The tag of the root file system.
const ROOT_TAG: &str = "/dev/root";
/// Devices every VM has: random numbers, console, root, network card, control connection.
const FIXED_DEVICES: usize = 5;
/// Devices the interrupt controller in the kernel has lines for. The one in the engine
/// has more, but every change of a line costs a call that waits for all processors: some 500 of
/// them during a boot.
const KERNEL_IRQ_DEVICES: usize = 10;
const _: () = assert!(FIXED_DEVICES + MAX_DISKS <= KERNEL_IRQ_DEVICES);
/// The engine's mark for "the guest announced no exit code".
const NOT_ANNOUNCED: i32 = i32::MAX;

/// The parts of a VM.
pub(crate) struct Parts {
    pub(crate) vcpus: u8,
    pub(crate) memory_mib: u32,
    pub(crate) kernel: MappedKernel,
    pub(crate) files: Arc<dyn DynFileSystem>,
    pub(crate) disks: Vec<OpenDisk>,
    pub(crate) network: Option<NetworkInterfaceConfig>,
    /// Ports of the host the guest can connect to, each once, and what is joined to its connection.
    pub(crate) ports: Vec<(u32, OwnedFd)>,
}

/// How the machine stopped, as far as the engine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The guest stopped, having announced this code through its root file system.
    Announced(i32),
    /// The guest stopped or was reset without a word.
    Unannounced,
    /// A virtual processor could not go on.
    ProcessorFault,
}

/// Why a VM did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("cannot set up the {part}: {detail}")]
    Part { part: &'static str, detail: String },
    #[error("cannot build the virtual machine: {0}")]
    Build(StartMicrovmError),
    #[error("cannot start the virtual machine: {0}")]
    Start(String),
}

impl EngineError {
    fn part(part: &'static str) -> impl FnOnce(String) -> Self {
        move |detail| Self::Part { part, detail }
    }
}

/// Builds and runs a VM. `on_stop` is called once, when the guest has ended; then the process ends.
///
/// # Errors
/// Only before the guest runs its first instruction.
pub(crate) fn run(
    parts: Parts,
    on_stop: impl Fn(Stop) + Send + 'static,
) -> Result<Infallible, EngineError> {
    let mut resources = machine(&parts)?;
    attach_files(&mut resources, Arc::clone(&parts.files));
    attach_disks(&mut resources, &parts.disks)?;
    if let Some(card) = parts.network {
        resources
            .add_network_interface(card)
            .map_err(|error| EngineError::part("network card")(error.to_string()))?;
    }
    if !parts.ports.is_empty() {
        attach_ports(&mut resources, parts.ports)?;
    }

    let mut events =
        EventManager::new().map_err(|error| EngineError::Start(format!("{error:?}")))?;
    let exit_event =
        EventFd::new(EFD_NONBLOCK).map_err(|error| EngineError::Start(error.to_string()))?;
    let announced = Arc::new(AtomicI32::new(NOT_ANNOUNCED));
    // For the engine's own interrupt controller, which is not used.
    let (sender, _receiver) = crossbeam_channel::unbounded();
    let (vmm, _placement) = build_microvm_paused(
        &mut resources,
        &mut events,
        None,
        sender,
        exit_event,
        Arc::clone(&announced),
    )
    .map_err(EngineError::Build)?;
    // The engine has opened the disks for itself.
    drop(parts.disks);
    crate::ffi::default_termination();
    {
        let mut vmm = vmm
            .lock()
            .map_err(|error| EngineError::Start(error.to_string()))?;
        vmm.add_exit_observer(move |code: i32| on_stop(stop_reason(&announced, code)));
        vmm.resume_vcpus()
            .map_err(|error| EngineError::Start(error.to_string()))?;
    }
    loop {
        events
            .run()
            .map_err(|error| EngineError::Start(format!("{error:?}")))?;
    }
}

fn stop_reason(announced: &AtomicI32, code: i32) -> Stop {
    match announced.load(std::sync::atomic::Ordering::SeqCst) {
        NOT_ANNOUNCED if code == 0 => Stop::Unannounced,
        NOT_ANNOUNCED => Stop::ProcessorFault,
        announced => Stop::Announced(announced),
    }
}

fn machine(parts: &Parts) -> Result<VmResources, EngineError> {
    let mut resources = VmResources::default();
    resources.split_irqchip = false;
    resources.enable_balloon = false;
    resources.enable_rng = true;
    resources.disable_implicit_console = true;
    // No descriptors: hvc0 goes to the log.
    let console = DefaultVirtioConsoleConfig {
        input_fd: -1,
        output_fd: -1,
        err_fd: -1,
    };
    resources
        .virtio_consoles
        .push(VirtioConsoleConfigMode::Autoconfigure(console));
    let config = VmConfig {
        vcpu_count: Some(parts.vcpus),
        mem_size_mib: Some(memory_beside_kernel(parts) as usize),
        ht_enabled: Some(false),
        ..VmConfig::default()
    };
    resources
        .set_vm_config(&config)
        .map_err(|error| EngineError::part("machine")(error.to_string()))?;
    let bundle = KernelBundle {
        host_addr: parts.kernel.host_address,
        guest_addr: parts.kernel.guest_address,
        entry_addr: parts.kernel.entry_address,
        size: parts.kernel.size,
    };
    resources
        .set_kernel_bundle(bundle)
        .map_err(|error| EngineError::part("kernel")(error.to_string()))?;
    resources.kernel_cmdline.prolog = Some(COMMAND_LINE.to_owned());
    Ok(resources)
}

/// What the engine must be asked for so that the guest has `memory_mib` in all.
///
/// Below its device window, at [`DEVICE_WINDOW_MIB`], the engine adds the kernel and what lies
/// before it to the size it is given; above, it does not.
fn memory_beside_kernel(parts: &Parts) -> u64 {
    let memory = u64::from(parts.memory_mib);
    if memory > DEVICE_WINDOW_MIB {
        return memory;
    }
    memory.saturating_sub((parts.kernel.guest_address + parts.kernel.size as u64) >> 20)
}

fn attach_files(resources: &mut VmResources, files: Arc<dyn DynFileSystem>) {
    resources.custom_fs.push(CustomFsDeviceConfig {
        fs_id: ROOT_TAG.to_owned(),
        backend: files,
        shm_size: None,
    });
}

fn attach_disks(resources: &mut VmResources, disks: &[OpenDisk]) -> Result<(), EngineError> {
    for (index, disk) in disks.iter().enumerate() {
        let (path, format) = disk.source();
        let config = BlockDeviceConfig {
            block_id: format!("disk{index}"),
            cache_type: CacheType::Writeback,
            disk_image_path: path.to_string_lossy().into_owned(),
            disk_image_format: format,
            is_disk_read_only: disk.access() == Access::ReadOnly,
            direct_io: false,
            sync_mode: SyncMode::Relaxed,
            backend: disk.chain(),
        };
        resources
            .add_block_device(config)
            .map_err(|error| EngineError::part("disk")(error.to_string()))?;
    }
    Ok(())
}

fn attach_ports(
    resources: &mut VmResources,
    ports: Vec<(u32, OwnedFd)>,
) -> Result<(), EngineError> {
    let failed = |error: io::Error| EngineError::part("control connection")(error.to_string());
    let mut backends = HashMap::new();
    for (number, socket) in ports {
        let port: Arc<dyn VsockPortBackend> = Arc::new(HostPort::new(socket).map_err(failed)?);
        backends.insert(number, port);
    }
    let config = VsockDeviceConfig {
        vsock_id: "vsock0".to_owned(),
        guest_cid: GUEST_CID,
        host_port_map: None,
        unix_ipc_port_map: None,
        custom_port_map: Some(backends),
        custom_dgram_port_map: None,
        // No flag: the guest's sockets are never carried out to the host's.
        tsi_flags: TsiFlags::empty(),
    };
    resources
        .set_vsock_device(config)
        .map_err(|error| EngineError::part("control connection")(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_reset_without_a_code_is_never_taken_for_success() {
        let announced = AtomicI32::new(NOT_ANNOUNCED);
        assert_eq!(stop_reason(&announced, 0), Stop::Unannounced);
        assert_eq!(stop_reason(&announced, 1), Stop::ProcessorFault);
    }

    #[test]
    fn announced_code_is_kept() {
        assert_eq!(stop_reason(&AtomicI32::new(0), 0), Stop::Announced(0));
        assert_eq!(stop_reason(&AtomicI32::new(42), 42), Stop::Announced(42));
    }

    #[test]
    fn command_line_is_short_plain_text() {
        assert!(COMMAND_LINE.is_ascii());
        assert!(COMMAND_LINE.len() < 512);
        assert!(!COMMAND_LINE.contains("  "));
    }
}
