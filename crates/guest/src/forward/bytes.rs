//! One forwarded TCP connection: connecting, then bytes each way, then its ends.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_vm_protocol::{FORWARD_WINDOW, ForwardReply, MAX_GUEST_WRITE, StreamId};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketType, sockopt};

use super::{CONNECT_LIMIT, Frames, Progress, connect_next};
use crate::control::ControlError;

/// Credit is sent back in pieces of at least this many bytes.
const GRANT_STEP: u32 = FORWARD_WINDOW / 4;

/// Most bytes read from a server at once: with its frame about one write to the host.
const READ_SIZE: usize = MAX_GUEST_WRITE - 16;

/// A connection to a server of the guest.
pub(super) struct ByteStream {
    socket: OwnedFd,
    fresh: bool,
    phase: Phase,
    /// From the host, for the server.
    queue: VecDeque<u8>,
    window: u32,
    consumed: u32,
    upward: Upward,
    /// How much the host takes.
    room: u32,
    /// The server sends no more, and the host knows.
    finished: bool,
}

#[derive(Debug)]
enum Phase {
    Connecting {
        /// Tried when this one refuses, the last first.
        others: Vec<SocketAddr>,
        limit: Instant,
    },
    Connected,
}

/// The direction towards the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upward {
    Open,
    /// The host sends no more; what is queued goes first.
    Ending,
    Ended,
}

impl ByteStream {
    /// Begins to connect to the first target that does not refuse at once.
    pub(super) fn open(mut targets: Vec<SocketAddr>) -> Option<Self> {
        targets.reverse();
        let socket = connect_next(&mut targets, SocketType::STREAM)?;
        let phase = Phase::Connecting {
            others: targets,
            limit: Instant::now() + CONNECT_LIMIT,
        };
        Some(Self::new(socket, phase))
    }

    /// Of a program that connected to a socket of ours.
    pub(super) fn accepted(socket: OwnedFd) -> Self {
        Self::new(socket, Phase::Connected)
    }

    fn new(socket: OwnedFd, phase: Phase) -> Self {
        Self {
            socket,
            fresh: true,
            phase,
            queue: VecDeque::new(),
            window: FORWARD_WINDOW,
            consumed: 0,
            upward: Upward::Open,
            room: FORWARD_WINDOW,
            finished: false,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn takes_new_socket(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    pub(super) fn connect_limit(&self) -> Option<Instant> {
        match self.phase {
            Phase::Connecting { limit, .. } => Some(limit),
            Phase::Connected => None,
        }
    }

    /// What it waits for. With a full client and nothing to write that is nothing; what broke meanwhile is seen later.
    pub(super) fn interest(&self) -> EventFlags {
        let mut flags = EventFlags::empty();
        let connecting = self.connect_limit().is_some();
        flags.set(EventFlags::OUT, connecting || !self.queue.is_empty());
        flags.set(
            EventFlags::IN,
            !connecting && !self.finished && self.room > 0,
        );
        flags
    }

    pub(super) fn grant(&mut self, bytes: u32) {
        self.room = self.room.saturating_add(bytes);
    }

    /// Takes bytes of the host.
    pub(super) fn accept(
        &mut self,
        id: StreamId,
        data: &[u8],
        frames: &mut Frames,
    ) -> Result<Progress, ControlError> {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let Some(window) = self.window.checked_sub(length) else {
            return Ok(Progress::Broken);
        };
        if self.upward != Upward::Open {
            return Ok(Progress::Broken);
        }
        self.window = window;
        self.queue.extend(data);
        self.pump_up(id, frames)
    }

    /// The host sends no more.
    pub(super) fn end(
        &mut self,
        id: StreamId,
        frames: &mut Frames,
    ) -> Result<Progress, ControlError> {
        if self.upward == Upward::Open {
            self.upward = Upward::Ending;
        }
        self.pump_up(id, frames)
    }

    /// Does what the socket is ready for.
    pub(super) fn serve(
        &mut self,
        (id, flags): (StreamId, EventFlags),
        frames: &mut Frames,
        scratch: &mut Vec<u8>,
    ) -> Result<Progress, ControlError> {
        if self.connect_limit().is_some() {
            return self.connected(id, frames);
        }
        let readable = flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP);
        if readable && !self.finished && self.room > 0 {
            let progress = self.pump_down(id, frames, scratch)?;
            if progress != Progress::Open {
                return Ok(progress);
            }
        }
        self.pump_up(id, frames)
    }

    /// Closes it so that the server sees a reset.
    pub(super) fn abort(self) {
        // A plain close is the worst that follows.
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// The connection stands, or the next target is tried.
    fn connected(&mut self, id: StreamId, frames: &mut Frames) -> Result<Progress, ControlError> {
        let Phase::Connecting { others, .. } = &mut self.phase else {
            return Ok(Progress::Open);
        };
        if let Ok(Ok(())) = sockopt::socket_error(&self.socket) {
            self.phase = Phase::Connected;
            // Only a matter of speed.
            let _ = sockopt::set_tcp_nodelay(&self.socket, true);
            return self.pump_up(id, frames);
        }
        let Some(socket) = connect_next(others, SocketType::STREAM) else {
            return Ok(Progress::Broken);
        };
        self.socket = socket;
        self.fresh = true;
        Ok(Progress::Open)
    }

    /// Writes what the server takes now, and gives credit for it.
    fn pump_up(&mut self, id: StreamId, frames: &mut Frames) -> Result<Progress, ControlError> {
        if self.connect_limit().is_some() {
            return Ok(Progress::Open);
        }
        loop {
            let (head, _) = self.queue.as_slices();
            if head.is_empty() {
                break;
            }
            match rustix::net::send(&self.socket, head, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.queue.drain(..count);
                    self.consumed += u32::try_from(count).unwrap_or(0);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return Ok(Progress::Broken),
            }
        }
        if self.queue.is_empty() && self.queue.capacity() > READ_SIZE {
            self.queue = VecDeque::new();
        }
        if self.consumed >= GRANT_STEP && self.upward == Upward::Open {
            let bytes = std::mem::take(&mut self.consumed);
            self.window += bytes;
            frames.send(&ForwardReply::Credit { id, bytes })?;
        }
        if self.upward == Upward::Ending && self.queue.is_empty() {
            self.upward = Upward::Ended;
            if rustix::net::shutdown(&self.socket, Shutdown::Write).is_err() {
                return Ok(Progress::Broken);
            }
        }
        Ok(self.progress())
    }

    /// Reads what the server says while the host has room.
    fn pump_down(
        &mut self,
        id: StreamId,
        frames: &mut Frames,
        scratch: &mut Vec<u8>,
    ) -> Result<Progress, ControlError> {
        if !frames.has_room() {
            return Ok(Progress::Open);
        }
        let size = usize::try_from(self.room)
            .unwrap_or(READ_SIZE)
            .min(READ_SIZE);
        scratch.resize(size, 0);
        match rustix::net::recv(&self.socket, scratch.as_mut_slice(), RecvFlags::empty()) {
            Ok((0, _)) => {
                self.finished = true;
                frames.send(&ForwardReply::Eof { id })?;
            }
            Ok((count, _)) => {
                self.room -= u32::try_from(count).unwrap_or(self.room);
                let data = scratch[..count].to_vec();
                frames.send(&ForwardReply::Data { id, data })?;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return Ok(Progress::Broken),
        }
        Ok(self.progress())
    }

    fn progress(&self) -> Progress {
        if self.finished && self.upward == Upward::Ended {
            Progress::Over
        } else {
            Progress::Open
        }
    }
}
