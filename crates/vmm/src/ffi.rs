//! Every unsafe operation of this crate: adopting inherited descriptors, closing all others,
//! resetting signals, describing probe memory to KVM.
#![allow(unsafe_code, reason = "the one file of this crate that may")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VmFd};

use msb_krun_devices::virtio::bindings::{stat64, statvfs64};

/// Highest descriptor number the system can hand out.
const LAST_FD: libc::c_uint = libc::c_uint::MAX;

/// Takes over the inherited descriptors `numbers`, closes every other one from 3 upwards.
///
/// Called once, at the start of a process that has opened nothing of its own yet.
///
/// # Errors
/// When a number is standard, repeated or not open, or the others cannot be closed.
pub(crate) fn adopt_only(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    let unique: BTreeSet<RawFd> = numbers.iter().copied().collect();
    if unique.len() != numbers.len() || unique.first().is_some_and(|first| *first < 3) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a descriptor is standard or named twice",
        ));
    }
    let mut next: libc::c_uint = 3;
    for number in unique
        .iter()
        .filter_map(|number| libc::c_uint::try_from(*number).ok())
    {
        if number > next {
            close_range(next, number - 1)?;
        }
        next = number + 1;
    }
    close_range(next, LAST_FD)?;
    for number in numbers {
        // SAFETY: only reads the descriptor's flags; any number is allowed.
        if unsafe { libc::fcntl(*number, libc::F_GETFD) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: only sets the descriptor's flags; it was just seen to be open.
        if unsafe { libc::fcntl(*number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: each number is open, named once and, because the parent passed it for this purpose,
    // owned by nothing else in this process.
    Ok(numbers
        .iter()
        .map(|number| unsafe { OwnedFd::from_raw_fd(*number) })
        .collect())
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: closes descriptors nothing in this process owns: the caller runs before any was opened.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets SIGTERM and SIGUSR1 end the process again; the engine turns them into a guest exit, which
/// would hide who ended the VM.
pub(crate) fn default_termination() {
    for signal in [libc::SIGTERM, libc::SIGUSR1] {
        // SAFETY: installs the default action, which runs no code of this process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Ends the process at once with `code`, running no destructors.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: has no preconditions; nothing after it runs.
    unsafe { libc::_exit(code) }
}

/// Attributes with every field zero.
pub(crate) fn empty_stat() -> stat64 {
    // SAFETY: the type is plain integers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// File system figures with every field zero.
pub(crate) fn empty_statvfs() -> statvfs64 {
    // SAFETY: the type is plain integers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// Maps `len` bytes of `file` from `offset` on, privately and writable, followed by zeroes up to
/// `total` bytes. The mapping stays for the life of this process.
///
/// # Errors
/// When the system refuses or `len` exceeds `total`.
pub(crate) fn map_kernel(file: &File, offset: u64, len: u64, total: usize) -> io::Result<u64> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let len = usize::try_from(len).map_err(invalid)?;
    let offset = libc::off_t::try_from(offset).map_err(invalid)?;
    if len > total {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: asks for a new mapping at an address of the system's choice; touches no other.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), total, protection, anonymous, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let backed = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: replaces the first `len` bytes of the mapping just made, which nothing refers to yet.
    let image = unsafe { libc::mmap(start, len, protection, backed, file.as_raw_fd(), offset) };
    if image == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(start as u64)
}

/// KVM behind a descriptor already opened.
pub(crate) fn kvm_from(device: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is open and its ownership goes into the value.
    unsafe { Kvm::from_raw_fd(device.into_raw_fd()) }
}

/// Zeroed, page-aligned memory of the probe guest.
pub(crate) struct ProbeMemory {
    start: NonNull<u8>,
    len: usize,
}

impl ProbeMemory {
    /// `len` bytes.
    ///
    /// # Errors
    /// When the system has no memory.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: asks for a new mapping at an address of the system's choice; touches no other.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast())
            .map(|start| Self { start, len })
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Where it lies in this process.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// The part from `at` on, as a pointer, if `len` bytes of it are inside.
    fn part(&self, at: u64, len: usize) -> Option<*mut u8> {
        let at = usize::try_from(at).ok()?;
        (at.checked_add(len)? <= self.len).then(|| self.start.as_ptr().wrapping_add(at))
    }

    /// Copies `bytes` to `at`; nothing when they do not fit.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        if let Some(target) = self.part(at, bytes.len()) {
            // SAFETY: `part` checked that the target lies within the mapping, which no reference
            // points into; the source is a different allocation.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        }
    }

    /// The number at `at`; 0 outside.
    pub(crate) fn read_u64(&self, at: u64) -> u64 {
        let Some(source) = self.part(at, 8) else {
            return 0;
        };
        // SAFETY: `part` checked that the source lies within the mapping; unaligned is allowed,
        // volatile because a guest wrote it.
        unsafe { std::ptr::read_volatile(source.cast::<[u8; 8]>()) }
            .iter()
            .rev()
            .fold(0, |value, byte| (value << 8) | u64::from(*byte))
    }
}

impl Drop for ProbeMemory {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; the VM that referred to it is gone before.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Gives `memory` to a probe VM. The memory must outlive the VM's last run.
///
/// # Errors
/// When KVM refuses.
pub(crate) fn set_probe_memory(
    vm: &VmFd,
    region: kvm_userspace_memory_region,
    memory: &ProbeMemory,
) -> Result<(), kvm_ioctls::Error> {
    debug_assert_eq!(
        (region.userspace_addr, region.memory_size),
        (memory.address(), memory.len as u64)
    );
    // SAFETY: the region is exactly the mapping `memory` owns, which the caller keeps.
    unsafe { vm.set_user_memory_region(region) }
}
