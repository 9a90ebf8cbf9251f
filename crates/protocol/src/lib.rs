//! Control protocol between the launcher (host) and PID 1 (guest).
//!
//! One reliable byte stream carries frames both ways: a little-endian `u32` payload length, then one
//! postcard-encoded message. The guest speaks first:
//!
//! ```text
//! guest                                   host
//! Hello{version}        ───────────────►        refuses another version
//!                       ◄───────────────  Boot  everything that belongs to this launch
//! Ready{timings}        ───────────────►        or Error, then the guest powers off
//!                       ◄───────────────  Exec{id}
//! Started{id} | ExecFailed{id}   ──────►
//! Output{id, stream, data} …     ──────►        within the window the host granted
//!                       ◄───────────────  Stdin{id, data} …   within the window the guest granted
//! OutputEof{id, stream}, Exited{id} ───►
//!                       ◄───────────────  Shutdown
//! Stopped               ───────────────►        file systems are clean; then the machine resets
//! ```
//!
//! Flow control is by credit: a sender starts with [`INITIAL_WINDOW`] bytes for each stream and each `Credit`
//! adds to it. A receiver can so always read its socket, and never holds more than a window per stream.
//!
//! Connections of the host to ports of the guest have a second stream of the same framing, see [`ForwardRequest`].
//!
//! This crate does no I/O and knows no clock. What it parses comes from an untrusted peer: every frame is bounded
//! before it is buffered, and every failure is a value.
#![forbid(unsafe_code)]

mod boot;
mod codec;
mod exec;
mod forward;
mod guest_path;
mod messages;

pub use boot::{
    Boot, BootFile, Canary, Ipv4Config, Ipv6Config, Lower, Network, Root, Share, ShareKind, Sysctl,
    Upper,
};
pub use codec::{
    DecodeError, Decoder, EncodeError, MAX_BOOT_LIST, MAX_GUEST_PAYLOAD, MAX_HOST_PAYLOAD, Message,
    encode, fuzz_decoder,
};
pub use exec::{
    Exec, ExecFailure, ExecFailureKind, ExecId, ExitStatus, OutputStream, Tty, User, WindowSize,
};
pub use forward::{
    FORWARD_PORT, FORWARD_WINDOW, ForwardReply, ForwardRequest, Forwarding, GUEST_STREAM,
    HostService, HostSocket, MAX_FORWARD_STREAMS, MAX_GUEST_STREAMS, MAX_LISTENING, PortProtocol,
    StreamId,
};
pub use guest_path::{GuestPath, GuestPathError, MAX_PATH};
pub use messages::{Access, GuestError, GuestErrorKind, GuestMessage, HostMessage, Timings};

/// Version of this protocol. Host and guest must have the same one.
///
/// `Hello` keeps its encoding for ever; everything else may change with this number.
pub const PROTOCOL_VERSION: u32 = 4;

/// Identifies the protocol in `Hello`: a peer of another kind is recognised before its version is looked at.
pub const MAGIC: [u8; 8] = *b"agent-vm";

/// The version of the interface between an image and agent-vm: what the label `dev.agent-vm.image-api` and the file
/// `/etc/agent-vm-image-version` must say. Raised when an image needs something new of agent-vm, or agent-vm of it.
pub const IMAGE_API_VERSION: u32 = 1;

/// vsock port on the host (CID 2) the guest connects to.
pub const CONTROL_PORT: u32 = 1024;

/// Most bytes the guest may hand to one write on its control socket.
///
/// The machine's vsock device takes a packet's data from one descriptor only; Linux 6.12 spreads larger writes over
/// several, and the device then drops the packet.
pub const MAX_GUEST_WRITE: usize = 16 * 1024;

/// Buffer size the guest must set on its control socket before it connects
/// (`SO_VM_SOCKETS_BUFFER_MAX_SIZE`, then `SO_VM_SOCKETS_BUFFER_SIZE`), in bytes.
///
/// Linux caps what it sends unacknowledged at its own buffer, 256 KiB by default; the machine's vsock device acknowledges
/// every 4 MiB. With less the connection stalls.
pub const GUEST_SOCKET_BUFFER: u64 = 8 << 20;

/// Bytes a sender may have outstanding on a stream before the first `Credit`.
pub const INITIAL_WINDOW: u32 = 256 * 1024;

/// Largest payload of one `Stdin` or `Output` message, in bytes.
pub const MAX_CHUNK: usize = 64 * 1024;
