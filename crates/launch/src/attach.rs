//! Last steps: the guest is given its identity, the program runs on the user's streams, the machine is taken down.

use std::convert::Infallible;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_vm_egress::CanaryAlive;
use agent_vm_image::is_clean;
use agent_vm_protocol::{ExecFailure, Timings, User};
use tokio::sync::mpsc::Receiver;

use crate::boot::{Booting, Parts};
use crate::event::{LaunchEvent, LaunchObserver};
use crate::guest_view::{GuestPathInvalid, guest_path};
use crate::machine::{Machine, MachineEnded};
use crate::network::NetworkEnded;
use crate::phases::Phases;
use crate::prepare::disk_path;
use crate::publish::{PublishEvent, Publishing};
use crate::request::{LaunchRequest, Streams};
use crate::session::{self, Command, ExecError, Limits, Session, SessionError, StreamMode};

/// How long what the program left running may take to end.
const GRACE: Duration = Duration::from_millis(500);
/// How long the machine may take to be gone once the guest said it is about to be, or its stream broke.
const POWER_OFF: Duration = Duration::from_secs(3);

/// `TERM` where the user's terminal has no name.
const DEFAULT_TERM: &[u8] = b"xterm-256color";

/// Why the program was not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The machine ended under it.
    #[error(transparent)]
    Machine(#[from] MachineEnded),
    /// The machine runs, but its guest does not do its part.
    #[error("the guest does not answer as it should")]
    Guest(#[source] SessionError),
    /// What the policy must refuse was not seen to be refused.
    #[error("the egress policy is not known to be in force")]
    Canary(#[from] CanaryAlive),
    /// The guest lost its network.
    #[error(transparent)]
    Network(#[from] NetworkEnded),
    /// The program cannot be started; see [`session::failure_exit_code`].
    #[error(transparent)]
    NotStarted(#[from] NotStarted),
    /// The working directory cannot be one in the guest.
    #[error("the program cannot be described")]
    Path(#[from] GuestPathInvalid),
    /// The user's terminal or streams.
    #[error(transparent)]
    Streams(session::AttachError),
    /// The event loop does not take the listeners.
    #[error("cannot serve published ports")]
    Publish(#[source] std::io::Error),
    /// The disk was to be kept, but the guest did not make it clean.
    #[error("the guest did not end in order, so its disk cannot be kept")]
    NotClean,
    /// The disk cannot be put where it is kept.
    #[error("cannot keep the guest's disk")]
    Keep(#[source] std::io::Error),
}

/// The guest could not start the program.
#[derive(Debug, thiserror::Error)]
#[error("{}", ExecError::Refused(self.failure.clone()))]
pub struct NotStarted {
    /// Why; its message is the guest's.
    pub failure: ExecFailure,
}

impl Booting {
    /// Boots the guest, runs the program, takes the machine down; gives the program's exit code.
    ///
    /// # Errors
    /// See [`AttachError`]; the machine is gone then as well.
    pub async fn run(
        self,
        observer: &dyn LaunchObserver,
        phases: &mut Phases,
    ) -> Result<u8, AttachError> {
        let Self {
            mut parts,
            mut machine,
            control,
            boot,
            mut network,
        } = self;
        let scale = Scale::of(&parts.request);
        let command = command(&parts)?;
        let session = match Session::start(control, boot, scale.limits()).await {
            Ok(session) => session,
            Err(error) => return Err(explain(error, &mut machine, scale).await),
        };
        cut_boot(phases, session.timings());
        parts.egress.is_in_force()?;
        if let Some(watch) = &parts.watch {
            watch.settle(parts.session.id().as_str());
        }
        for warning in session.warnings() {
            observer.event(LaunchEvent::Warning(warning));
        }
        observer.event(LaunchEvent::Ready);
        let publishing = parts.publish.take().map(Publishing::start);
        let publishing = publishing.transpose().map_err(AttachError::Publish)?;
        let attached = session::attach(&session, command, mode(&parts.request));
        let outcome = tokio::select! {
            outcome = attached => program_end(outcome),
            ended = network.failed() => Ok(Err(ended.into())),
            never = follow_published(publishing, observer) => match never {},
        };
        phases.cut("program");
        let outcome = match outcome {
            Err(error) => return Err(explain(error, &mut machine, scale).await),
            Ok(outcome) => outcome,
        };
        let ending = take_down(session, &mut machine, scale).await;
        if let (Ok(_), Some(place)) = (&outcome, &parts.keep) {
            if ending == Ending::Unclear {
                return Err(AttachError::NotClean);
            }
            keep(&disk_path(&parts.session), place)?;
        }
        outcome
    }
}

/// The program's exit code, or why there is none; an error of the session ends everything.
fn program_end(
    outcome: Result<session::Outcome, session::AttachError>,
) -> Result<Result<u8, AttachError>, SessionError> {
    use session::AttachError as Attach;
    match outcome {
        Ok(outcome) => Ok(Ok(outcome.exit_code())),
        Err(Attach::Session(error) | Attach::Exec(ExecError::Session(error))) => Err(error),
        Err(Attach::Exec(ExecError::Refused(failure))) => Ok(Err(NotStarted { failure }.into())),
        Err(error) => Ok(Err(AttachError::Streams(error))),
    }
}

/// Serves published ports beside the program, which they do not end.
async fn follow_published(
    publishing: Option<(Publishing, Receiver<PublishEvent>)>,
    observer: &dyn LaunchObserver,
) -> Infallible {
    let Some((_publishing, mut news)) = publishing else {
        return std::future::pending().await;
    };
    while let Some(event) = news.recv().await {
        observer.event(LaunchEvent::Publish(event));
    }
    std::future::pending().await
}

/// Puts a disk where it is kept, unless it waits for its journal to be replayed.
fn keep(disk: &Path, place: &Path) -> Result<(), AttachError> {
    let open = fs_err::File::open(disk).map_err(AttachError::Keep)?;
    if !is_clean(open.file()).map_err(AttachError::Keep)? {
        return Err(AttachError::NotClean);
    }
    fs_err::rename(disk, place).map_err(AttachError::Keep)
}

/// How sure it is that the guest's disk is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The guest made its file systems clean and the machine is gone.
    Clean,
    /// Something did not go as it should.
    Unclear,
}

/// Cuts the boot by the guest's own clock, which ended with `Ready` a moment ago.
fn cut_boot(phases: &mut Phases, timings: Timings) {
    let now = Instant::now();
    for (name, end) in [
        ("guest kernel", timings.init_ns),
        ("guest control", timings.boot_ns),
        ("guest mounts", timings.mounted_ns),
        ("guest network", timings.network_ns),
        ("guest ready", timings.ready_ns),
    ] {
        let before_ready = Duration::from_nanos(timings.ready_ns.saturating_sub(end));
        phases.cut_at(name, now.checked_sub(before_ready).unwrap_or(now));
    }
}

/// Ends the guest in order; a guest that does not end is killed when the machine is dropped. The program has ended, so
/// nothing that happens here changes its exit code.
async fn take_down(session: Session, machine: &mut Machine, scale: Scale) -> Ending {
    if let Err(error) = session.shutdown(GRACE).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the guest was not shut down in order"
        );
        return Ending::Unclear;
    }
    if tokio::time::timeout(scale.apply(POWER_OFF), machine.ended())
        .await
        .is_err()
    {
        tracing::warn!("the machine did not end after its guest stopped");
        return Ending::Unclear;
    }
    Ending::Clean
}

/// A broken session is explained by the end of its machine, where that has ended.
async fn explain(error: SessionError, machine: &mut Machine, scale: Scale) -> AttachError {
    match error {
        SessionError::Closed | SessionError::Io(_) => {
            machine.post_mortem(scale.apply(POWER_OFF)).await.into()
        }
        other => AttachError::Guest(other),
    }
}

fn command(parts: &Parts) -> Result<Command, GuestPathInvalid> {
    Ok(Command {
        argv: parts
            .request
            .program
            .argv
            .iter()
            .map(|argument| argument.as_bytes().to_vec())
            .collect(),
        env: parts.environment.clone(),
        cwd: guest_path(&parts.working_directory)?,
        user: User::Spec(String::new()),
    })
}

fn mode(request: &LaunchRequest) -> StreamMode {
    match &request.streams {
        Streams::Terminal if request.terminal_type.is_empty() => StreamMode::Terminal {
            term: DEFAULT_TERM.to_vec(),
        },
        Streams::Terminal => StreamMode::Terminal {
            term: request.terminal_type.clone().into_bytes(),
        },
        Streams::Pipes => StreamMode::Pipes,
        Streams::Report => StreamMode::Report,
    }
}

/// How much longer than on a usual machine everything may take.
#[derive(Debug, Clone, Copy)]
struct Scale(f64);

impl Scale {
    fn of(request: &LaunchRequest) -> Self {
        Self(request.diagnostics.timeout_scale)
    }

    fn apply(self, time: Duration) -> Duration {
        time.mul_f64(self.0)
    }

    fn limits(self) -> Limits {
        Limits::NATIVE.scaled(self.0)
    }
}
