//! Starts a long-lived child with named descriptors and owns it until it is reaped.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags};

/// What one of a child's three standard descriptors is connected to.
#[derive(Debug, Default)]
pub enum ChildStdio {
    /// `/dev/null`.
    #[default]
    Null,
    /// The parent's own descriptor of the same number.
    Inherit,
    /// The given descriptor.
    Fd(OwnedFd),
}

impl From<ChildStdio> for Stdio {
    fn from(value: ChildStdio) -> Self {
        match value {
            ChildStdio::Null => Self::null(),
            ChildStdio::Inherit => Self::inherit(),
            ChildStdio::Fd(fd) => Self::from(fd),
        }
    }
}

/// Why a child did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program was named relative to something; see [`crate::find_program`].
    #[error("{} is not an absolute path", program.display())]
    NotAbsolute {
        /// The program as given.
        program: PathBuf,
    },
    /// A descriptor could not be prepared for the child.
    #[error("cannot pass a file descriptor to {}", program.display())]
    PassDescriptor {
        /// The program to be started.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The program could not be executed.
    #[error("cannot start {}", program.display())]
    Execute {
        /// The program to be started.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// A child to be started: program, arguments, named variables, named descriptors.
///
/// The environment starts empty. The child leads its own process group, so that a terminal's
/// interrupt reaches the launcher only.
#[derive(Debug)]
pub struct ChildCommand {
    program: PathBuf,
    args: Vec<OsString>,
    arg0: Option<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: ChildStdio,
    stdout: ChildStdio,
    stderr: ChildStdio,
    inherited: Vec<OwnedFd>,
    current_dir: Option<PathBuf>,
}

impl ChildCommand {
    /// A child running `program`, an absolute path.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            arg0: None,
            env: Vec::new(),
            stdin: ChildStdio::Null,
            stdout: ChildStdio::Null,
            stderr: ChildStdio::Null,
            inherited: Vec::new(),
            current_dir: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Replaces the name the child sees as its own (`argv[0]`).
    #[must_use]
    pub fn arg0(mut self, name: impl Into<OsString>) -> Self {
        self.arg0 = Some(name.into());
        self
    }

    /// Adds one environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory; the parent's is used otherwise.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(directory.into());
        self
    }

    /// Connects standard input; `/dev/null` otherwise.
    #[must_use]
    pub fn stdin(mut self, stdio: ChildStdio) -> Self {
        self.stdin = stdio;
        self
    }

    /// Connects standard output; `/dev/null` otherwise.
    #[must_use]
    pub fn stdout(mut self, stdio: ChildStdio) -> Self {
        self.stdout = stdio;
        self
    }

    /// Connects standard error; `/dev/null` otherwise.
    #[must_use]
    pub fn stderr(mut self, stdio: ChildStdio) -> Self {
        self.stderr = stdio;
        self
    }

    /// Hands `fd` over to the child and returns the number it has there (never 0, 1 or 2).
    ///
    /// # Errors
    /// When the descriptor has a standard number and cannot be moved away from it.
    pub fn pass_fd(&mut self, fd: OwnedFd) -> io::Result<RawFd> {
        const FIRST_FREE: RawFd = 3;
        let fd = if fd.as_raw_fd() < FIRST_FREE {
            rustix::io::fcntl_dupfd_cloexec(&fd, FIRST_FREE)?
        } else {
            fd
        };
        let number = fd.as_raw_fd();
        self.inherited.push(fd);
        Ok(number)
    }

    /// Starts the child.
    ///
    /// # Errors
    /// See [`SpawnError`]. Nothing keeps running when this fails.
    pub fn spawn(self) -> Result<Child, SpawnError> {
        let program = self.program;
        if !program.is_absolute() {
            return Err(SpawnError::NotAbsolute { program });
        }
        let mut command = new_command(&program);
        command.args(&self.args).envs(self.env).process_group(0);
        command
            .stdin(self.stdin)
            .stdout(self.stdout)
            .stderr(self.stderr);
        if let Some(name) = &self.arg0 {
            command.arg0(name);
        }
        if let Some(directory) = &self.current_dir {
            command.current_dir(directory);
        }
        let spawned = {
            let _lock = spawn_lock();
            let marked = InheritableFds::mark(&self.inherited).map_err(|source| {
                SpawnError::PassDescriptor {
                    program: program.clone(),
                    source,
                }
            })?;
            let spawned = command.spawn();
            drop(marked);
            spawned
        };
        let inner = spawned.map_err(|source| SpawnError::Execute {
            program: program.clone(),
            source,
        })?;
        Child::own(inner).map_err(|source| SpawnError::Execute { program, source })
    }
}

/// The one place that builds a [`Command`]: environment empty.
#[allow(
    clippy::disallowed_methods,
    reason = "every child of the project comes through here"
)]
pub(crate) fn new_command(program: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command
}

/// Held while descriptors are inheritable, and by every start of a child, so that no other
/// child can receive them.
pub(crate) fn spawn_lock() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Descriptors whose close-on-exec flag is cleared for as long as this lives.
struct InheritableFds<'a>(&'a [OwnedFd]);

impl<'a> InheritableFds<'a> {
    fn mark(fds: &'a [OwnedFd]) -> io::Result<Self> {
        let marked = Self(fds);
        for fd in fds {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(marked)
    }
}

impl Drop for InheritableFds<'_> {
    fn drop(&mut self) {
        for fd in self.0 {
            // Cannot fail for an open descriptor.
            let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
    }
}

/// A running child. Dropping it kills and reaps it.
pub struct Child {
    inner: std::process::Child,
    pidfd: OwnedFd,
    status: Option<ExitStatus>,
}

impl Child {
    fn own(mut inner: std::process::Child) -> io::Result<Self> {
        let pid = Pid::from_child(&inner);
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self {
                inner,
                pidfd,
                status: None,
            }),
            Err(error) => {
                // Without its descriptor the child cannot be owned; do not leave it behind.
                let _ = inner.kill();
                let _ = inner.wait();
                Err(error.into())
            }
        }
    }

    /// The child's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// A descriptor that becomes readable when the child has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Blocks until the child has ended.
    ///
    /// # Errors
    /// Only if the child was reaped behind this value's back.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let status = self.inner.wait()?;
        self.status = Some(status);
        Ok(status)
    }

    /// The child's status if it has ended.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.inner.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits at most `limit` for the child to end.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_timeout(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&timespec(left))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Kills the child at once (SIGKILL). No effect on one that has ended.
    ///
    /// # Errors
    /// When the system refuses; it does not for an own child.
    pub fn kill(&mut self) -> io::Result<()> {
        if self.status.is_some() {
            return Ok(());
        }
        self.inner.kill()
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("pid", &self.pid())
            .field("status", &self.status)
            .finish()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            // A failure means it has ended already; waiting then returns at once.
            let _ = self.inner.kill();
            let _ = self.inner.wait();
        }
    }
}

/// A duration as the system wants it; saturates far beyond any limit used here.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests;
