//! Starting a program in the guest, and how it ends.

use serde::{Deserialize, Serialize};

use crate::guest_path::GuestPath;

/// Names one started program for the life of the session. Chosen by the host, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExecId(pub u32);

/// A program to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Its name in later messages.
    pub id: ExecId,
    /// Program and arguments. A program without `/` is searched in `PATH` of `env`.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, name and value. Only `HOME` (from the image's `/etc/passwd`) and, with a terminal,
    /// `TERM` are added when they are missing.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory; it must exist.
    pub cwd: GuestPath,
    /// Who runs it.
    pub user: User,
    /// One pseudo-terminal for all three streams, or three pipes.
    pub tty: Option<Tty>,
}

/// A user of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// By numbers.
    Ids {
        /// User id.
        uid: u32,
        /// Primary group id.
        gid: u32,
        /// Supplementary group ids.
        groups: Vec<u32>,
    },
    /// As an image configuration writes it: `user`, `uid`, `user:group`, `uid:gid` (OCI image spec, `config.User`),
    /// looked up in the image's `/etc/passwd` and `/etc/group`. Empty means root.
    Spec(String),
}

/// A pseudo-terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tty {
    /// Its first size.
    pub size: WindowSize,
    /// `TERM` of the program, unless its environment has one.
    pub term: Vec<u8>,
}

/// Size of a terminal in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// An output of a program. A program with a terminal has only `Stdout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OutputStream {
    /// Descriptor 1, or the terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(u8),
    /// Killed by this signal.
    Signal(u8),
}

impl ExitStatus {
    /// The code a shell shows: the program's own, or 128 + signal number.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128u8.saturating_add(signal),
        }
    }
}

/// Why a program was not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecFailure {
    /// The class, which decides the exit code.
    pub kind: ExecFailureKind,
    /// For people; names the object. From the guest: show it escaped.
    pub message: String,
}

/// Class of an [`ExecFailure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecFailureKind {
    /// There is no such program (127).
    NotFound,
    /// It is there but cannot be executed: permission, format, a directory (126).
    NotExecutable,
    /// The working directory does not exist or cannot be entered.
    Directory,
    /// There is no such user or group in the image.
    User,
    /// The request is not valid: no argument, a NUL byte, an id in use, too many programs.
    Invalid,
    /// The kernel refused: no memory, no process, no terminal.
    System,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_maps_to_128_plus_n_as_in_a_shell() {
        assert_eq!(ExitStatus::Signal(15).shell_code(), 143);
        assert_eq!(ExitStatus::Code(3).shell_code(), 3);
        assert_eq!(ExitStatus::Signal(255).shell_code(), 255);
    }
}
