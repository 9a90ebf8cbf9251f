//! The guest's network card as a file descriptor: one message is the virtio header and one Ethernet frame.
//!
//! A sequential-packet socket and a TAP device with `IFF_VNET_HDR` both keep message boundaries, so both serve; a stream
//! socket is what other virtual machines and network stacks have (`frame_stream.rs`). What
//! the link does not take at once waits in a bounded queue; flows do not send while it is not empty (see
//! [`Link::is_clear`]), so that nothing of TCP is dropped for want of room.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags, SocketType, sockopt};
use tokio::io::unix::AsyncFd;

use self::frame_stream::{FrameStream, finish};
use crate::config::MAX_QUEUED_FRAMES;
use crate::virtio_header::VNET_HEADER_LEN;

mod frame_stream;

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
    /// Where the frames of a stream are in the receive buffer.
    stream: FrameStream,
    large_frames: bool,
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
    Stream,
    Device,
}

impl Link {
    /// Takes over a connected `SOCK_SEQPACKET` or `SOCK_STREAM` socket or a TAP device and makes it non-blocking. Needs a
    /// tokio runtime with I/O.
    pub(crate) fn new(fd: OwnedFd, large_frames: bool) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let kind = match sockopt::socket_type(&fd) {
            Ok(SocketType::STREAM) => LinkKind::Stream,
            Ok(_) => LinkKind::Socket,
            Err(rustix::io::Errno::NOTSOCK) => LinkKind::Device,
            Err(errno) => return Err(errno.into()),
        };
        if kind != LinkKind::Device {
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
            stream: FrameStream::default(),
            large_frames: large_frames || kind != LinkKind::Stream,
            counters: LinkCounters::default(),
        })
    }

    /// The buffer for [`Link::poll_receive`], always the same one.
    pub(crate) fn receive_buffer(&self) -> Box<[u8]> {
        let len = match self.kind {
            LinkKind::Stream => frame_stream::RECEIVE_BUFFER,
            LinkKind::Socket | LinkKind::Device => RECEIVE_BUFFER,
        };
        vec![0; len].into_boxed_slice()
    }

    /// Whether TCP frames may be larger than the MTU.
    pub(crate) fn takes_large_frames(&self) -> bool {
        self.large_frames
    }

    /// Whether a flow may send: nothing waits.
    pub(crate) fn is_clear(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// Sends one message, or queues it, or drops it when the queue is full. The message is spoilt.
    pub(crate) fn send(&mut self, message: &mut [u8]) {
        let mut bytes: &[u8] = match self.kind {
            LinkKind::Stream => finish(message),
            LinkKind::Socket | LinkKind::Device => message,
        };
        if self.queue.is_empty() {
            match write(self.kind, self.fd.get_ref(), bytes) {
                Ok(len) if len == bytes.len() => {
                    self.counters.sent += 1;
                    return;
                }
                Ok(len) => bytes = &bytes[len..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    // A closed peer shows in the next read; anything else concerns this frame alone.
                    self.counters.dropped += 1;
                    return;
                }
            }
        }
        if self.queue.len() < MAX_QUEUED_FRAMES {
            self.queue.push_back(bytes.to_vec());
        } else {
            self.counters.dropped += 1;
        }
    }

    /// Sends what waits. Ready when nothing waits any more.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(message) = self.queue.front_mut() {
            let mut ready = ready!(self.fd.poll_write_ready(cx))?;
            match write(self.kind, self.fd.get_ref(), message) {
                Ok(len) if len < message.len() => {
                    message.drain(..len);
                    continue;
                }
                Ok(_) => self.counters.sent += 1,
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

    /// Reads one message; says where it stands in [`Link::receive_buffer`]'s buffer. `Ok(None)` means that the guest's end
    /// is closed.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Option<Range<usize>>>> {
        loop {
            if self.kind == LinkKind::Stream
                && let Some(message) = self.stream.next(buffer)?
            {
                self.counters.received += 1;
                return Poll::Ready(Ok(Some(message)));
            }
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            let fd = self.fd.get_ref();
            let result = match self.kind {
                LinkKind::Socket => rustix::net::recv(fd, &mut *buffer, RecvFlags::empty())
                    .map(|(filled, _)| filled),
                LinkKind::Stream => self.stream.receive(fd, buffer),
                LinkKind::Device => rustix::io::read(fd, &mut *buffer),
            };
            return Poll::Ready(match result {
                Ok(0) => Ok(None),
                Ok(_) if self.kind == LinkKind::Stream => continue,
                Ok(len) => {
                    self.counters.received += 1;
                    Ok(Some(0..len))
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
}

/// Writes a message, or as much of it as a stream takes.
fn write(kind: LinkKind, fd: impl AsFd, message: &[u8]) -> io::Result<usize> {
    loop {
        let result = match kind {
            LinkKind::Socket | LinkKind::Stream => {
                rustix::net::send(&fd, message, SendFlags::NOSIGNAL)
            }
            LinkKind::Device => rustix::io::write(&fd, message),
        };
        match result {
            Ok(_) if kind != LinkKind::Stream => return Ok(message.len()),
            Ok(len) => return Ok(len),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
