//! The whole launch: five calls.

use tokio::task::LocalSet;

use crate::attach::AttachError;
use crate::boot::{BootError, follow_console};
use crate::event::{LaunchEvent, LaunchObserver};
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
    Runtime(#[source] std::io::Error),
}

/// Launches and gives the program's exit code as a shell shows it. Blocks until the machine is gone.
///
/// # Errors
/// See [`LaunchError`].
pub fn launch(request: LaunchRequest, observer: &dyn LaunchObserver) -> Result<u8, LaunchError> {
    let mut phases = Phases::since(request.diagnostics.started);
    phases.cut("start");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LaunchError::Runtime)?;
    let outcome = LocalSet::new().block_on(&runtime, run(request, observer, &mut phases));
    phases.cut("teardown");
    for phase in phases.done() {
        observer.event(LaunchEvent::Phase(phase));
    }
    outcome
}

async fn run(
    request: LaunchRequest,
    observer: &dyn LaunchObserver,
    phases: &mut Phases,
) -> Result<u8, LaunchError> {
    let resolved = Resolved::new(request)?;
    phases.cut("resolve");
    let prepared = resolved.prepare()?;
    phases.cut("prepare");
    let (booting, console) = prepared.boot()?;
    phases.cut("start machine");
    let console = follow_console(booting.machine.console(), console, observer);
    let attached = booting.run(observer, phases);
    tokio::pin!(console, attached);
    let mut console_ended = false;
    loop {
        tokio::select! {
            outcome = &mut attached => return Ok(outcome?),
            () = &mut console, if !console_ended => console_ended = true,
        }
    }
}
