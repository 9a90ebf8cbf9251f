//! The consumer's side of a flow: reading, writing, ending.

use std::rc::Rc;

use smoltcp::socket::tcp::{RecvError, Socket, State};

use super::{Flow, FlowState, StreamEnd};
use crate::config::FLOW_BUFFER;

/// What a read finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadState {
    /// So many bytes were taken.
    Data(usize),
    /// The guest has sent its FIN.
    End,
    /// Nothing yet.
    Pending,
    /// The guest has reset the connection, or is gone.
    Reset,
}

/// What a write finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteState {
    /// So many bytes were taken.
    Data(usize),
    /// No room yet.
    Pending,
    /// The connection takes no more.
    Closed,
}

impl Flow {
    /// Hands received bytes to `take`, which says how many it took of each piece.
    pub(crate) fn read(self: &Rc<Self>, mut take: impl FnMut(&[u8]) -> usize) -> ReadState {
        let mut state = self.state.borrow_mut();
        let found = state.with_socket(|socket| {
            let before = socket.recv_queue();
            if before == 0 {
                return Err(nothing_read(socket));
            }
            let mut total = 0;
            // The ring buffer has at most two pieces.
            for _ in 0..2 {
                let piece = socket.recv(|bytes| {
                    let taken = take(bytes);
                    (taken, (taken, taken == bytes.len()))
                });
                let (taken, all) = piece.unwrap_or_default();
                total += taken;
                if !all || socket.recv_queue() == 0 {
                    break;
                }
            }
            Ok((before, total, socket.recv_queue() == 0))
        });
        let (before, total, drained) = match found {
            Some(Ok(taken)) => taken,
            Some(Err(nothing)) => return nothing,
            None => return ReadState::Reset,
        };
        state.read_sequence = state.read_sequence.wrapping_add(total as u32);
        if drained {
            self.shared.settle(&mut state.receive_reserved);
        }
        drop(state);
        // Below a quarter of the buffer the guest knows of more than half a window already.
        if before > FLOW_BUFFER / 4 {
            self.mark_dirty();
        }
        ReadState::Data(total)
    }

    /// Queues bytes for the guest.
    pub(crate) fn write(self: &Rc<Self>, data: &[u8]) -> WriteState {
        self.write_with(data.len(), |room| {
            let len = room.len().min(data.len());
            room[..len].copy_from_slice(&data[..len]);
            len
        })
    }

    /// Lets `fill` write up to `wanted` bytes for the guest where they are sent from; it says how many it wrote.
    pub(crate) fn write_with(
        self: &Rc<Self>,
        wanted: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> WriteState {
        let mut state = self.state.borrow_mut();
        if state.end != StreamEnd::Open {
            return WriteState::Closed;
        }
        let FlowState {
            stack,
            send_reserved,
            send_goal,
            touched,
            ..
        } = &mut *state;
        let Some(stack) = stack.as_mut() else {
            return WriteState::Closed;
        };
        let shared = &self.shared;
        let written = stack.with_socket(|socket| {
            if socket.state() == State::SynReceived {
                return WriteState::Pending;
            }
            let queued = socket.send_queue();
            shared.reserve(send_reserved, (queued + wanted).min(*send_goal));
            let room = send_reserved.saturating_sub(queued);
            if room == 0 && socket.may_send() {
                return WriteState::Pending;
            }
            let sent = socket.send(|free| {
                let room = room.min(free.len());
                let written = fill(&mut free[..room]);
                if written == room && room < wanted {
                    *send_goal = (*send_goal * 2).min(FLOW_BUFFER);
                }
                touched[2] = (touched[2] + written).min(FLOW_BUFFER);
                (written, (room, written))
            });
            match sent {
                Ok((0, _)) => WriteState::Pending,
                Ok((_, written)) => WriteState::Data(written),
                Err(_) => WriteState::Closed,
            }
        });
        drop(state);
        if matches!(written, WriteState::Data(1..)) {
            self.mark_dirty();
        }
        written
    }

    /// Sends a FIN after what is queued.
    pub(crate) fn shut(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        if state.end != StreamEnd::Open {
            return;
        }
        state.end = StreamEnd::Shut;
        state.with_socket(|socket| {
            if socket.state() != State::SynReceived {
                socket.close();
            }
        });
        drop(state);
        self.mark_dirty();
    }

    /// The stream is dropped: an orderly close goes on alone, anything else is reset.
    pub(crate) fn abandon(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        state.read_waker = None;
        state.write_waker = None;
        let shut = state.end == StreamEnd::Shut;
        state.end = StreamEnd::Dropped { since: None };
        state.with_socket(|socket| {
            if !shut || socket.can_recv() {
                socket.abort();
            }
        });
        drop(state);
        self.mark_dirty();
    }
}

/// What a read means that finds no byte.
fn nothing_read(socket: &mut Socket<'_>) -> ReadState {
    if socket.state() == State::SynReceived {
        return ReadState::Pending;
    }
    match socket.recv(|_| (0, ())) {
        Ok(()) => ReadState::Pending,
        Err(RecvError::Finished) => ReadState::End,
        Err(RecvError::InvalidState) => ReadState::Reset,
    }
}
