//! What runs in the child process: takes its descriptors, gives up its rights, becomes the VM.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::PanicHookInfo;
use std::sync::Arc;

use agent_vm_files::BuildError;
use agent_vm_protocol::{CONTROL_PORT, FORWARD_PORT};
use rustix::event::{PollFd, PollFlags};

use crate::confine::ConfineError;
use crate::console::PanicNote;
use crate::disk::OpenDisk;
use crate::engine::{EngineError, Parts, Stop};
use crate::exit::Report;
use crate::kernel::KernelError;
use crate::preflight::KvmError;
use crate::spec::{Access, WireDisk, WireSpec};

/// Exit status of a child that could not become a VM.
const STATUS_NOT_STARTED: i32 = 1;
/// Exit status of a child whose launcher went away.
const STATUS_ORPHANED: i32 = 2;

/// Why the child did not become a VM.
#[derive(Debug, thiserror::Error)]
enum ChildError {
    #[error("cannot take over the inherited descriptors: {0}")]
    Descriptors(io::Error),
    #[error("cannot set up the console: {0}")]
    Console(io::Error),
    #[error("{}", chain(.0))]
    Kvm(KvmError),
    #[error("{}", chain(.0))]
    Kernel(KernelError),
    #[error("{}", chain(.0))]
    Files(BuildError),
    #[error("cannot watch the launcher: {0}")]
    Watch(io::Error),
    #[error(transparent)]
    Confine(ConfineError),
    #[error(transparent)]
    Engine(EngineError),
}

/// An error and all its sources, as one text for the report.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |source| source.source());
    sources.fold(error.to_string(), |text, source| {
        format!("{text}: {source}")
    })
}

/// The entry point of the child process; `main` calls it when it was started as
/// [`crate::CHILD_COMMAND`]. Ends the process.
pub fn child_main() -> ! {
    let spec = WireSpec::read_from(io::stdin());
    let spec = match spec {
        Ok(spec) => spec,
        Err(error) => {
            // There is no other place to tell it: not started by `spawn`.
            let _ = writeln!(io::stderr(), "vmm: {error}");
            crate::ffi::exit_now(STATUS_NOT_STARTED);
        }
    };
    let inherited = match Inherited::take(&spec) {
        Ok(inherited) => inherited,
        Err(error) => {
            let _ = writeln!(io::stderr(), "vmm: {}", ChildError::Descriptors(error));
            crate::ffi::exit_now(STATUS_NOT_STARTED);
        }
    };
    let reporter = inherited.reporter.clone();
    let Err(error) = become_vm(&spec, inherited);
    let detail = error.to_string();
    reporter.send(&match error {
        ChildError::Confine(_) => Report::ConfinementUnavailable { detail },
        _ => Report::SetupFailed { detail },
    });
    crate::ffi::exit_now(STATUS_NOT_STARTED)
}

/// The pipe to the launcher: takes one report, and shows when the launcher is gone.
#[derive(Clone)]
struct Reporter(Arc<File>);

impl Reporter {
    fn send(&self, report: &Report) {
        // A launcher that is gone cannot be told anything.
        let _ = (&*self.0).write_all(&report.to_bytes());
    }

    /// Ends this process as soon as the launcher's end of the pipe is closed.
    fn end_with_launcher(&self) -> io::Result<()> {
        let pipe = Arc::clone(&self.0);
        let watch = move || loop {
            let mut fds = [PollFd::new(&*pipe, PollFlags::empty())];
            let ready = rustix::event::poll(&mut fds, None);
            let [fd] = fds;
            if ready.is_ok()
                && fd
                    .revents()
                    .intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)
            {
                crate::ffi::exit_now(STATUS_ORPHANED);
            }
        };
        std::thread::Builder::new()
            .name("launcher watch".to_owned())
            .spawn(watch)?;
        Ok(())
    }
}

/// The inherited descriptors, owned.
struct Inherited {
    kernel: OwnedFd,
    init: OwnedFd,
    disks: Vec<OpenDisk>,
    shares: Vec<(OwnedFd, Access)>,
    network: OwnedFd,
    control: OwnedFd,
    forward: Option<OwnedFd>,
    reporter: Reporter,
}

impl Inherited {
    fn take(spec: &WireSpec) -> io::Result<Self> {
        let missing = || io::Error::from(io::ErrorKind::InvalidInput);
        let mut fds = crate::ffi::adopt_only(&spec.numbers())?.into_iter();
        let mut next = || fds.next().ok_or_else(missing);
        // In the order of `WireSpec::numbers`.
        let (kernel, init, network, control, status) =
            (next()?, next()?, next()?, next()?, next()?);
        let forward = spec.forward.map(|_| next()).transpose()?;
        let mut disks = Vec::with_capacity(spec.disks.len());
        for disk in &spec.disks {
            disks.push(match disk {
                WireDisk::Raw { access, .. } => OpenDisk::Raw {
                    image: next()?,
                    access: *access,
                },
                WireDisk::Changed { .. } => OpenDisk::Changed {
                    base: next()?,
                    changes: next()?,
                },
                WireDisk::Joined { parts } => {
                    let parts = parts.iter().map(|_| next()).collect::<Result<_, _>>()?;
                    OpenDisk::join(parts)?
                }
            });
        }
        let mut shares = Vec::with_capacity(spec.shares.len());
        for share in &spec.shares {
            shares.push((next()?, share.access));
        }
        // The description was standard input; standard output is /dev/null already.
        rustix::stdio::dup2_stdin(io::stdout())?;
        Ok(Self {
            kernel,
            init,
            disks,
            shares,
            network,
            control,
            forward,
            reporter: Reporter(Arc::new(File::from(status))),
        })
    }
}

fn become_vm(spec: &WireSpec, inherited: Inherited) -> Result<Infallible, ChildError> {
    let Inherited {
        kernel,
        init,
        disks,
        shares,
        network,
        control,
        forward,
        reporter,
    } = inherited;
    let console = io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .map_err(ChildError::Console)?;
    let note = crate::console::install(console).map_err(ChildError::Console)?;
    report_panics(reporter.clone());
    // Only a name for `ps`.
    let _ = rustix::thread::set_name(c"agent-vm vmm");
    crate::preflight::preflight().map_err(ChildError::Kvm)?;

    let kernel = crate::kernel::map(&File::from(kernel)).map_err(ChildError::Kernel)?;
    crate::confine::limits().map_err(ChildError::Confine)?;
    let roots = shares
        .iter()
        .map(|(root, _)| root.try_clone())
        .collect::<Result<_, _>>();
    let roots = roots.map_err(ChildError::Descriptors)?;
    // The server needs the raised limits, and rights that are given up next.
    let files =
        crate::file_device::FileDevice::new(init, roots, spec).map_err(ChildError::Files)?;
    let grants = crate::confine::Grants {
        disks: &disks,
        shares: &shares,
    };
    crate::confine::enter(&grants).map_err(ChildError::Confine)?;
    drop(shares);
    reporter.end_with_launcher().map_err(ChildError::Watch)?;

    let control = (CONTROL_PORT, control);
    let forward = forward.map(|socket| (FORWARD_PORT, socket));
    let parts = Parts {
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        kernel,
        files: Arc::new(files),
        disks,
        network: Some(crate::net_link::card(network)),
        ports: [control].into_iter().chain(forward).collect(),
    };
    crate::engine::run(parts, move |stop| reporter.send(&report_of(stop, &note)))
        .map_err(ChildError::Engine)
}

fn report_of(stop: Stop, note: &PanicNote) -> Report {
    match stop {
        Stop::Announced(code) if note.message().is_none() => Report::PoweredOff { code },
        Stop::Announced(_) | Stop::Unannounced => Report::Reset {
            panic: note.message(),
        },
        Stop::ProcessorFault => Report::ProcessorFault,
    }
}

/// A panic anywhere in this process ends it: a VM with a dead device thread would hang instead.
fn report_panics(reporter: Reporter) {
    std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let text = info.payload_as_str().unwrap_or("no message");
        log::error!("panicked at {place}: {text}");
        reporter.send(&Report::Crashed {
            detail: format!("{text} at {place}"),
        });
        std::process::abort();
    }));
}
