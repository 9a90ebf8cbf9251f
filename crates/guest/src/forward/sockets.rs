//! Sockets of the guest whose connections are streams to services of the host.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use agent_vm_protocol::{GUEST_STREAM, HostService, HostSocket, MAX_GUEST_STREAMS, StreamId};
use rustix::fs::{CWD, Mode, chmodat, mkdirat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// The sockets, and how many streams of theirs there are.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    listeners: Vec<(OwnedFd, HostService)>,
    next: u32,
}

impl Sockets {
    /// Listens at all of them.
    pub(super) fn listen(sockets: &[HostSocket]) -> io::Result<Self> {
        let listener = |socket: &HostSocket| {
            Ok((
                listen(Path::new(OsStr::from_bytes(socket.path.as_bytes())))?,
                socket.service,
            ))
        };
        Ok(Self {
            listeners: sockets.iter().map(listener).collect::<io::Result<_>>()?,
            next: 0,
        })
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().map(|(listener, _)| listener.as_fd())
    }

    /// The next connection to a socket with the name of its stream; none when nobody waits. A client is turned away while
    /// `open` streams of the guest are as many as there may be.
    pub(super) fn accept(
        &mut self,
        index: usize,
        open: usize,
    ) -> Option<(StreamId, HostService, OwnedFd)> {
        let (listener, service) = self.listeners.get(index)?;
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let connection = match rustix::net::accept_with(listener, flags) {
                Ok(connection) => connection,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                // Nobody, or no descriptor for it: told again as long as one waits.
                Err(_) => return None,
            };
            if open >= MAX_GUEST_STREAMS {
                continue;
            }
            // Names are never used twice: after 2^31 streams there are no more.
            let id = self.next;
            self.next = id.checked_add(1).filter(|next| next & GUEST_STREAM == 0)?;
            return Some((StreamId(id | GUEST_STREAM), *service, connection));
        }
    }
}

/// A listening socket at `path`, for this user alone; what was there is replaced, directories that are missing are made.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    let mut missing = Vec::new();
    let mut parent = path.parent();
    while let Some(directory) = parent.filter(|directory| !directory.exists()) {
        missing.push(directory);
        parent = directory.parent();
    }
    for directory in missing.into_iter().rev() {
        mkdirat(CWD, directory, Mode::RWXU)?;
    }
    match unlinkat(CWD, path, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    chmodat(
        CWD,
        path,
        Mode::RUSR | Mode::WUSR,
        rustix::fs::AtFlags::empty(),
    )?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}
