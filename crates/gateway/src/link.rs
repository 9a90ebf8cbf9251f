//! The guest's network card as a file descriptor: one message is the virtio header and one Ethernet frame.
//!
//! A sequential-packet socket and a TAP device with `IFF_VNET_HDR` both keep message boundaries, so both serve. What
//! the link does not take at once waits in a bounded queue; flows do not send while it is not empty (see
//! [`Link::is_clear`]), so that nothing of TCP is dropped for want of room.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags, sockopt};
use tokio::io::unix::AsyncFd;

use crate::config::MAX_QUEUED_FRAMES;
use crate::virtio_header::VNET_HEADER_LEN;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_HEADER_LEN: usize = 14;

/// Bytes before the IP packet in every message.
pub(crate) const IP_OFFSET: usize = VNET_HEADER_LEN + ETHERNET_HEADER_LEN;

/// The largest message: headers and an IP packet of 64 KiB.
pub(crate) const MAX_MESSAGE: usize = IP_OFFSET + 65_535;

/// Buffer for one message; a message that fills it was longer than [`MAX_MESSAGE`].
pub(crate) const RECEIVE_BUFFER: usize = MAX_MESSAGE + 1;

/// Asked of the kernel for sockets, in bytes; it may give less.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// Messages to and from the guest.
#[derive(Debug)]
pub(crate) struct Link {
    fd: AsyncFd<OwnedFd>,
    kind: LinkKind,
    queue: VecDeque<Vec<u8>>,
    counters: LinkCounters,
}

/// What went over the link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Frames from the guest, good or bad.
    pub received: u64,
    /// Frames the link took.
    pub sent: u64,
    /// Replies given up because the queue was full or the link refused the frame.
    pub dropped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkKind {
    Socket,
    Device,
}

impl Link {
    /// Takes over a connected `SOCK_SEQPACKET` socket or a TAP device and makes it non-blocking. Needs a tokio
    /// runtime with I/O.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let kind = match sockopt::socket_type(&fd) {
            Ok(_) => LinkKind::Socket,
            Err(rustix::io::Errno::NOTSOCK) => LinkKind::Device,
            Err(errno) => return Err(errno.into()),
        };
        if kind == LinkKind::Socket {
            // Best effort: a small buffer costs speed only.
            let _ = sockopt::set_socket_send_buffer_size(&fd, SOCKET_BUFFER);
            let _ = sockopt::set_socket_recv_buffer_size(&fd, SOCKET_BUFFER);
        }
        #[expect(
            deprecated,
            reason = "an OwnedFd always names its own open descriptor, which is what the unsafe successor asks for"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Self {
            fd,
            kind,
            queue: VecDeque::new(),
            counters: LinkCounters::default(),
        })
    }

    /// Whether a flow may send: nothing waits.
    pub(crate) fn is_clear(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// Sends one message, or queues it, or drops it when the queue is full.
    pub(crate) fn send(&mut self, message: &[u8]) {
        if self.queue.is_empty() {
            match self.write(message) {
                Ok(()) => {
                    self.counters.sent += 1;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    // A closed peer shows in the next read; anything else concerns this frame alone.
                    self.counters.dropped += 1;
                    return;
                }
            }
        }
        if self.queue.len() < MAX_QUEUED_FRAMES {
            self.queue.push_back(message.to_vec());
        } else {
            self.counters.dropped += 1;
        }
    }

    /// Sends what waits. Ready when nothing waits any more.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(message) = self.queue.front() {
            let mut ready = ready!(self.fd.poll_write_ready(cx))?;
            match write(self.kind, self.fd.get_ref(), message) {
                Ok(()) => self.counters.sent += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    continue;
                }
                Err(_) => self.counters.dropped += 1,
            }
            self.queue.pop_front();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads one message. `Ok(None)` means that the guest's end is closed.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Option<usize>>> {
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            let result = match self.kind {
                LinkKind::Socket => {
                    rustix::net::recv(self.fd.get_ref(), &mut *buffer, RecvFlags::empty())
                        .map(|(filled, _)| filled)
                }
                LinkKind::Device => rustix::io::read(self.fd.get_ref(), &mut *buffer),
            };
            return Poll::Ready(match result {
                Ok(0) => Ok(None),
                Ok(len) => {
                    self.counters.received += 1;
                    Ok(Some(len))
                }
                Err(rustix::io::Errno::AGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::CONNRESET) => Ok(None),
                Err(errno) => Err(errno.into()),
            });
        }
    }

    fn write(&self, message: &[u8]) -> io::Result<()> {
        write(self.kind, self.fd.get_ref(), message)
    }
}

fn write(kind: LinkKind, fd: impl AsFd, message: &[u8]) -> io::Result<()> {
    loop {
        let result = match kind {
            LinkKind::Socket => rustix::net::send(&fd, message, SendFlags::NOSIGNAL),
            LinkKind::Device => rustix::io::write(&fd, message),
        };
        match result {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
