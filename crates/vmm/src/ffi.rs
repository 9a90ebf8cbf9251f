//! Every unsafe operation of this crate: adopting inherited descriptors, closing all others,
//! resetting signals, describing probe memory to KVM.
#![allow(unsafe_code, reason = "the one file of this crate that may")]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

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
