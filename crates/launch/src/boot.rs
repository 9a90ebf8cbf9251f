//! Third step: the network runs, the virtual machine runs, the guest has its mounts and says it is ready.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use agent_vm_egress::Egress;
use agent_vm_gateway::{Gateway, GatewayConfig, GatewayError, HostResolver};
use agent_vm_image::Lease;
use agent_vm_protocol::{Boot, Forwarding};
use agent_vm_state::SessionDirectory;
use agent_vm_vmm::{GuestOwner, SpawnError, VmSpec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Resource;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::base::for_kept_disk;
use crate::console::Console;
use crate::event::{LaunchEvent, LaunchObserver};
use crate::guest_view::{GuestPathInvalid, boot};
use crate::integrity::Watch;
use crate::machine::Machine;
use crate::network::{EgressHandler, NetworkTask, overridden_names};
use crate::prepare::Prepared;
use crate::publish::ToPublish;
use crate::request::LaunchRequest;
use crate::{egress_control, guest_program, guest_view};

/// A virtual machine whose guest has not been spoken to yet.
pub struct Booting {
    pub(crate) parts: Parts,
    pub(crate) machine: Machine,
    pub(crate) control: UnixStream,
    pub(crate) boot: Boot,
    /// Ends the network with the launch.
    pub(crate) network: NetworkTask,
}

/// What outlives the boot.
pub(crate) struct Parts {
    pub(crate) request: LaunchRequest,
    pub(crate) environment: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) working_directory: PathBuf,
    pub(crate) session: SessionDirectory,
    /// Decides about the guest's network.
    pub(crate) egress: Egress,
    /// Files that must not be changed unnoticed.
    pub(crate) watch: Option<Rc<Watch>>,
    /// Where the disk goes when the guest ended in order.
    pub(crate) keep: Option<PathBuf>,
    /// Ports of the guest that appear on the host.
    pub(crate) publish: Option<ToPublish>,
    /// Ends the control socket with the launch.
    pub(crate) _answers: JoinSet<()>,
    /// The image stays while the machine runs.
    pub(crate) _lease: Lease,
}

/// Why the machine does not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The system gives no descriptors.
    #[error("cannot make the connections of the virtual machine")]
    Descriptors(#[source] std::io::Error),
    /// The guest's network cannot be served.
    #[error("cannot serve the guest's network")]
    Gateway(#[from] GatewayError),
    /// A path cannot be one in the guest.
    #[error("the guest cannot be described")]
    Path(#[from] GuestPathInvalid),
    /// Nobody could answer what the guest waits for.
    #[error("cannot make the control socket of the session")]
    Control(#[source] std::io::Error),
    /// The VMM process cannot be started.
    #[error("cannot start the virtual machine")]
    Spawn(#[from] SpawnError),
}

impl Prepared {
    /// Starts network and machine; gives the guest's console too. Needs a current-thread runtime and a `LocalSet`.
    ///
    /// # Errors
    /// When one cannot be started; what was started is ended.
    pub fn boot(self) -> Result<(Booting, OwnedFd), BootError> {
        let Self {
            resolved,
            session,
            disks,
            shares,
            kernel,
            egress,
            news: _,
            lease,
        } = self;
        let request = resolved.request;
        let config = gateway_config(&request, &egress);
        let resolver = host_resolver();
        let link = (&config.addresses, config.mtu, resolver.search_rule());
        let mut boot = boot(&request, &resolved.plan, link, &egress)?;
        if resolved.disk.keep.is_some() {
            for_kept_disk(&mut boot);
        }
        let environment = guest_view::environment(&request, &resolved.image.config.env);

        let mut answers = JoinSet::new();
        let asked = (egress.clone(), request.project.id().to_string());
        egress_control::serve(&mut answers, session.path(), asked).map_err(BootError::Control)?;
        let network = pair(SocketType::SEQPACKET)?;
        let serving = serve_network(config, network.0, (egress.clone(), resolver))?;
        let (console_pipe, console_writer) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|error| BootError::Descriptors(error.into()))?;
        let control = pair(SocketType::STREAM)?;
        let (publish, forward) = match boot.forwarding {
            Forwarding::Off => (None, None),
            Forwarding::Connect | Forwarding::ConnectAndReport => {
                let (ours, theirs) = pair(SocketType::STREAM)?;
                (Some(ours), Some(theirs))
            }
        };
        let init = guest_program::sealed().map_err(BootError::Descriptors)?;
        let vm = agent_vm_vmm::spawn(VmSpec {
            vcpus: request.machine.vcpus,
            memory_mib: request.machine.memory_mib,
            kernel,
            init,
            disks,
            shares,
            network: network.1,
            control: control.1,
            forward,
            console: console_writer,
            owner: GuestOwner { uid: 0, gid: 0 },
        })?;
        let machine = Machine::new(vm, Console::default()).map_err(BootError::Descriptors)?;
        let control = control_stream(control.0).map_err(BootError::Descriptors)?;
        let publish = publish.map(control_stream).transpose();
        let publish = publish.map_err(BootError::Descriptors)?;
        let publish = publish.map(|stream| ToPublish {
            ports: resolved.ports.unwrap_or_default(),
            settings: request.network.publish.clone(),
            agents: request.key_agents.clone(),
            stream,
        });
        let parts = Parts {
            request,
            environment,
            working_directory: resolved.plan.program.working_directory,
            session,
            egress,
            watch: resolved.watch,
            keep: resolved.disk.keep,
            publish,
            _answers: answers,
            _lease: lease,
        };
        Ok((
            Booting {
                parts,
                machine,
                control,
                boot,
                network: serving,
            },
            console_pipe,
        ))
    }
}

/// Reads the console to its end, keeping its last words and telling the observer.
pub(crate) async fn follow_console(console: Console, pipe: OwnedFd, observer: &dyn LaunchObserver) {
    let seen = |bytes: &[u8]| observer.event(LaunchEvent::Console(bytes));
    if let Err(error) = console.follow(pipe, seen).await {
        tracing::warn!(%error, "the guest's console cannot be read");
    }
}

/// Every flow of the guest holds a descriptor; the soft limit is 1 024 in most sessions, for the sake of `select`, which
/// nothing here uses.
fn allow_many_flows() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays: there can be fewer connections");
    }
}

/// The gateway of a launch.
pub(crate) fn gateway_config(request: &LaunchRequest, egress: &Egress) -> GatewayConfig {
    GatewayConfig {
        overridden_names: overridden_names(&request.network.resolve, &egress.policy()),
        ..GatewayConfig::default()
    }
}

/// What answers the guest's questions for names: the host's own name servers and tables, whatever they are at the time.
pub(crate) fn host_resolver() -> HostResolver {
    HostResolver::watching(Path::new("/etc/resolv.conf"), Path::new("/etc/hosts"))
}

/// Runs the gateway and, behind it, the egress and the resolver on this end of the guest's link.
///
/// # Errors
/// When the link is not usable.
pub(crate) fn serve_network(
    config: GatewayConfig,
    link: OwnedFd,
    (egress, resolver): (Egress, HostResolver),
) -> Result<NetworkTask, GatewayError> {
    allow_many_flows();
    let gateway = Gateway::new(
        config,
        link,
        Rc::new(EgressHandler::new(egress)),
        Rc::new(resolver),
    )?;
    Ok(NetworkTask::start(gateway))
}

fn pair(kind: SocketType) -> Result<(OwnedFd, OwnedFd), BootError> {
    let made = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    made.map_err(|error| BootError::Descriptors(error.into()))
}

fn control_stream(descriptor: OwnedFd) -> std::io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(descriptor);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
