//! One guest TCP connection: a smoltcp interface with one socket, and what wakes whom.
//!
//! Two parties use a flow, both on the gateway's thread: the gateway feeds packets in and lets it send
//! ([`Flow::ingress`], [`Flow::egress`]), and the [`GuestStream`](crate::GuestStream) reads and writes bytes. Whoever
//! changes something the other waits for wakes it: the gateway wakes the stream's task, the stream puts the flow on
//! the dirty list, which wakes the gateway. A flow of its own interface costs nothing while it is idle, however many
//! there are.
//!
//! Memory: buffers are large but only touched pages are real. A flow pays for what it holds above
//! [`FLOW_FLOOR`](crate::config::FLOW_FLOOR) from a budget all flows share, and gets it back when its buffer is empty; when the budget is spent, segments above the
//! floor are dropped (the guest sends them again later) and writers wait.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::Waker;

use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Instant;

use crate::config::{FLOW_FLOOR, LINGER};
use crate::device::{FlowDevice, Transmitter};
use crate::packet::TcpSegment;

mod admission;
mod consumer;
mod moving;
mod shared;
mod stack;

pub(crate) use consumer::{ReadState, WriteState};
pub(crate) use shared::Shared;
use stack::Stack;

/// Which connection: the guest's port and where it goes. The guest's address follows from the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) guest_port: u16,
    pub(crate) remote: SocketAddr,
}

/// The guest's SYN as far as a flow needs it.
#[derive(Debug, Clone)]
pub(crate) struct Syn {
    /// The IP packet.
    pub(crate) packet: Vec<u8>,
    /// Its sequence number.
    pub(crate) sequence: u32,
    /// Its maximum segment size.
    pub(crate) mss: usize,
}

/// What a flow needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing before this time, if ever.
    Wait(Option<Instant>),
    /// Another turn as soon as the link takes frames.
    Again,
    /// The connection is over; no packet belongs to it any more.
    Over,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) key: FlowKey,
    shared: Rc<Shared>,
    dirty: Cell<bool>,
    /// The earliest time this flow is in the timer heap with.
    pub(crate) armed: Cell<Option<Instant>>,
    /// No longer in the table.
    pub(crate) over: Cell<bool>,
    pub(crate) state: RefCell<FlowState>,
}

/// What a connection holds.
#[derive(Debug)]
pub(crate) struct FlowState {
    stack: Option<Stack>,
    mss: usize,
    /// The guest's SYN.
    syn: Box<[u8]>,
    /// Sequence number of the guest's first byte in this stack.
    first_sequence: u32,
    /// Sequence number of the next byte the stream will read.
    read_sequence: u32,
    /// Sequence number of our first byte that the guest has not acknowledged; not known before the handshake is done.
    acknowledged: Option<u32>,
    /// The window the guest told last, not scaled.
    window: u16,
    /// Bytes of the buffers that may be touched: by earlier flows, with what was received, with what was sent.
    touched: [usize; 3],
    /// When something last came or went.
    active: Instant,
    receive_reserved: usize,
    send_reserved: usize,
    /// What the send buffer may grow to for now: twice as much whenever it was filled.
    send_goal: usize,
    pub(crate) read_waker: Option<Waker>,
    pub(crate) write_waker: Option<Waker>,
    end: StreamEnd,
}

/// How far the stream is done with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamEnd {
    /// Reads and writes.
    Open,
    /// Has asked for a FIN.
    Shut,
    /// Is dropped after its shutdown; the rest of the close may take until the first use after [`LINGER`].
    Dropped { since: Option<Instant> },
}

impl Flow {
    /// Accepts a connection: the SYN is fed, the answer goes with the flow's first turn.
    pub(crate) fn accept(
        shared: &Rc<Shared>,
        key: FlowKey,
        syn: &Syn,
        transmitter: &mut Transmitter,
        now: Instant,
    ) -> Option<Rc<Self>> {
        let mut device = FlowDevice {
            inbound: Some(&syn.packet),
            transmitter,
            burst: 0,
            mss: syn.mss,
            mtu: shared.mtu(),
        };
        let (mut stack, touched) = match shared.unused_stack() {
            Some(unused) => unused,
            None => (Stack::new(&mut device, now).ok()?, 0),
        };
        stack.listen(key.remote).ok()?;
        stack.feed(&mut device, now);
        if stack.with_socket(|socket| socket.state()) != State::SynReceived {
            return None;
        }
        let flow = Rc::new(Self {
            key,
            shared: Rc::clone(shared),
            dirty: Cell::new(false),
            armed: Cell::new(None),
            over: Cell::new(false),
            state: RefCell::new(FlowState {
                stack: Some(stack),
                mss: syn.mss,
                syn: syn.packet.clone().into_boxed_slice(),
                first_sequence: syn.sequence.wrapping_add(1),
                read_sequence: syn.sequence.wrapping_add(1),
                acknowledged: None,
                window: 0,
                touched: [touched, 0, 0],
                active: now,
                receive_reserved: FLOW_FLOOR,
                send_reserved: FLOW_FLOOR,
                send_goal: FIRST_SEND_GOAL,
                read_waker: None,
                write_waker: None,
                end: StreamEnd::Open,
            }),
        });
        flow.mark_dirty();
        Some(flow)
    }

    /// Puts the flow on the dirty list and wakes the gateway.
    pub(crate) fn mark_dirty(self: &Rc<Self>) {
        if self.over.get() || self.dirty.replace(true) {
            return;
        }
        self.shared.push_dirty(Rc::clone(self));
    }

    /// Feeds a packet of this connection.
    pub(crate) fn ingress(
        self: &Rc<Self>,
        segment: &TcpSegment<'_>,
        transmitter: &mut Transmitter,
        now: Instant,
    ) {
        let mut state = self.state.borrow_mut();
        if !state.admits(segment, &self.shared) {
            return;
        }
        state.active = now;
        let FlowState { stack, mss, .. } = &mut *state;
        let Some(stack) = stack.as_mut() else { return };
        let mut device = FlowDevice {
            inbound: Some(segment.packet),
            transmitter,
            burst: 0,
            mss: *mss,
            mtu: self.shared.mtu(),
        };
        stack.feed(&mut device, now);
        stack.with_socket(|socket| {
            if socket.state() == State::Listen {
                // A RST before the handshake was done sent the socket back to where it began.
                socket.abort();
            }
        });
        state.wake_stream();
        drop(state);
        self.mark_dirty();
    }

    /// Lets the flow send up to `burst` frames and says what it needs next.
    pub(crate) fn egress(&self, transmitter: &mut Transmitter, now: Instant, burst: usize) -> Next {
        let mut state = self.state.borrow_mut();
        state.finish_dropped(now);
        let FlowState { stack, mss, .. } = &mut *state;
        let Some(stack) = stack.as_mut() else {
            return Next::Over;
        };
        let mut device = FlowDevice {
            inbound: None,
            transmitter,
            burst,
            mss: *mss,
            mtu: self.shared.mtu(),
        };
        let due = stack.send(&mut device, now);
        let sent = device.burst < burst;
        let blocked = device.burst == 0 || !device.transmitter.link.is_clear();
        let (tcp, forgotten) =
            stack.with_socket(|socket| (socket.state(), socket.remote_endpoint().is_none()));
        let next = match tcp {
            _ if blocked && due.is_some_and(|due| due <= now) => Next::Again,
            // TIME-WAIT guards against segments that arrive late: this link reorders nothing and keeps nothing.
            State::TimeWait => Next::Over,
            State::Closed if forgotten => Next::Over,
            // smoltcp says "now" yet sent nothing: look again soon instead of spinning.
            _ => Next::Wait(due.map(|due| due.max(now + RECHECK))),
        };
        state.wake_stream();
        state.settle_sent(&self.shared);
        if sent {
            state.active = now;
        }
        let Next::Wait(due) = next else { return next };
        let times = [
            due,
            state.linger_end(),
            state.rest(&self.key, &self.shared, now),
        ];
        Next::Wait(times.into_iter().flatten().min())
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        self.shared.release(state.receive_reserved);
        self.shared.release(state.send_reserved);
        let touched = state.touched();
        if let Some(stack) = state.stack.take() {
            self.shared.keep_stack(stack, touched);
        }
    }
}

impl FlowState {
    /// Works on the socket, if there is one.
    fn with_socket<R>(&mut self, f: impl FnOnce(&mut Socket<'_>) -> R) -> Option<R> {
        self.stack.as_mut().map(|stack| stack.with_socket(f))
    }

    /// Gives back what a send buffer had reserved whose bytes the guest has all got.
    fn settle_sent(&mut self, shared: &Shared) {
        let drained = self.with_socket(|socket| socket.send_queue() == 0);
        if drained == Some(true) {
            shared.settle(&mut self.send_reserved);
        }
    }

    fn wake_stream(&mut self) {
        let (shut, reserved) = (self.end == StreamEnd::Shut, self.send_reserved);
        let ready = self.with_socket(|socket| {
            if socket.state() == State::SynReceived {
                return (false, false);
            }
            if shut {
                // It may have been asked for during the handshake.
                socket.close();
            }
            let room = socket.send_queue() * 4 <= reserved * 3;
            (
                socket.can_recv() || !socket.may_recv(),
                room || !socket.may_send(),
            )
        });
        let Some((readable, writable)) = ready else {
            return;
        };
        if readable && let Some(waker) = self.read_waker.take() {
            waker.wake();
        }
        if writable && let Some(waker) = self.write_waker.take() {
            waker.wake();
        }
    }

    /// Ends a connection whose stream is gone and whose guest still sends, or is not heard of.
    fn finish_dropped(&mut self, now: Instant) {
        let StreamEnd::Dropped { since } = self.end else {
            return;
        };
        let began = since.unwrap_or(now);
        self.end = StreamEnd::Dropped { since: Some(began) };
        self.with_socket(|socket| {
            if socket.state() == State::SynReceived {
                return;
            }
            socket.close();
            if socket.can_recv() || now >= began + LINGER.into() {
                socket.abort();
            }
        });
    }

    fn linger_end(&self) -> Option<Instant> {
        match self.end {
            StreamEnd::Dropped { since } => Some(since? + LINGER.into()),
            StreamEnd::Open | StreamEnd::Shut => None,
        }
    }

    /// How many bytes of the buffers may be touched.
    fn touched(&self) -> usize {
        let [before, received, sent] = self.touched;
        before.max(received + sent)
    }

    /// Begins to count what is touched: the stack is new.
    fn start_counting(&mut self) {
        self.touched = [0; 3];
        self.first_sequence = self.read_sequence;
    }
}

impl FlowKey {
    /// The address the guest connects to.
    pub(crate) fn address(&self) -> IpAddr {
        self.remote.ip()
    }
}

/// What a new flow's send buffer may grow to.
const FIRST_SEND_GOAL: usize = 4 * FLOW_FLOOR;

/// Pause before looking again at a flow that says it is due but sends nothing.
const RECHECK: smoltcp::time::Duration = smoltcp::time::Duration::from_millis(1);
