//! The launcher's side of a VM: starts the confined process and owns it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use agent_vm_process::{Child, ChildCommand, ChildStdio};
use rustix::pipe::PipeFlags;

use crate::exit::VmExit;
use crate::spec::{Disk, SpecError, VmSpec, WireDisk, WireShare, WireSpec};

/// The word that makes this binary enter [`crate::child_main`].
pub const CHILD_COMMAND: &str = "__vmm";

/// This very program, also when its file was replaced meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Send buffer asked for on the network link, in bytes; the system may grant less.
const LINK_BUFFER: usize = 4 << 20;

/// Why a VM was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The description is out of bounds.
    #[error("the VM cannot be started as described")]
    Spec(#[from] SpecError),
    /// A descriptor could not be prepared.
    #[error("cannot prepare the virtual machine's process")]
    Prepare(#[source] io::Error),
    /// The process did not start.
    #[error("cannot start the virtual machine's process")]
    Start(#[from] agent_vm_process::SpawnError),
}

/// A running VM. Dropping it kills and reaps its process.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    /// Our end of the pipe its report comes through; the child ends when this is closed.
    status: Option<OwnedFd>,
    exit: Option<VmExit>,
}

/// Starts `spec` in a confined child process of this binary.
///
/// Returns as soon as the process exists: whatever goes wrong in it is its [`VmExit`].
///
/// # Errors
/// When the description is out of bounds or the process cannot be started.
pub fn spawn(spec: VmSpec) -> Result<Vm, SpawnError> {
    spec.check()?;
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(prepare)?;
    // Best effort: the default holds three of the largest frames.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&spec.network, LINK_BUFFER);

    let mut command = ChildCommand::new(OWN_PROGRAM)
        .arg0("agent-vm")
        .arg(CHILD_COMMAND);
    let mut pass = |fd| command.pass_fd(fd).map_err(SpawnError::Prepare);
    let mut disks = Vec::with_capacity(spec.disks.len());
    for disk in spec.disks {
        disks.push(match disk {
            Disk::Raw { image, access } => WireDisk::Raw {
                image: pass(image)?,
                access,
            },
            Disk::Changed { base, changes } => WireDisk::Changed {
                files: [pass(base)?, pass(changes)?],
            },
            Disk::Joined { parts } => WireDisk::Joined {
                parts: parts.into_iter().map(&mut pass).collect::<Result<_, _>>()?,
            },
        });
    }
    let mut shares = Vec::with_capacity(spec.shares.len());
    for share in spec.shares {
        shares.push(WireShare {
            root: pass(share.root)?,
            access: share.access,
            protected: share.protected,
        });
    }
    let wire = WireSpec {
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        kernel: pass(spec.kernel)?,
        init: pass(spec.init)?,
        disks,
        shares,
        owner: spec.owner,
        network: pass(spec.network)?,
        control: pass(spec.control)?,
        forward: spec.forward.map(&mut pass).transpose()?,
        status: pass(theirs)?,
    };
    let description = wire.to_memory_file().map_err(SpawnError::Prepare)?;
    let child = command
        .stdin(ChildStdio::Fd(description))
        .stderr(ChildStdio::Fd(spec.console))
        .current_dir("/")
        .spawn()?;
    Ok(Vm {
        child,
        status: Some(ours),
        exit: None,
    })
}

fn prepare(error: rustix::io::Errno) -> SpawnError {
    SpawnError::Prepare(error.into())
}

impl Vm {
    /// The process id of the VM.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// A descriptor that becomes readable when the VM has ended; wait for it, then call
    /// [`Self::try_wait`].
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }

    /// Blocks until the VM has ended.
    pub fn wait(&mut self) -> VmExit {
        let status = self.child.wait();
        self.conclude(status)
    }

    /// How the VM ended, if it has.
    pub fn try_wait(&mut self) -> Option<VmExit> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(self.conclude(Ok(status))),
            Err(error) => Some(self.conclude(Err(error))),
        }
    }

    /// Waits at most `limit` for the VM to end.
    pub fn wait_timeout(&mut self, limit: Duration) -> Option<VmExit> {
        match self.child.wait_timeout(limit) {
            Ok(None) => None,
            Ok(Some(status)) => Some(self.conclude(Ok(status))),
            Err(error) => Some(self.conclude(Err(error))),
        }
    }

    /// Ends the VM at once. No effect on one that has ended.
    pub fn kill(&mut self) {
        // Refused only for a process that is no longer there.
        let _ = self.child.kill();
    }

    fn conclude(&mut self, status: io::Result<ExitStatus>) -> VmExit {
        if let Some(exit) = &self.exit {
            return exit.clone();
        }
        // Reaped by somebody else: its status is lost, its report is not.
        let status = status.unwrap_or_else(|_| ExitStatus::from_raw(0xff00));
        let exit = match self.status.take() {
            Some(pipe) => VmExit::from_parts(status, std::fs::File::from(pipe)),
            None => VmExit::from_parts(status, io::empty()),
        };
        self.exit = Some(exit.clone());
        exit
    }
}
