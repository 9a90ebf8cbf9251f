//! One peer of a published UDP port: a connected socket of the guest, so that only the asked server answers.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_vm_protocol::{FORWARD_WINDOW, ForwardReply, MAX_CHUNK, StreamId};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType};

use super::{Frames, Progress, connect_next};
use crate::control::ControlError;

/// Datagrams of one peer read in one turn at most.
const BURST: usize = 16;

/// What a UDP client talks to.
pub(super) struct DatagramStream {
    socket: OwnedFd,
    fresh: bool,
    /// Tried when this one refuses, the last first.
    others: Vec<SocketAddr>,
    /// Sent again to the next target, until one answered.
    unanswered: Option<Vec<u8>>,
    /// How much the host takes.
    room: u32,
}

impl DatagramStream {
    /// Towards the first target there is a route to.
    pub(super) fn open(mut targets: Vec<SocketAddr>) -> Option<Self> {
        targets.reverse();
        Some(Self {
            socket: connect_next(&mut targets, SocketType::DGRAM)?,
            fresh: true,
            others: targets,
            unanswered: Some(Vec::new()),
            room: FORWARD_WINDOW,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn takes_new_socket(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    pub(super) fn grant(&mut self, bytes: u32) {
        self.room = self.room.saturating_add(bytes);
    }

    /// Sends a datagram of the host; one that the socket has no room for is lost. Credit comes back at once.
    pub(super) fn accept(
        &mut self,
        id: StreamId,
        data: Vec<u8>,
        frames: &mut Frames,
    ) -> Result<Progress, ControlError> {
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        if bytes > 0 {
            frames.send(&ForwardReply::Credit { id, bytes })?;
        }
        if self.unanswered.is_some() {
            self.unanswered = Some(data.clone());
        }
        match self.send(&data) {
            Err(Errno::CONNREFUSED) => Ok(self.refused()),
            // Lost, as datagrams are.
            Ok(()) | Err(_) => Ok(Progress::Open),
        }
    }

    /// Passes on what the server says; what the host has no room for is lost.
    pub(super) fn serve(
        &mut self,
        (id, _): (StreamId, EventFlags),
        frames: &mut Frames,
        scratch: &mut Vec<u8>,
    ) -> Result<Progress, ControlError> {
        scratch.resize(MAX_CHUNK, 0);
        for _ in 0..BURST {
            let read = rustix::net::recv(&self.socket, scratch.as_mut_slice(), RecvFlags::empty());
            let count = match read {
                Ok((count, _)) => count,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(Errno::CONNREFUSED) => return Ok(self.refused()),
                Err(_) => return Ok(Progress::Broken),
            };
            self.unanswered = None;
            let left = u32::try_from(count)
                .ok()
                .and_then(|count| self.room.checked_sub(count));
            if let Some(left) = left.filter(|_| frames.has_room()) {
                self.room = left;
                let data = scratch[..count].to_vec();
                frames.send(&ForwardReply::Data { id, data })?;
            }
        }
        Ok(Progress::Open)
    }

    fn send(&self, data: &[u8]) -> Result<(), Errno> {
        rustix::net::send(&self.socket, data, SendFlags::NOSIGNAL).map(|_| ())
    }

    /// Nobody is bound there: goes on to the next target, with what was said last.
    fn refused(&mut self) -> Progress {
        let Some(said) = self.unanswered.clone() else {
            return Progress::Broken;
        };
        let Some(socket) = connect_next(&mut self.others, SocketType::DGRAM) else {
            return Progress::Broken;
        };
        self.socket = socket;
        self.fresh = true;
        // A refusal of this one comes by its socket.
        let _ = self.send(&said);
        Progress::Open
    }
}
