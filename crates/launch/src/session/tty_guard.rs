//! A tiny process that restores the terminal when the launcher is killed.
//!
//! It is this program itself (`agent-vm __tty-guard`), with the terminal as standard output and a socket to the
//! launcher as standard input. It saves the settings, says so, and waits. When the launcher goes away without having
//! disarmed it, it restores the settings. It leaves the launcher's session, because the kernel stops a background
//! process that changes the settings of its own controlling terminal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use agent_vm_process::{Child, ChildCommand, ChildStdio};
use rustix::io::Errno;
use rustix::termios::OptionalActions;

/// First argument of the program that makes it the guard; dispatch it to [`tty_guard_main`].
pub const TTY_GUARD_COMMAND: &str = "__tty-guard";

/// How long the guard may take to start.
const START: Duration = Duration::from_secs(5);

const READY: u8 = b'r';
const DISARM: u8 = b'd';

/// The running guard. Dropping it leaves it armed only if this process dies; see [`TtyGuard::disarm`].
pub(super) struct TtyGuard {
    link: UnixStream,
    _child: Child,
}

impl std::fmt::Debug for TtyGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TtyGuard").finish_non_exhaustive()
    }
}

impl TtyGuard {
    /// Starts the guard for `terminal` before its settings are changed.
    pub(super) fn start(terminal: BorrowedFd<'_>) -> io::Result<Self> {
        Self::start_program(terminal, PathBuf::from("/proc/self/exe"))
    }

    fn start_program(terminal: BorrowedFd<'_>, program: PathBuf) -> io::Result<Self> {
        let (link, theirs) = UnixStream::pair()?;
        let command = ChildCommand::new(program)
            .arg(TTY_GUARD_COMMAND)
            .arg0("agent-vm")
            .stdin(ChildStdio::Fd(theirs.into()))
            .stdout(ChildStdio::Fd(terminal.try_clone_to_owned()?));
        let child = command.spawn().map_err(io::Error::other)?;
        link.set_read_timeout(Some(START))?;
        let mut answer = [0];
        io::Read::read_exact(&mut &link, &mut answer)?;
        Ok(Self {
            link,
            _child: child,
        })
    }

    /// The terminal is restored: the guard has nothing to do any more.
    pub(super) fn disarm(self) {
        // A guard that is gone needs no word.
        let _ = io::Write::write_all(&mut &self.link, &[DISARM]);
    }
}

/// The guard process: standard input is the launcher, standard output the terminal. Gives the exit code.
#[must_use]
pub fn tty_guard_main() -> u8 {
    let outcome =
        leave_session().and_then(|()| guard(rustix::stdio::stdin(), rustix::stdio::stdout()));
    u8::from(outcome.is_err())
}

/// Makes this process unrelated to the terminal's job control. A group leader cannot do that, and we are started as
/// one: first go back to the launcher's group.
fn leave_session() -> Result<(), Errno> {
    if let Some(parent) = rustix::process::getppid() {
        let group = rustix::process::getpgid(Some(parent))?;
        rustix::process::setpgid(None, Some(group))?;
    }
    rustix::process::setsid().map(|_| ())
}

fn guard(launcher: impl AsFd, terminal: impl AsFd) -> Result<(), Errno> {
    let saved = rustix::termios::tcgetattr(&terminal)?;
    rustix::io::write(&launcher, &[READY])?;
    let mut word = [0];
    let count = loop {
        match rustix::io::read(&launcher, &mut word) {
            Err(Errno::INTR) => {}
            // The launcher died with our last word unread.
            Err(Errno::CONNRESET) => break 0,
            other => break other?,
        }
    };
    if count == 1 && word[0] == DISARM {
        return Ok(());
    }
    rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &saved)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::pty::OpenptFlags;
    use rustix::termios::LocalModes;

    use super::*;

    fn pty() -> (OwnedFd, OwnedFd) {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave =
            rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY)
                .unwrap();
        (master, slave)
    }

    fn is_raw(terminal: &OwnedFd) -> bool {
        !rustix::termios::tcgetattr(terminal)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON)
    }

    /// Runs the guard's loop in a thread, makes the terminal raw, then ends the launcher's side as `last` says.
    fn guarded(last: Option<u8>) -> bool {
        let (_master, terminal) = pty();
        let (launcher, theirs) = UnixStream::pair().unwrap();
        let watched = terminal.try_clone().unwrap();
        let thread = std::thread::spawn(move || guard(&theirs, &watched));
        let mut ready = [0];
        io::Read::read_exact(&mut &launcher, &mut ready).unwrap();
        let mut raw = rustix::termios::tcgetattr(&terminal).unwrap();
        raw.make_raw();
        rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &raw).unwrap();
        if let Some(word) = last {
            io::Write::write_all(&mut &launcher, &[word]).unwrap();
        }
        drop(launcher);
        thread.join().unwrap().unwrap();
        is_raw(&terminal)
    }

    #[test]
    fn a_vanished_launcher_gets_its_terminal_restored() {
        assert!(!guarded(None));
    }

    #[test]
    fn a_disarmed_guard_leaves_the_terminal_alone() {
        assert!(guarded(Some(DISARM)));
    }

    #[test]
    fn a_program_that_is_no_guard_is_noticed() {
        let (_master, terminal) = pty();
        assert!(TtyGuard::start_program(terminal.as_fd(), PathBuf::from("/bin/true")).is_err());
    }
}
