//! The whole launch: six calls.

use std::io;
use std::rc::Rc;

use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;
use tokio::task::LocalSet;

use crate::attach::AttachError;
use crate::base::{self, BaseError, Level, Making, Rebuild, SetupCredentials};
use crate::boot::{BootError, follow_console};
use crate::event::{LaunchEvent, LaunchObserver};
use crate::integrity::{Watch, record};
use crate::phases::Phases;
use crate::prepare::PrepareError;
use crate::request::LaunchRequest;
use crate::resolve::{ResolveError, Resolved};

/// Why a launch did not run its program to the end.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// It cannot be planned.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// There is no base to begin with.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A part of it cannot be had.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The machine does not start.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The program was not run to its end.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// There is no event loop.
    #[error("cannot start the event loop")]
    Runtime(#[source] io::Error),
}

/// How one machine ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The program's exit code as a shell shows it.
    pub(crate) code: u8,
    /// The session's authority, PEM; it is worthless now.
    pub(crate) ca_pem: String,
}

/// Launches and gives the program's exit code as a shell shows it. Makes the bases first that are missing. Blocks until
/// the machine is gone.
///
/// # Errors
/// See [`LaunchError`].
pub fn launch(request: LaunchRequest, observer: &dyn LaunchObserver) -> Result<u8, LaunchError> {
    let mut phases = Phases::since(request.diagnostics.started);
    phases.cut("start");
    let runtime = event_loop()?;
    let outcome = LocalSet::new().block_on(&runtime, run(request, observer, &mut phases));
    phases.cut("teardown");
    for phase in phases.done() {
        observer.event(LaunchEvent::Phase(phase));
    }
    outcome
}

/// The one thread everything runs on.
pub(crate) fn event_loop() -> Result<Runtime, LaunchError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LaunchError::Runtime)
}

async fn run(
    request: LaunchRequest,
    observer: &dyn LaunchObserver,
    phases: &mut Phases,
) -> Result<u8, LaunchError> {
    let mut resolved = Resolved::new(request)?;
    // Before bases are made, which may take minutes.
    resolved.take_ports().map_err(PrepareError::from)?;
    phases.cut("resolve");
    let making = Making {
        level: Level::Project,
        rebuild: Rebuild::Missing,
        credentials: SetupCredentials::Withheld,
    };
    resolved.disk.from = base::ready(&resolved, making, observer).await?;
    phases.cut("base");
    let watch = Rc::new(Watch::begin(
        resolved.request.project.root(),
        &resolved.request.integrity,
    ));
    resolved.watch = Some(Rc::clone(&watch));
    let project = resolved.request.project.id().to_string();
    let log = resolved.request.directories.audit_log();
    let ended = run_once(resolved, observer, phases).await;
    if let Some((report, session)) = watch.finish()
        && !report.is_empty()
    {
        record(&report, &log, (&session, &project));
        observer.event(LaunchEvent::Integrity(&report));
    }
    Ok(ended?.code)
}

/// The next news of the host's logins.
async fn next(news: &mut Option<Receiver<String>>) -> Option<String> {
    match news {
        Some(news) => news.recv().await,
        None => None,
    }
}

/// One machine from its parts to its end.
pub(crate) async fn run_once(
    resolved: Resolved,
    observer: &dyn LaunchObserver,
    phases: &mut Phases,
) -> Result<Ended, LaunchError> {
    let mut prepared = resolved.prepare()?;
    let mut news = prepared.news.take();
    let ca_pem = prepared.egress.ca_pem().to_owned();
    let mut questions = prepared.egress.questions();
    phases.cut("prepare");
    let (booting, console) = prepared.boot()?;
    phases.cut("start machine");
    let console = follow_console(booting.machine.console(), console, observer);
    let attached = booting.run(observer, phases);
    tokio::pin!(console, attached);
    let mut console_ended = false;
    loop {
        tokio::select! {
            outcome = &mut attached => return Ok(Ended { code: outcome?, ca_pem }),
            () = &mut console, if !console_ended => console_ended = true,
            Some(text) = next(&mut news) => observer.event(LaunchEvent::Warning(&text)),
            Some(question) = questions.recv() => observer.event(LaunchEvent::Asking(&question)),
        }
    }
}
