//! The user's terminal in raw mode, put back on every way out.
//!
//! Returning, dropping and unwinding restore it here. When the launcher is killed, the guard process does
//! ([`super::tty_guard`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use agent_vm_protocol::WindowSize;
use rustix::termios::{OptionalActions, Termios};
use thiserror::Error;

use super::tty_guard::TtyGuard;

/// The terminal cannot be used.
#[derive(Debug, Error)]
pub enum TerminalError {
    /// Its settings cannot be read or changed.
    #[error("cannot set up the terminal")]
    Settings(#[source] io::Error),
}

/// A terminal in raw mode for as long as this lives.
#[derive(Debug)]
pub struct RawTerminal {
    fd: OwnedFd,
    saved: Termios,
    guard: Option<TtyGuard>,
}

impl RawTerminal {
    /// Switches the terminal of `fd` to raw mode.
    ///
    /// # Errors
    /// `fd` is no terminal.
    pub fn enter(fd: impl AsFd) -> Result<Self, TerminalError> {
        Self::enter_with(fd, None)
    }

    /// As [`RawTerminal::enter`], watched by a guard process that restores the terminal when this process is killed.
    ///
    /// # Errors
    /// `fd` is no terminal. Without a guard (it cannot be started) the terminal is used all the same.
    pub fn enter_guarded(fd: impl AsFd) -> Result<Self, TerminalError> {
        let guard = TtyGuard::start(fd.as_fd()).ok();
        Self::enter_with(fd, guard)
    }

    fn enter_with(fd: impl AsFd, guard: Option<TtyGuard>) -> Result<Self, TerminalError> {
        let settings = |errno: rustix::io::Errno| TerminalError::Settings(errno.into());
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(settings)?;
        let saved = rustix::termios::tcgetattr(&fd).map_err(settings)?;
        let terminal = Self { fd, saved, guard };
        terminal.make_raw()?;
        Ok(terminal)
    }

    /// Switches to raw mode again (after the process was stopped and the shell changed the settings).
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn make_raw(&self) -> Result<(), TerminalError> {
        let mut raw = self.saved.clone();
        raw.make_raw();
        // Not `Flush`: what was typed ahead is for the guest.
        rustix::termios::tcsetattr(&self.fd, OptionalActions::Drain, &raw)
            .map_err(|errno| TerminalError::Settings(errno.into()))
    }

    /// Its present size; 24×80 when it does not know.
    #[must_use]
    pub fn size(&self) -> WindowSize {
        match rustix::termios::tcgetwinsize(&self.fd) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => WindowSize {
                rows: size.ws_row,
                cols: size.ws_col,
            },
            _ => WindowSize { rows: 24, cols: 80 },
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing is left to do for a terminal that is gone.
        let restored = rustix::termios::tcsetattr(&self.fd, OptionalActions::Now, &self.saved);
        if let Some(guard) = self.guard.take().filter(|_| restored.is_ok()) {
            guard.disarm();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::pty::OpenptFlags;
    use rustix::termios::{LocalModes, Winsize};

    use super::*;

    fn pty() -> (OwnedFd, OwnedFd) {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave =
            rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY)
                .unwrap();
        (master, slave)
    }

    fn canonical(fd: &OwnedFd) -> bool {
        let modes = rustix::termios::tcgetattr(fd).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    #[test]
    fn raw_mode_ends_with_the_value() {
        let (_master, slave) = pty();
        let terminal = RawTerminal::enter(&slave).unwrap();
        assert!(!canonical(&slave));
        drop(terminal);
        assert!(canonical(&slave));
    }

    #[test]
    fn a_panic_restores_the_terminal() {
        let (_master, slave) = pty();
        let fd = slave.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let _terminal = RawTerminal::enter(&fd).unwrap();
            std::panic::resume_unwind(Box::new("test"));
        });
        assert!(thread.join().is_err());
        assert!(canonical(&slave));
    }

    #[test]
    fn the_size_is_the_terminals_or_the_usual_one() {
        let (_master, slave) = pty();
        let terminal = RawTerminal::enter(&slave).unwrap();
        assert_eq!(terminal.size(), WindowSize { rows: 24, cols: 80 });
        let size = Winsize {
            ws_row: 5,
            ws_col: 6,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&slave, size).unwrap();
        assert_eq!(terminal.size(), WindowSize { rows: 5, cols: 6 });
    }

    #[test]
    fn a_pipe_is_no_terminal() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert!(RawTerminal::enter(&read).is_err());
    }
}
