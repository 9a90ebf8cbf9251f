//! All messages, one enum for each direction. The order of variants and fields is the wire format.

use serde::{Deserialize, Serialize};

use crate::boot::Boot;
use crate::exec::{Exec, ExecFailure, ExecId, ExitStatus, OutputStream, WindowSize};

/// From the launcher to PID 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostMessage {
    /// Answer to `Hello`, once.
    Boot(Box<Boot>),
    /// Start a program.
    Exec(Box<Exec>),
    /// Bytes for its standard input, at most `MAX_CHUNK`, within the window.
    Stdin {
        /// Which program.
        id: ExecId,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// Its standard input ends here. With a terminal: the host's end is gone, the guest hangs up.
    StdinEof {
        /// Which program.
        id: ExecId,
    },
    /// The guest may send that many more bytes of this output.
    OutputCredit {
        /// Which program.
        id: ExecId,
        /// Which output.
        stream: OutputStream,
        /// Added to the window.
        bytes: u32,
    },
    /// The host reads this output no more: the guest closes it, writers get SIGPIPE.
    OutputClosed {
        /// Which program.
        id: ExecId,
        /// Which output.
        stream: OutputStream,
    },
    /// New size of its terminal.
    Resize {
        /// Which program.
        id: ExecId,
        /// The size.
        size: WindowSize,
    },
    /// Send a signal to its process group (with a terminal: the foreground group).
    Signal {
        /// Which program.
        id: ExecId,
        /// Linux signal number, 1–64.
        signal: u8,
    },
    /// Set the wall clock (after the host slept).
    ClockSync {
        /// Nanoseconds since 1970-01-01T00:00:00Z.
        unix_ns: u64,
    },
    /// End everything, make file systems clean, reset the machine.
    Shutdown {
        /// Time between SIGTERM and SIGKILL, in milliseconds.
        grace_ms: u32,
    },
}

/// From PID 1 to the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestMessage {
    /// The first message. Its encoding never changes.
    Hello {
        /// `MAGIC`.
        magic: [u8; 8],
        /// `PROTOCOL_VERSION` of the guest.
        version: u32,
    },
    /// `Boot` is done; programs may be started.
    Ready {
        /// When the phases of the boot ended.
        timings: Timings,
        /// What did not work but does not stop the guest; at most 16, each at most 512 bytes.
        warnings: Vec<String>,
    },
    /// The program runs (its `execve` succeeded).
    Started {
        /// Which program.
        id: ExecId,
        /// Its process id in the guest.
        pid: u32,
    },
    /// The program was not started. The last message for this id.
    ExecFailed {
        /// Which program.
        id: ExecId,
        /// Why.
        failure: ExecFailure,
    },
    /// Bytes it wrote, at most `MAX_CHUNK`, within the window.
    Output {
        /// Which program.
        id: ExecId,
        /// Which output.
        stream: OutputStream,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// This output ended.
    OutputEof {
        /// Which program.
        id: ExecId,
        /// Which output.
        stream: OutputStream,
    },
    /// The host may send that many more bytes of standard input.
    StdinCredit {
        /// Which program.
        id: ExecId,
        /// Added to the window.
        bytes: u32,
    },
    /// The program reads its standard input no more: the host stops sending.
    StdinClosed {
        /// Which program.
        id: ExecId,
    },
    /// The program ended and all its output was sent. The last message for this id.
    Exited {
        /// Which program.
        id: ExecId,
        /// How.
        status: ExitStatus,
    },
    /// The guest cannot go on and powers off.
    Error(GuestError),
    /// Answer to `Shutdown`: file systems are clean. The last message.
    Stopped,
}

/// Moments of the guest's boot, in nanoseconds of its monotonic clock (0 = the kernel started).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// First instruction of PID 1.
    pub init_ns: u64,
    /// The control stream is connected and `Hello` sent.
    pub connected_ns: u64,
    /// `Boot` received.
    pub boot_ns: u64,
    /// All mounts done, root switched.
    pub mounted_ns: u64,
    /// The network is up.
    pub network_ns: u64,
    /// `Ready` is sent.
    pub ready_ns: u64,
}

/// Whether something may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Only read.
    ReadOnly,
    /// Read and written.
    ReadWrite,
}

/// Why the guest cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestError {
    /// In which part.
    pub kind: GuestErrorKind,
    /// For people. From the guest: show it escaped.
    pub message: String,
}

/// Class of a [`GuestError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestErrorKind {
    /// The host sent something that is not valid here.
    Protocol,
    /// A file system could not be mounted.
    Mount,
    /// The network could not be set up.
    Network,
    /// A file of `Boot` could not be written.
    File,
    /// Anything else.
    System,
}
