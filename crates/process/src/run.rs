//! Runs one short host command to its end, with bounded output and time.
//!
//! Used for credential helpers and the like: their output may be a token, so it is never logged
//! and [`Captured`] does not print it.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::child::{new_command, spawn_lock, timespec};

/// Time a command gets unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of standard output accepted unless told otherwise.
const DEFAULT_MAX_OUTPUT: usize = 64 * 1024;
/// Bytes of standard error kept for a message; the rest is read and dropped.
const MAX_STDERR: usize = 16 * 1024;
/// How long output is still collected after the command itself has ended, in case something it
/// started keeps the pipes open.
const DRAIN_GRACE: Duration = Duration::from_millis(200);

/// A host command with everything it may see.
#[derive(Clone)]
pub struct CommandSpec {
    /// Absolute path of the program; see [`crate::find_program`].
    pub program: PathBuf,
    /// Arguments after the program's name.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Bytes for standard input.
    pub stdin: Vec<u8>,
    /// Working directory; `/` when absent, so that an untrusted project is never searched.
    pub current_dir: Option<PathBuf>,
    /// Time the command has before it and its process group are killed.
    pub timeout: Duration,
    /// Bytes of standard output accepted; more is an error.
    pub max_output: usize,
}

impl CommandSpec {
    /// `program` without arguments, with an empty environment and input, 20 s and 64 KiB.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            current_dir: None,
            timeout: DEFAULT_TIMEOUT,
            max_output: DEFAULT_MAX_OUTPUT,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I>(mut self, args: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds one environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

impl fmt::Debug for CommandSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Input and variables may hold secrets: names and sizes only.
        let variables: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("CommandSpec")
            .field("program", &self.program)
            .field("env", &variables)
            .field("stdin_len", &self.stdin.len())
            .field("timeout", &self.timeout)
            .field("max_output", &self.max_output)
            .finish_non_exhaustive()
    }
}

/// What a command that ended within its limits left behind.
pub struct Captured {
    /// How it ended; a failure status is not an error of [`run_captured`].
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// The beginning of its standard error (16 KiB).
    pub stderr: Vec<u8>,
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captured")
            .field("status", &self.status)
            .field("stdout_len", &self.stdout.len())
            .field("stderr_len", &self.stderr.len())
            .finish()
    }
}

/// Why a command gave no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program was named relative to something.
    #[error("{} is not an absolute path", program.display())]
    NotAbsolute {
        /// The program as given.
        program: PathBuf,
    },
    /// The program could not be executed.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Its pipes could not be served.
    #[error("cannot exchange data with {}", program.display())]
    Exchange {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It was killed after its time was over.
    #[error("{} did not end within {} s", program.display(), timeout.as_secs_f32())]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// The time it had.
        timeout: Duration,
    },
    /// It was killed because it wrote too much.
    #[error("{} wrote more than {limit} bytes", program.display())]
    TooMuchOutput {
        /// The program.
        program: PathBuf,
        /// The number of bytes accepted.
        limit: usize,
    },
}

/// Runs `spec` to its end.
///
/// The command leads its own process group; the whole group is killed when a limit is exceeded,
/// and whatever is left of it once the command has ended.
///
/// # Errors
/// See [`RunError`]. A command that ran and failed is a [`Captured`] with its status.
pub fn run_captured(spec: &CommandSpec) -> Result<Captured, RunError> {
    if !spec.program.is_absolute() {
        return Err(RunError::NotAbsolute {
            program: spec.program.clone(),
        });
    }
    let running = Running::start(spec).map_err(|source| RunError::Start {
        program: spec.program.clone(),
        source,
    })?;
    running.collect(spec)
}

/// A started command with our ends of its pipes. Dropping it kills its process group.
struct Running {
    child: std::process::Child,
    pid: Pid,
    pidfd: OwnedFd,
    stdin: Option<std::process::ChildStdin>,
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
    status: Option<ExitStatus>,
}

impl Running {
    fn start(spec: &CommandSpec) -> io::Result<Self> {
        let mut command = new_command(&spec.program);
        command
            .args(&spec.args)
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .current_dir(spec.current_dir.as_deref().unwrap_or("/".as_ref()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = {
            let _lock = spawn_lock();
            command.spawn()?
        };
        let pid = Pid::from_child(&child);
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error.into());
            }
        };
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let running = Self {
            child,
            pid,
            pidfd,
            stdin,
            stdout,
            stderr,
            status: None,
        };
        set_nonblocking(running.stdin.as_ref())?;
        set_nonblocking(running.stdout.as_ref())?;
        set_nonblocking(running.stderr.as_ref())?;
        Ok(running)
    }

    fn collect(mut self, spec: &CommandSpec) -> Result<Captured, RunError> {
        let exchange = |source| RunError::Exchange {
            program: spec.program.clone(),
            source,
        };
        let deadline = Instant::now() + spec.timeout;
        let mut drain_until: Option<Instant> = None;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut input = spec.stdin.as_slice();
        loop {
            self.feed(&mut input);
            read_some(
                &mut self.stdout,
                &mut stdout,
                spec.max_output.saturating_add(1),
            )
            .map_err(exchange)?;
            read_some(&mut self.stderr, &mut stderr, MAX_STDERR).map_err(exchange)?;
            if stdout.len() > spec.max_output {
                return Err(RunError::TooMuchOutput {
                    program: spec.program.clone(),
                    limit: spec.max_output,
                });
            }
            let now = Instant::now();
            if self.status.is_none() {
                self.status = self.child.try_wait().map_err(exchange)?;
            }
            if let Some(status) = self.status {
                let until = *drain_until.get_or_insert(now + DRAIN_GRACE);
                if now >= until || (self.stdout.is_none() && self.stderr.is_none()) {
                    return Ok(Captured {
                        status,
                        stdout,
                        stderr,
                    });
                }
            } else if now >= deadline {
                return Err(RunError::TimedOut {
                    program: spec.program.clone(),
                    timeout: spec.timeout,
                });
            }
            let wake = drain_until.unwrap_or(deadline);
            self.wait_for_progress(wake.saturating_duration_since(now))
                .map_err(exchange)?;
        }
    }

    /// Writes what the command takes; a command that closes its input simply gets no more.
    fn feed(&mut self, input: &mut &[u8]) {
        while let Some(pipe) = &mut self.stdin {
            if input.is_empty() {
                self.stdin = None;
                return;
            }
            match pipe.write(input) {
                Ok(count) => *input = input.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.stdin = None,
            }
        }
    }

    fn wait_for_progress(&self, limit: Duration) -> io::Result<()> {
        let mut fds = Vec::with_capacity(4);
        if let Some(pipe) = &self.stdin {
            fds.push(PollFd::new(pipe, PollFlags::OUT));
        }
        if let Some(pipe) = &self.stdout {
            fds.push(PollFd::new(pipe, PollFlags::IN));
        }
        if let Some(pipe) = &self.stderr {
            fds.push(PollFd::new(pipe, PollFlags::IN));
        }
        if self.status.is_none() {
            fds.push(PollFd::new(&self.pidfd, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, Some(&timespec(limit))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The group outlives its leader when the command left something behind; its number stays
        // reserved while it has members. An error means that nothing is left.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        if self.status.is_none() {
            let _ = self.child.wait();
        }
    }
}

fn set_nonblocking(pipe: Option<&impl std::os::fd::AsFd>) -> io::Result<()> {
    if let Some(pipe) = pipe {
        let flags = rustix::fs::fcntl_getfl(pipe)?;
        rustix::fs::fcntl_setfl(pipe, flags | OFlags::NONBLOCK)?;
    }
    Ok(())
}

/// Reads all there is now, keeps at most `limit` bytes in total, closes the pipe at its end.
fn read_some<R: Read>(pipe: &mut Option<R>, into: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    const CHUNK: usize = 8 * 1024;
    /// Chunks per call, so that a flood cannot keep the caller from looking at the clock.
    const ROUNDS: usize = 16;
    let mut chunk = [0_u8; CHUNK];
    for _ in 0..ROUNDS {
        let Some(reader) = pipe else { return Ok(()) };
        match reader.read(&mut chunk) {
            Ok(0) => *pipe = None,
            Ok(count) => {
                let room = limit.saturating_sub(into.len()).min(count);
                into.extend_from_slice(chunk.get(..room).unwrap_or_default());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
