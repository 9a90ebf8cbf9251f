//! The host's end of the frame stream: flows, their windows, and the two loops that read and write.
//!
//! The reading loop never waits for a client: what a flow has not passed on is held, at most a window of it, because the
//! machine's vsock device waits for the launcher. The guest is untrusted: a message that is malformed, over its window or
//! out of place ends all of it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;

use agent_vm_protocol::{
    DecodeError, Decoder, FORWARD_WINDOW, ForwardReply, ForwardRequest, GUEST_STREAM, HostService,
    MAX_CHUNK, MAX_FORWARD_STREAMS, MAX_GUEST_STREAMS, PortProtocol, StreamId, encode,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, watch};

use super::Connections;
use crate::keys::{self, KeyAgents};

/// Data is queued for the guest only while fewer bytes than this wait.
const OUT_ROOM: usize = 256 * 1024;

/// Credit is given in pieces of at least this many bytes.
const GRANT_STEP: u32 = FORWARD_WINDOW / 4;

/// Datagrams held for one peer at most.
const MAX_DATAGRAMS: usize = 64;

/// Why the frame stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MuxError {
    /// It does not work.
    #[error("the stream of published ports is broken")]
    Io(#[from] io::Error),
    /// The guest ended it.
    #[error("the guest ended the stream of published ports")]
    Closed,
    /// The guest sent what is not the protocol.
    #[error("the guest sent a malformed message")]
    Decode(#[from] DecodeError),
    /// The guest sent more than it was allowed.
    #[error("the guest sent more than its window allows")]
    OverWindow,
    /// The guest sent data after its end, or none.
    #[error("the guest sent a message that has no place")]
    Unexpected,
}

/// All flows of a launch.
#[derive(Debug, Default)]
pub(super) struct Mux {
    out: RefCell<Vec<u8>>,
    queued: Notify,
    /// The queue has room again.
    drained: Notify,
    flows: RefCell<HashMap<StreamId, Rc<State>>>,
    next: Cell<u32>,
    /// The least id that the guest's next stream may have.
    next_guest: Cell<u32>,
    agents: Rc<KeyAgents>,
    over: Cell<bool>,
    listening: watch::Sender<Vec<u16>>,
    pub(super) connections: Connections,
    scratch: RefCell<Vec<u8>>,
}

/// One stream to a server of the guest, or of one of its programs. Dropped before its end, it is reset.
#[derive(Debug)]
pub(crate) struct Flow {
    mux: Rc<Mux>,
    id: StreamId,
    state: Rc<State>,
}

/// The stream is over: the server refused or reset it, or all of it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reset;

#[derive(Debug)]
struct State {
    incoming: RefCell<Incoming>,
    /// What the guest may still send.
    window: Cell<u32>,
    /// Passed on, but not granted again yet.
    owed: Cell<u32>,
    /// What we may still send.
    room: Cell<u32>,
    /// The server sends no more.
    ended: Cell<bool>,
    /// We send no more.
    finished: Cell<bool>,
    reset: Cell<bool>,
    /// Something of the above changed.
    changed: Notify,
}

#[derive(Debug)]
enum Incoming {
    Bytes(VecDeque<u8>),
    Datagrams(VecDeque<Vec<u8>>),
}

impl Mux {
    /// Without flows yet; streams of the guest lead to `agents`.
    pub(super) fn serving(agents: KeyAgents) -> Self {
        Self {
            next_guest: Cell::new(GUEST_STREAM),
            agents: Rc::new(agents),
            ..Self::default()
        }
    }

    /// A new flow to a port of the guest; `None` when there are too many, or the stream is over. Wait for
    /// [room](Mux::room) before.
    pub(super) fn open(self: &Rc<Self>, protocol: PortProtocol, port: u16) -> Option<Flow> {
        let mut flows = self.flows.borrow_mut();
        if self.over.get() || flows.len() >= MAX_FORWARD_STREAMS {
            return None;
        }
        let id = StreamId(self.next.get());
        // Ids are never used twice: after 2^31 flows there are no more.
        if id.0 & GUEST_STREAM != 0 {
            return None;
        }
        self.next.set(id.0 + 1);
        let state = Rc::new(State::new(protocol));
        flows.insert(id, Rc::clone(&state));
        drop(flows);
        self.send(&ForwardRequest::Open { id, protocol, port });
        let mux = Rc::clone(self);
        Some(Flow { mux, id, state })
    }

    /// Waits until data may be queued for the guest.
    pub(super) async fn room(&self) {
        loop {
            let drained = self.drained.notified();
            if self.has_room() {
                return;
            }
            drained.await;
        }
    }

    #[cfg(test)]
    pub(super) fn open_flows(&self) -> usize {
        self.flows.borrow().len()
    }

    fn has_room(&self) -> bool {
        self.out.borrow().len() < OUT_ROOM
    }

    /// The ports the guest listens at, as they change.
    pub(super) fn listening(&self) -> watch::Receiver<Vec<u16>> {
        self.listening.subscribe()
    }

    /// Bytes to read into, shared by all flows.
    pub(super) fn scratch(&self) -> std::cell::RefMut<'_, Vec<u8>> {
        let mut scratch = self.scratch.borrow_mut();
        scratch.resize(MAX_CHUNK, 0);
        scratch
    }

    /// Ends every flow and connection; no new one begins.
    pub(super) fn close(&self) {
        self.over.set(true);
        for (_, state) in self.flows.borrow_mut().drain() {
            state.reset.set(true);
            state.changed.notify_waiters();
        }
        // The ports are gone too.
        self.listening.send_replace(Vec::new());
    }

    /// Reads what the guest says, to the end.
    pub(super) async fn read(self: &Rc<Self>, mut stream: OwnedReadHalf) -> MuxError {
        let mut decoder = Decoder::<ForwardReply>::new();
        let mut buffer = vec![0; MAX_CHUNK];
        loop {
            let count = match stream.read(&mut buffer).await {
                Ok(0) => return MuxError::Closed,
                Ok(count) => count,
                Err(error) => return error.into(),
            };
            if let Err(error) = self.receive_all(&mut decoder, &buffer[..count]) {
                return error;
            }
        }
    }

    fn receive_all(
        self: &Rc<Self>,
        decoder: &mut Decoder<ForwardReply>,
        mut input: &[u8],
    ) -> Result<(), MuxError> {
        while let Some(reply) = decoder.next(&mut input)? {
            self.receive(reply)?;
        }
        Ok(())
    }

    /// Writes what is queued, until the stream breaks (which the reader tells).
    pub(super) async fn write(&self, mut stream: OwnedWriteHalf) {
        loop {
            let bytes = std::mem::take(&mut *self.out.borrow_mut());
            self.drained.notify_waiters();
            if bytes.is_empty() {
                self.queued.notified().await;
            } else if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }

    /// A stream of the guest begins. Its ids ascend, so none is used twice.
    fn opened(self: &Rc<Self>, id: StreamId, service: HostService) -> Result<(), MuxError> {
        if id.0 < self.next_guest.get() {
            return Err(MuxError::Unexpected);
        }
        self.next_guest.set(id.0.saturating_add(1));
        let mut flows = self.flows.borrow_mut();
        let theirs = flows.keys().filter(|id| id.0 & GUEST_STREAM != 0).count();
        if theirs >= MAX_GUEST_STREAMS || self.agents.is_empty() {
            drop(flows);
            self.send(&ForwardRequest::Reset { id });
            return Ok(());
        }
        let state = Rc::new(State::new(PortProtocol::Tcp));
        flows.insert(id, Rc::clone(&state));
        drop(flows);
        let mux = Rc::clone(self);
        let flow = Flow { mux, id, state };
        let agents = Rc::clone(&self.agents);
        self.connections.spawn(keys::serve(agents, service, flow));
        Ok(())
    }

    fn receive(self: &Rc<Self>, reply: ForwardReply) -> Result<(), MuxError> {
        let id = match &reply {
            ForwardReply::Listening { ports } => {
                self.listening.send_replace(ports.clone());
                return Ok(());
            }
            ForwardReply::Open { id, service } => return self.opened(*id, *service),
            ForwardReply::Data { id, .. }
            | ForwardReply::Eof { id }
            | ForwardReply::Reset { id }
            | ForwardReply::Credit { id, .. } => *id,
        };
        let Some(state) = self.flows.borrow().get(&id).cloned() else {
            return Ok(());
        };
        match reply {
            ForwardReply::Data { data, .. } => state.take(data)?,
            ForwardReply::Eof { .. } => state.ended.set(true),
            ForwardReply::Reset { .. } => {
                state.reset.set(true);
                self.flows.borrow_mut().remove(&id);
            }
            ForwardReply::Credit { bytes, .. } => {
                let room = state.room.get().saturating_add(bytes);
                // More than a window is never outstanding.
                state.room.set(room.min(FORWARD_WINDOW));
            }
            ForwardReply::Listening { .. } | ForwardReply::Open { .. } => {}
        }
        state.changed.notify_waiters();
        Ok(())
    }

    fn send(&self, request: &ForwardRequest) {
        encode(request, &mut self.out.borrow_mut()).expect("chunks are cut to fit");
        self.queued.notify_one();
    }
}

impl State {
    fn new(protocol: PortProtocol) -> Self {
        Self {
            incoming: RefCell::new(match protocol {
                PortProtocol::Tcp => Incoming::Bytes(VecDeque::new()),
                PortProtocol::Udp => Incoming::Datagrams(VecDeque::new()),
            }),
            window: Cell::new(FORWARD_WINDOW),
            owed: Cell::new(0),
            room: Cell::new(FORWARD_WINDOW),
            ended: Cell::new(false),
            finished: Cell::new(false),
            reset: Cell::new(false),
            changed: Notify::new(),
        }
    }

    /// Holds what the guest sent.
    fn take(&self, data: Vec<u8>) -> Result<(), MuxError> {
        if self.ended.get() {
            return Err(MuxError::Unexpected);
        }
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let left = self.window.get().checked_sub(bytes);
        self.window.set(left.ok_or(MuxError::OverWindow)?);
        match &mut *self.incoming.borrow_mut() {
            Incoming::Bytes(_) if data.is_empty() => return Err(MuxError::Unexpected),
            Incoming::Bytes(queue) => queue.extend(data),
            Incoming::Datagrams(queue) if queue.len() < MAX_DATAGRAMS => queue.push_back(data),
            // Lost, as datagrams are; its bytes are free again.
            Incoming::Datagrams(_) => self.owed.set(self.owed.get().saturating_add(bytes)),
        }
        Ok(())
    }

    /// What comes next, if something does: what is held, then how it ended.
    fn next(&self) -> Option<Result<Option<Vec<u8>>, Reset>> {
        let data = match &mut *self.incoming.borrow_mut() {
            Incoming::Bytes(queue) if queue.is_empty() => None,
            Incoming::Bytes(queue) => Some(std::mem::take(queue).into()),
            Incoming::Datagrams(queue) => queue.pop_front(),
        };
        match data {
            Some(data) => Some(Ok(Some(data))),
            None if self.ended.get() => Some(Ok(None)),
            None => self.reset.get().then_some(Err(Reset)),
        }
    }

    /// Waits until `look` gives something.
    async fn wait<T>(&self, look: impl Fn(&Self) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = look(self) {
                return found;
            }
            changed.await;
        }
    }
}

impl Flow {
    /// Waits for bytes or a datagram of the server; `None` at their end. What was passed on must be
    /// [granted](Flow::grant) again.
    ///
    /// # Errors
    /// The stream was reset; what was said before came first.
    pub(crate) async fn receive(&self) -> Result<Option<Vec<u8>>, Reset> {
        self.state.wait(State::next).await
    }

    /// Allows the server `bytes` more.
    pub(crate) fn grant(&self, bytes: usize) {
        let state = &self.state;
        let bytes = u32::try_from(bytes).unwrap_or(0);
        let owed = state.owed.get().saturating_add(bytes);
        state.owed.set(owed);
        if owed >= GRANT_STEP && !state.reset.get() && !state.ended.get() {
            state.owed.set(0);
            state.window.set(state.window.get().saturating_add(owed));
            self.mux.send(&ForwardRequest::Credit {
                id: self.id,
                bytes: owed,
            });
        }
    }

    /// Waits until something may be sent; gives how much, at most a chunk. Waits for ever once the stream is reset, which
    /// [`Flow::receive`] tells in its time.
    pub(crate) async fn room(&self) -> usize {
        loop {
            let room = self
                .state
                .wait(|state| (state.room.get() > 0 && !state.reset.get()).then_some(()));
            room.await;
            self.mux.room().await;
            if self.room_now() > 0 {
                return self.room_now().min(MAX_CHUNK);
            }
        }
    }

    /// What may be sent at this moment, in bytes.
    pub(super) fn room_now(&self) -> usize {
        if self.state.reset.get() || !self.mux.has_room() {
            return 0;
        }
        usize::try_from(self.state.room.get()).unwrap_or(0)
    }

    /// Sends bytes, or one datagram, within the room.
    pub(crate) fn send(&self, data: &[u8]) {
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.state
            .room
            .set(self.state.room.get().saturating_sub(bytes));
        if !self.state.reset.get() {
            let data = data.to_vec();
            self.mux.send(&ForwardRequest::Data { id: self.id, data });
        }
    }

    /// Nothing more is sent.
    pub(crate) fn finish(&self) {
        self.state.finished.set(true);
        if !self.state.reset.get() {
            self.mux.send(&ForwardRequest::Eof { id: self.id });
        }
    }

    /// Waits until the stream is reset.
    pub(crate) async fn reset(&self) {
        self.state
            .wait(|state| state.reset.get().then_some(()))
            .await;
    }

    /// Bytes to read into.
    pub(super) fn scratch(&self) -> std::cell::RefMut<'_, Vec<u8>> {
        self.mux.scratch()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let known = self.mux.flows.borrow_mut().remove(&self.id).is_some();
        let over = self.state.ended.get() && self.state.finished.get();
        if known && !over {
            self.mux.send(&ForwardRequest::Reset { id: self.id });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_holds_to_its_window() {
        let state = State::new(PortProtocol::Tcp);
        let window = usize::try_from(FORWARD_WINDOW).unwrap();
        state.take(vec![0; window]).unwrap();
        let error = state.take(vec![0]).unwrap_err();
        assert!(matches!(error, MuxError::OverWindow));
    }

    #[test]
    fn datagrams_nobody_takes_are_lost_and_their_bytes_are_owed() {
        let state = State::new(PortProtocol::Udp);
        for _ in 0..MAX_DATAGRAMS + 3 {
            state.take(vec![0; 10]).unwrap();
        }
        assert_eq!(state.owed.get(), 30);
        // Without bytes they cost no window, so their number is bounded too.
        for _ in 0..1000 {
            state.take(Vec::new()).unwrap();
        }
        let Incoming::Datagrams(queue) = &*state.incoming.borrow() else {
            panic!("datagrams");
        };
        assert_eq!(queue.len(), MAX_DATAGRAMS);
    }
}
