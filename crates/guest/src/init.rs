//! The life of PID 1: connect, learn the launch, become its machine, serve, power off.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use agent_vm_protocol::{
    Boot, CONTROL_PORT, FORWARD_PORT, Forwarding, GuestError, GuestErrorKind, GuestMessage,
    HostMessage, MAGIC, Network, PROTOCOL_VERSION, Timings,
};
use rustix::process::{Pid, WaitOptions, WaitStatus};
use rustix::time::{ClockId, Timespec};
use thiserror::Error;

use crate::canary::{Attempt, CanaryError};
use crate::control::{Control, ControlError};
use crate::engine::{End, Engine, Machine, Violation, clip};
use crate::identity::{self, IdentityError};
use crate::image_version::{self, ImageVersionError};
use crate::kernel_log::{Level, log};
use crate::network::{self, NetworkError};
use crate::power_off::{power_off, reset};
use crate::root::{self, Assembled, RootError};
use crate::{forward, kernel_settings, sys};

/// How long the host may take to answer `Hello`. Generous: emulated hosts are slow, and a host that goes away ends the
/// stream anyway.
const BOOT_WAIT: Duration = Duration::from_secs(120);

/// How long the host may take to read `Ready`.
const SEND_WAIT: Duration = Duration::from_secs(30);

/// Time for programs when the host went away or broke the protocol.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// Most warnings in `Ready`, and the longest, in bytes.
const MAX_WARNINGS: usize = 16;
const MAX_WARNING: usize = 512;

/// Why the guest cannot become the machine of the launch.
#[derive(Debug, Error)]
enum BootError {
    #[error("cannot mount the kernel's file systems")]
    Early(#[source] RootError),
    #[error("cannot reach the host")]
    Connect(#[source] io::Error),
    #[error("cannot talk to the host")]
    Control(#[from] ControlError),
    #[error("host answered with something else than the boot message")]
    NotBoot,
    #[error("cannot set the clock")]
    Clock(#[source] io::Error),
    #[error("cannot watch children")]
    Children(#[source] io::Error),
    #[error("cannot assemble the root file system")]
    Root(#[from] RootError),
    #[error(transparent)]
    ImageVersion(#[from] ImageVersionError),
    #[error("cannot configure the network")]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Canary(#[from] CanaryError),
    #[error("cannot write the files of the launch")]
    Identity(#[from] IdentityError),
}

impl BootError {
    fn kind(&self) -> GuestErrorKind {
        match self {
            Self::Control(_) | Self::NotBoot => GuestErrorKind::Protocol,
            Self::Early(_) | Self::Root(_) => GuestErrorKind::Mount,
            Self::Network(_) | Self::Canary(_) => GuestErrorKind::Network,
            Self::Identity(_) => GuestErrorKind::File,
            Self::Connect(_) | Self::Clock(_) | Self::Children(_) | Self::ImageVersion(_) => {
                GuestErrorKind::System
            }
        }
    }
}

/// Runs PID 1; returns only when this process is not PID 1.
pub fn run() {
    if rustix::process::getpid() != Pid::INIT {
        return;
    }
    std::panic::set_hook(Box::new(|info| {
        log(Level::Error, &format!("panic: {info}"))
    }));
    let mut timings = Timings {
        init_ns: now(),
        ..Timings::default()
    };
    let mut control = match connect(&mut timings) {
        Ok(control) => control,
        Err(error) => {
            log(Level::Error, &chain(&error));
            reset();
        }
    };
    match become_machine(&mut control, timings) {
        Ok(machine) => serve(control, machine),
        Err(error) => {
            let message = clip(&chain(&error));
            log(Level::Error, &message);
            // The host may be the one that is broken.
            let _ = control.send(&GuestMessage::Error(GuestError {
                kind: error.kind(),
                message,
            }));
            power_off(Duration::ZERO, None, Some(control));
        }
    }
}

fn connect(timings: &mut Timings) -> Result<Control, BootError> {
    root::mount_early().map_err(BootError::Early)?;
    let socket = sys::connect_to_host(CONTROL_PORT).map_err(BootError::Connect)?;
    let mut control = Control::new(socket)?;
    control.send(&GuestMessage::Hello {
        magic: MAGIC,
        version: PROTOCOL_VERSION,
    })?;
    control.flush_all(SEND_WAIT)?;
    timings.connected_ns = now();
    Ok(control)
}

/// The machine after its boot.
struct Guest {
    children: OwnedFd,
    disk: Option<OwnedFd>,
    max_open_files: u64,
}

fn become_machine(control: &mut Control, mut timings: Timings) -> Result<Guest, BootError> {
    let HostMessage::Boot(boot) = control.receive(BOOT_WAIT)? else {
        return Err(BootError::NotBoot);
    };
    timings.boot_ns = now();
    set_clock(boot.unix_ns).map_err(BootError::Clock)?;
    let children = sys::child_signal().map_err(BootError::Children)?;
    let Assembled {
        tree,
        disk,
        grow_failure,
        mut warnings,
    } = root::assemble(boot.root, &boot.shares)?;
    image_version::check(&tree)?;
    root::switch()?;
    timings.mounted_ns = now();
    network::configure(boot.network.as_ref())?;
    timings.network_ns = now();
    // Its answers come while the files are written.
    let canary = try_canary(&boot)?;
    warnings.extend(kernel_settings::apply(&boot.sysctls));
    warnings.extend(identity::establish(&tree, &boot)?);
    warnings.extend(grow_failure.map(|error| format!("cannot grow the disk: {error}")));
    warnings.extend(
        forward(&boot)
            .err()
            .map(|error| format!("cannot publish ports or reach agents of the host: {error}")),
    );
    canary.map_or(Ok(()), Attempt::refused)?;
    timings.ready_ns = now();
    control.send(&GuestMessage::Ready {
        timings,
        warnings: bounded(warnings),
    })?;
    control.flush_all(SEND_WAIT)?;
    Ok(Guest {
        children,
        disk,
        max_open_files: open_files(&boot),
    })
}

/// Begins what the network must refuse.
fn try_canary(boot: &Boot) -> Result<Option<Attempt>, CanaryError> {
    let server = boot
        .network
        .as_ref()
        .and_then(|network| network.dns.first());
    let attempt = |(canary, server): (_, &IpAddr)| Attempt::begin(canary, *server);
    boot.canary.as_ref().zip(server).map(attempt).transpose()
}

/// Starts the forwarder where the host wants one. The machine is usable without.
fn forward(boot: &Boot) -> io::Result<()> {
    if boot.forwarding == Forwarding::Off {
        return Ok(());
    }
    let socket = sys::connect_to_host(FORWARD_PORT)?;
    let addresses = boot.network.iter().flat_map(own_addresses).collect();
    forward::spawn(socket, boot.forwarding, addresses, &boot.sockets)
}

fn own_addresses(network: &Network) -> impl Iterator<Item = IpAddr> + use<> {
    let v6 = network.ipv6.map(|v6| IpAddr::V6(v6.address));
    [IpAddr::V4(network.ipv4.address)].into_iter().chain(v6)
}

fn serve(control: Control, guest: Guest) -> ! {
    let max_open_files = guest.max_open_files;
    let (end, mut control, guest) = Engine::new(control, guest, max_open_files).run();
    let (grace, control) = match end {
        End::Shutdown { grace } => (grace, Some(control)),
        End::Violation(violation) => {
            report_violation(&mut control, violation);
            (ORPHAN_GRACE, Some(control))
        }
        End::Broken(ControlError::Closed) => (ORPHAN_GRACE, None),
        End::Broken(error) => {
            let message = chain(&error);
            log(Level::Error, &message);
            let error = GuestError {
                kind: GuestErrorKind::Protocol,
                message,
            };
            let _ = control.send(&GuestMessage::Error(error));
            (ORPHAN_GRACE, Some(control))
        }
    };
    power_off(grace, guest.disk.as_ref(), control)
}

fn report_violation(control: &mut Control, violation: Violation) {
    let message = violation.to_string();
    log(Level::Error, &message);
    // The host may read no more; the log has it.
    let _ = control.send(&GuestMessage::Error(GuestError {
        kind: GuestErrorKind::Protocol,
        message,
    }));
}

impl Machine for Guest {
    fn set_clock(&mut self, unix_ns: u64) -> io::Result<()> {
        set_clock(unix_ns)
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(std::os::fd::AsFd::as_fd(&self.children))
    }

    fn reap(&mut self) -> Vec<(Pid, WaitStatus)> {
        let mut buffer = [0; 1024];
        // Only empties the descriptor; what ended is asked of `wait`.
        let _ = rustix::io::read(&self.children, &mut buffer);
        std::iter::from_fn(|| rustix::process::wait(WaitOptions::NOHANG).ok().flatten()).collect()
    }

    fn note(&mut self, text: &str) {
        log(Level::Info, text);
    }
}

fn open_files(boot: &Boot) -> u64 {
    let most =
        kernel_settings::read_line("/proc/sys/fs/nr_open").and_then(|line| line.parse().ok());
    boot.max_open_files.clamp(1024, most.unwrap_or(1_048_576))
}

fn bounded(warnings: Vec<String>) -> Vec<String> {
    let cut = |text: String| text.chars().take(MAX_WARNING / 4).collect();
    warnings.into_iter().take(MAX_WARNINGS).map(cut).collect()
}

fn set_clock(unix_ns: u64) -> io::Result<()> {
    const SECOND: u64 = 1_000_000_000;
    let time = Timespec {
        tv_sec: i64::try_from(unix_ns / SECOND).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(unix_ns % SECOND).unwrap_or(0),
    };
    Ok(rustix::time::clock_settime(ClockId::Realtime, time)?)
}

/// Nanoseconds since the kernel started.
fn now() -> u64 {
    let time = rustix::time::clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_bounded_in_number_and_length() {
        let many = bounded(vec!["ä".repeat(4000); 40]);
        assert_eq!(many.len(), MAX_WARNINGS);
        assert!(many.iter().all(|text| text.len() <= MAX_WARNING));
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error = BootError::Network(NetworkError::NoCard("02:00".into()));
        assert_eq!(
            chain(&error),
            "cannot configure the network: no network card has the address 02:00"
        );
    }
}
