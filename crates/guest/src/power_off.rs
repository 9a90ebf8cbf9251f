//! The ordered end of the machine: programs, file systems, host, reset.
//!
//! `RB_AUTOBOOT` ends a libkrun machine (its reset line); `RB_POWER_OFF` would hang for want of ACPI. If PID 1 ended
//! instead, the kernel would panic and reset, with the same result but without clean file systems.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agent_vm_protocol::GuestMessage;
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::system::RebootCommand;

use crate::control::Control;
use crate::kernel_log::{Level, log};
use crate::tree::Tree;

/// How long killed processes may take to vanish.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// How long the host may take to read our last messages.
const GOODBYE: Duration = Duration::from_millis(500);

/// Ends all programs, makes file systems clean, tells the host, resets the machine.
pub fn power_off(grace: Duration, disk: Option<&OwnedFd>, control: Option<Control>) -> ! {
    end_processes(grace);
    if let Err(error) = make_clean(disk) {
        log(
            Level::Error,
            &format!("the disk is synced but not clean: {error}"),
        );
    }
    if let Some(mut control) = control {
        // The host may be gone; the machine ends all the same.
        let _ = control.send(&GuestMessage::Stopped);
        control.finish(GOODBYE);
    }
    reset()
}

/// Resets the machine.
pub fn reset() -> ! {
    if let Err(errno) = rustix::system::reboot(RebootCommand::Restart) {
        log(
            Level::Error,
            &format!("cannot reset: {}", io::Error::from(errno)),
        );
    }
    // Not reached unless the kernel refused; then the end of PID 1 resets as well.
    std::process::abort()
}

fn end_processes(grace: Duration) {
    for (signal, limit) in [(Signal::TERM, grace), (Signal::KILL, KILL_WAIT)] {
        // Group 1 means "every process but PID 1" to kill(2).
        if rustix::process::kill_process_group(Pid::INIT, signal) == Err(Errno::SRCH) {
            return;
        }
        if signal == Signal::TERM {
            let _ = rustix::process::kill_process_group(Pid::INIT, Signal::CONT);
        }
        if reap_all(Instant::now() + limit) {
            return;
        }
    }
}

/// Collects children until there are none (true) or it is too late.
fn reap_all(deadline: Instant) -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

fn make_clean(disk: Option<&OwnedFd>) -> io::Result<()> {
    rustix::fs::sync();
    if let Some(disk) = disk {
        rustix::mount::mount_remount(Tree::handle(disk), MountFlags::RDONLY, "")?;
        rustix::fs::sync();
    }
    Ok(())
}
