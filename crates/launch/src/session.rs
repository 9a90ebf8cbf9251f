//! The host's end of the control stream: handshake, programs, shutdown.
//!
//! Two local tasks own the socket: one always reads it (a host that does not read would block the machine's event
//! loop), one writes what is queued. What arrives waits in per-program queues that credit keeps within one window for
//! each stream. The guest is not trusted: more than its window, an impossible message or a malformed frame ends the
//! session with an error; it never panics and never grows a buffer beyond its bound.
//!
//! Everything here runs on one thread inside a `LocalSet`.

use std::rc::Rc;
use std::time::Duration;

use agent_vm_protocol::{Boot, Exec, ExecFailure, GuestPath, HostMessage, Timings, Tty, User};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

mod attach;
mod error;
mod output_fd;
mod program;
mod signals;
mod state;
mod terminal;
mod tty_guard;
mod wire;

pub use attach::{AttachError, Outcome, StreamMode, attach};
pub use error::{ExecError, SessionError};
pub use program::RunningProgram;
pub use terminal::{RawTerminal, TerminalError};
pub use tty_guard::{TTY_GUARD_COMMAND, tty_guard_main};

use state::State;

/// How long each wait on the guest may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the start of the machine to `Hello`.
    pub hello: Duration,
    /// From `Boot` to `Ready`.
    pub ready: Duration,
    /// From `Exec` to `Started`.
    pub start: Duration,
    /// From `Shutdown`, after the grace for programs, to `Stopped`.
    pub stop: Duration,
}

impl Limits {
    /// Limits of a machine with hardware virtualisation.
    pub const NATIVE: Self = Self {
        hello: Duration::from_secs(15),
        ready: Duration::from_secs(15),
        start: Duration::from_secs(10),
        stop: Duration::from_secs(5),
    };

    /// The same, `factor` times as long, for emulated machines.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            hello: self.hello.mul_f64(factor),
            ready: self.ready.mul_f64(factor),
            start: self.start.mul_f64(factor),
            stop: self.stop.mul_f64(factor),
        }
    }
}

/// A program to be run in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory; it must exist in the guest.
    pub cwd: GuestPath,
    /// Who runs it.
    pub user: User,
}

/// A guest that said `Ready`. Dropping it closes the stream, upon which the guest powers off by itself.
#[derive(Debug)]
pub struct Session {
    state: Rc<State>,
    tasks: [JoinHandle<()>; 2],
    limits: Limits,
    timings: Timings,
    warnings: Vec<String>,
}

impl Session {
    /// Shakes hands with the guest on `stream` and boots it. Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// The guest is silent, of another version, cannot boot, or does not speak the protocol.
    pub async fn start(
        stream: UnixStream,
        boot: Boot,
        limits: Limits,
    ) -> Result<Self, SessionError> {
        let mut handshake = wire::Handshake::new(stream);
        let hello = timeout(limits.hello, handshake.hello()).await;
        hello.map_err(|_| SessionError::Timeout {
            waited_for: "the guest's hello",
            limit: limits.hello,
        })??;
        let ready = timeout(limits.ready, handshake.boot(boot)).await;
        let (timings, warnings) = ready.map_err(|_| SessionError::Timeout {
            waited_for: "the guest to boot",
            limit: limits.ready,
        })??;
        let (state, tasks) = handshake.into_tasks();
        Ok(Self {
            state,
            tasks,
            limits,
            timings,
            warnings,
        })
    }

    /// When the phases of the guest's boot ended.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// What did not work in the guest's boot without stopping it. From the guest: show it escaped.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Starts a program; it runs when this returns.
    ///
    /// # Errors
    /// The guest could not start it, or the session is over.
    pub async fn exec(
        &self,
        command: Command,
        tty: Option<Tty>,
    ) -> Result<RunningProgram, ExecError> {
        let id = self.state.new_program();
        let mut program = RunningProgram::new(Rc::clone(&self.state), id);
        let Command {
            argv,
            env,
            cwd,
            user,
        } = command;
        self.state.send(&HostMessage::Exec(Box::new(Exec {
            id,
            argv,
            env,
            cwd,
            user,
            tty,
        })))?;
        let started = timeout(self.limits.start, self.state.started(id)).await;
        match started {
            Ok(Ok(Ok(pid))) => {
                program.has_started(pid);
                Ok(program)
            }
            Ok(Ok(Err(failure))) => Err(ExecError::Refused(failure)),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(SessionError::Timeout {
                waited_for: "the program to start",
                limit: self.limits.start,
            }
            .into()),
        }
    }

    /// Sets the guest's wall clock to nanoseconds since 1970.
    ///
    /// # Errors
    /// The session is over.
    pub fn sync_clock(&self, unix_ns: u64) -> Result<(), SessionError> {
        self.state.send(&HostMessage::ClockSync { unix_ns })
    }

    /// Waits until the session is over by itself, and says why.
    pub async fn failed(&self) -> SessionError {
        self.state.failed().await
    }

    /// Ends all programs (SIGTERM, `grace`, SIGKILL), has the file systems made clean, and closes the stream. The guest
    /// then resets its machine.
    ///
    /// # Errors
    /// The guest did not say that it stopped; its file systems may not be clean.
    pub async fn shutdown(self, grace: Duration) -> Result<(), SessionError> {
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        self.state.send(&HostMessage::Shutdown { grace_ms })?;
        let limit = self.limits.stop + grace;
        let stopped = timeout(limit, self.state.stopped()).await;
        stopped.unwrap_or(Err(SessionError::Timeout {
            waited_for: "the guest to stop",
            limit,
        }))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.state.end();
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Exit code for a program that could not be started: 127 not found, 126 not executable; `None` when the reason is
/// not the program (the launcher's own failure).
#[must_use]
pub fn failure_exit_code(failure: &ExecFailure) -> Option<u8> {
    use agent_vm_protocol::ExecFailureKind as Kind;
    match failure.kind {
        Kind::NotFound => Some(127),
        Kind::NotExecutable => Some(126),
        Kind::Directory | Kind::User | Kind::Invalid | Kind::System => None,
    }
}

#[cfg(test)]
mod tests;
