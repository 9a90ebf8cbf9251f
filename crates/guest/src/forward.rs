//! Connects what clients of published ports say to servers in the guest, and tells which ports are listened at.
//!
//! One thread of PID 1, one `epoll` set, one frame stream to the launcher (see [`ForwardRequest`]). A stream is tried at the
//! guest's loopback first (IPv4, then IPv6), then at the guest's own addresses, so a server is reached wherever it listens.
//!
//! Connections to the sockets that `Boot` names become streams to services of the host.
//!
//! Rules:
//! - What the host sends is held only within the window granted; more ends the stream.
//! - Servers are read only while the host granted room and the frame stream has some: a slow client stops its server, and
//!   nothing else.
//! - A reset on one side is a reset on the other; an end of file is a half-close.
//! - When the stream to the host ends, everything is dropped and the thread with it. PID 1 serves programs all the same.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_vm_protocol::{
    ForwardReply, ForwardRequest, Forwarding, GUEST_STREAM, HostSocket, MAX_FORWARD_STREAMS,
    PortProtocol, StreamId,
};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};

use crate::control::{ControlError, FrameStream, poll_for};
use crate::kernel_log::{Level, log};
use crate::listeners::Listeners;

mod bytes;
mod datagrams;
mod sockets;

use bytes::ByteStream;
use datagrams::DatagramStream;
use sockets::Sockets;

/// Events taken in one turn.
const TURN: usize = 64;

/// Descriptors the forwarder may hold: every stream, and PID 1's own.
const DESCRIPTORS: u64 = 2 * MAX_FORWARD_STREAMS as u64;

/// `EventData` of the frame stream; stream ids are `u32`.
const HOST: u64 = u64::MAX;

/// `EventData` of the first of the sockets; the others follow.
const SOCKETS: u64 = 1 << 32;

/// The frame stream, seen from the guest.
pub(crate) type Frames = FrameStream<ForwardRequest, ForwardReply>;

/// Whether a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It does.
    Open,
    /// Both directions ended in order.
    Over,
    /// It broke: the other side is to be told.
    Broken,
}

/// Starts the forwarder on a thread of its own. `own` are the addresses of the guest's card; connections to `sockets` are
/// streams to the host.
///
/// # Errors
/// The kernel gives no thread or descriptors.
pub fn spawn(
    socket: OwnedFd,
    forwarding: Forwarding,
    own: Vec<IpAddr>,
    sockets: &[HostSocket],
) -> io::Result<()> {
    let forwarder = Forwarder::new(socket, forwarding, own)?.with_sockets(sockets)?;
    let run = move || {
        let error = forwarder.run();
        if !matches!(error, ControlError::Closed) {
            log(Level::Error, &format!("published ports are gone: {error}"));
        }
    };
    std::thread::Builder::new()
        .name("forward".to_owned())
        .spawn(run)?;
    Ok(())
}

/// All forwarded streams.
pub struct Forwarder {
    frames: Frames,
    epoll: OwnedFd,
    host_interest: EventFlags,
    streams: BTreeMap<StreamId, Stream>,
    targets: Vec<IpAddr>,
    listeners: Option<Listeners>,
    sockets: Sockets,
    scratch: Vec<u8>,
}

/// A stream with what it waits for.
struct Stream {
    kind: Kind,
    interest: EventFlags,
}

enum Kind {
    Bytes(ByteStream),
    Datagrams(DatagramStream),
}

impl Forwarder {
    /// A forwarder without streams.
    ///
    /// # Errors
    /// The kernel gives no descriptors.
    pub fn new(socket: OwnedFd, forwarding: Forwarding, own: Vec<IpAddr>) -> io::Result<Self> {
        raise_descriptors();
        let frames = Frames::new(socket).map_err(io::Error::other)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let host_interest = EventFlags::IN;
        epoll::add(&epoll, frames.fd(), EventData::new_u64(HOST), host_interest)?;
        let listeners = match forwarding {
            Forwarding::ConnectAndReport => Some(Listeners::new(&own)?),
            Forwarding::Off | Forwarding::Connect => None,
        };
        let mut targets = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        targets.extend(own);
        Ok(Self {
            frames,
            epoll,
            host_interest,
            streams: BTreeMap::new(),
            targets,
            listeners,
            sockets: Sockets::default(),
            scratch: Vec::new(),
        })
    }

    /// The same with sockets, at which it listens from now on.
    ///
    /// # Errors
    /// A socket cannot be made.
    pub fn with_sockets(mut self, sockets: &[HostSocket]) -> io::Result<Self> {
        self.sockets = Sockets::listen(sockets)?;
        for (data, listener) in (SOCKETS..).zip(self.sockets.descriptors()) {
            let data = EventData::new_u64(data);
            epoll::add(&self.epoll, listener, data, EventFlags::IN)?;
        }
        Ok(self)
    }

    /// Serves until the stream to the host ends; gives why.
    #[must_use]
    pub fn run(mut self) -> ControlError {
        loop {
            if let Err(error) = self.turn() {
                return error;
            }
        }
    }

    fn turn(&mut self) -> Result<(), ControlError> {
        let now = Instant::now();
        if let Some(ports) = self.listeners.as_mut().and_then(|all| all.changed(now)) {
            self.frames.send(&ForwardReply::Listening { ports })?;
        }
        self.give_up_connecting(now)?;
        self.frames.flush()?;
        for event in self.wait(now)? {
            match event.data.u64() {
                HOST => self.serve_host(event.flags)?,
                data => match u32::try_from(data) {
                    Ok(id) => self.serve_stream(StreamId(id), event.flags)?,
                    Err(_socket) => self.serve_socket(data - SOCKETS)?,
                },
            }
        }
        Ok(())
    }

    /// The next events. Without room towards the host only the host is listened to.
    fn wait(&mut self, now: Instant) -> Result<Vec<Event>, ControlError> {
        let next_look = self.listeners.as_ref().map(|all| all.next_look(now));
        let next_limit = self.streams.values().filter_map(|stream| stream.limit());
        let next_limit = next_limit.min();
        let limit = next_limit.map(|limit| limit.saturating_duration_since(now));
        let limit = limit.into_iter().chain(next_look).min();
        let mut wanted = EventFlags::IN;
        if self.frames.wants_write() {
            wanted |= EventFlags::OUT;
        }
        if !self.frames.has_room() {
            let flags = PollFlags::IN | PollFlags::OUT;
            let mut fds = [PollFd::from_borrowed_fd(self.frames.fd(), flags)];
            poll_for(&mut fds, limit)?;
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, fds[0].revents().contains(PollFlags::IN));
            flags.set(
                EventFlags::HUP,
                fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
            );
            let data = EventData::new_u64(HOST);
            return Ok(vec![Event { flags, data }]);
        }
        if wanted != self.host_interest {
            let data = EventData::new_u64(HOST);
            epoll::modify(&self.epoll, self.frames.fd(), data, wanted).map_err(io::Error::from)?;
            self.host_interest = wanted;
        }
        let timeout = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        let mut events = Vec::with_capacity(TURN);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(events),
            Err(errno) => Err(io::Error::from(errno).into()),
        }
    }

    fn serve_host(&mut self, flags: EventFlags) -> Result<(), ControlError> {
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.frames.fill(&mut self.scratch)?;
        }
        while let Some(request) = self.frames.take_message() {
            match request {
                ForwardRequest::Open { id, protocol, port } => self.open(id, protocol, port)?,
                ForwardRequest::Data { id, data } => {
                    self.with(id, |kind, frames| match kind {
                        Kind::Bytes(bytes) => bytes.accept(id, &data, frames),
                        Kind::Datagrams(datagrams) => datagrams.accept(id, data, frames),
                    })?;
                }
                ForwardRequest::Eof { id } => self.with(id, |kind, frames| match kind {
                    Kind::Bytes(bytes) => bytes.end(id, frames),
                    Kind::Datagrams(_) => Ok(Progress::Open),
                })?,
                ForwardRequest::Reset { id } => {
                    if let Some(stream) = self.streams.remove(&id) {
                        stream.kind.abort();
                    }
                }
                ForwardRequest::Credit { id, bytes } => self.with(id, |kind, _| {
                    kind.grant(bytes);
                    Ok(Progress::Open)
                })?,
            }
        }
        Ok(())
    }

    fn open(
        &mut self,
        id: StreamId,
        protocol: PortProtocol,
        port: u16,
    ) -> Result<(), ControlError> {
        let full = self.streams.len() >= MAX_FORWARD_STREAMS || self.streams.contains_key(&id);
        let targets = self.targets.iter();
        let targets = targets.map(|address| SocketAddr::new(*address, port));
        let kind = if full {
            None
        } else {
            match protocol {
                PortProtocol::Tcp => ByteStream::open(targets.collect()).map(Kind::Bytes),
                PortProtocol::Udp => DatagramStream::open(targets.collect()).map(Kind::Datagrams),
            }
        };
        let Some(kind) = kind else {
            return self.frames.send(&ForwardReply::Reset { id });
        };
        let interest = EventFlags::empty();
        self.settle(id, Stream { kind, interest }, Progress::Open)
    }

    /// Begins a stream for each program that waits at a socket.
    fn serve_socket(&mut self, socket: u64) -> Result<(), ControlError> {
        let index = usize::try_from(socket).unwrap_or(usize::MAX);
        loop {
            let theirs = StreamId(GUEST_STREAM)..;
            let open = self.streams.range(theirs).count();
            let Some((id, service, connection)) = self.sockets.accept(index, open) else {
                return Ok(());
            };
            self.frames.send(&ForwardReply::Open { id, service })?;
            let kind = Kind::Bytes(ByteStream::accepted(connection));
            let interest = EventFlags::empty();
            self.settle(id, Stream { kind, interest }, Progress::Open)?;
        }
    }

    fn serve_stream(&mut self, id: StreamId, flags: EventFlags) -> Result<(), ControlError> {
        let Some(mut stream) = self.streams.remove(&id) else {
            return Ok(());
        };
        let progress = match &mut stream.kind {
            Kind::Bytes(bytes) => bytes.serve((id, flags), &mut self.frames, &mut self.scratch),
            Kind::Datagrams(datagrams) => {
                datagrams.serve((id, flags), &mut self.frames, &mut self.scratch)
            }
        }?;
        self.settle(id, stream, progress)
    }

    fn with(
        &mut self,
        id: StreamId,
        act: impl FnOnce(&mut Kind, &mut Frames) -> Result<Progress, ControlError>,
    ) -> Result<(), ControlError> {
        let Some(mut stream) = self.streams.remove(&id) else {
            return Ok(());
        };
        let progress = act(&mut stream.kind, &mut self.frames)?;
        self.settle(id, stream, progress)
    }

    /// Puts a stream back with what it waits for now, or ends it.
    fn settle(
        &mut self,
        id: StreamId,
        mut stream: Stream,
        progress: Progress,
    ) -> Result<(), ControlError> {
        match progress {
            Progress::Over => return Ok(()),
            Progress::Broken => {
                stream.kind.abort();
                return self.frames.send(&ForwardReply::Reset { id });
            }
            Progress::Open => {}
        }
        let interest = stream.kind.interest();
        let data = EventData::new_u64(u64::from(id.0));
        // `epoll` reports hang-ups nobody waits for, so a socket that waits for nothing is taken out. A new one is not in.
        let was_in = !stream.kind.takes_new_socket() && !stream.interest.is_empty();
        let fd = stream.kind.fd();
        match (was_in, !interest.is_empty()) {
            (false, true) => epoll::add(&self.epoll, fd, data, interest),
            (true, false) => epoll::delete(&self.epoll, fd),
            (true, true) if interest != stream.interest => {
                epoll::modify(&self.epoll, fd, data, interest)
            }
            (true, true) | (false, false) => Ok(()),
        }
        .map_err(io::Error::from)?;
        stream.interest = interest;
        self.streams.insert(id, stream);
        Ok(())
    }

    fn give_up_connecting(&mut self, now: Instant) -> Result<(), ControlError> {
        let late = |stream: &Stream| stream.limit().is_some_and(|limit| limit <= now);
        let late = self.streams.iter().filter(|(_, stream)| late(stream));
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.streams.remove(&id);
            self.frames.send(&ForwardReply::Reset { id })?;
        }
        Ok(())
    }
}

impl Stream {
    /// Until when it must have something done.
    fn limit(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Bytes(bytes) => bytes.connect_limit(),
            Kind::Datagrams(_) => None,
        }
    }
}

impl Kind {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Bytes(bytes) => bytes.fd(),
            Self::Datagrams(datagrams) => datagrams.fd(),
        }
    }

    /// Whether it has another socket than when this was asked last.
    fn takes_new_socket(&mut self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.takes_new_socket(),
            Self::Datagrams(datagrams) => datagrams.takes_new_socket(),
        }
    }

    fn interest(&self) -> EventFlags {
        match self {
            Self::Bytes(bytes) => bytes.interest(),
            Self::Datagrams(_) => EventFlags::IN,
        }
    }

    fn grant(&mut self, bytes: u32) {
        match self {
            Self::Bytes(stream) => stream.grant(bytes),
            Self::Datagrams(stream) => stream.grant(bytes),
        }
    }

    /// The client is gone: the server sees a reset.
    fn abort(self) {
        if let Self::Bytes(bytes) = self {
            bytes.abort();
        }
    }
}

/// A socket that connects, or is about to, to the last of `targets` that can be tried; those tried are taken off.
fn connect_next(targets: &mut Vec<SocketAddr>, kind: SocketType) -> Option<OwnedFd> {
    while let Some(target) = targets.pop() {
        let family = if target.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::socket_with(family, kind, flags, None) else {
            continue;
        };
        match rustix::net::connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => return Some(socket),
            Err(_) => {}
        }
    }
    None
}

/// As many descriptors as streams need; with fewer, opening fails and the client is reset.
fn raise_descriptors() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < DESCRIPTORS) {
        let current = Some(
            limit
                .maximum
                .map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS)),
        );
        let wanted = Rlimit {
            current,
            maximum: limit.maximum,
        };
        // What is there has to do.
        let _ = rustix::process::setrlimit(Resource::Nofile, wanted);
    }
}

/// How long a server may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
