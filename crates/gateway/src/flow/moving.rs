//! A connection that has been idle moves to a stack with fresh memory; what its buffers had touched goes back to the
//! system.
//!
//! smoltcp can neither exchange the buffers of a socket nor begin one in the middle of a connection. So the new socket
//! is led through the handshake once more, away from the link, with sequence numbers just before the present ones: the
//! guest's own SYN, kept for its options; our answer; an acknowledgement with the window the guest told last. Which
//! sequence number we begin with smoltcp draws from its interface's generator, so that is begun where it draws the wanted
//! one, and our answer shows whether it did. When anything is not as wanted, the flow stays where it is.

use std::net::SocketAddr;

use smoltcp::phy::{Device, DeviceCapabilities, RxToken, TxToken};
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant;
use smoltcp::wire::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, TCP_HEADER_LEN, TcpPacket, TcpSeqNumber};

use super::stack::Stack;
use super::{FlowKey, FlowState, Shared, StreamEnd};
use crate::config::{REST_AFTER, REST_FLOOR};
use crate::device::capabilities;

/// Where a connection is in which nothing is under way.
#[derive(Debug, Clone, Copy)]
struct Position {
    /// Sequence number of the guest's next byte.
    guest: u32,
    /// Sequence number of our next byte.
    ours: u32,
    /// The window the guest told last, not scaled.
    window: u16,
}

impl FlowState {
    /// Gives memory back if the connection has been idle for long; says when to look again, if ever.
    pub(super) fn rest(&mut self, key: &FlowKey, shared: &Shared, now: Instant) -> Option<Instant> {
        let open = self.end == StreamEnd::Open && self.touched() > REST_FLOOR;
        let (tcp, waiting) = self.with_socket(|socket| {
            let waiting = socket.send_queue() + socket.recv_queue();
            (socket.state(), waiting)
        })?;
        if !open || tcp != State::Established {
            return None;
        }
        if waiting > 0 {
            return Some(now + REST_AFTER.into());
        }
        let at = self.active + REST_AFTER.into();
        if now < at {
            return Some(at);
        }
        self.active = now;
        let position = Position {
            guest: self.read_sequence,
            ours: self.acknowledged?,
            window: self.window,
        };
        let moved = Stack::continued(key.remote, &self.syn, position, (shared.mtu(), now));
        let Some(stack) = moved else {
            return Some(now + REST_AFTER.into());
        };
        self.stack = Some(stack);
        self.start_counting();
        None
    }
}

impl Stack {
    /// A stack in the middle of a connection to `local` that began with `syn`.
    fn continued(
        local: SocketAddr,
        syn: &[u8],
        position: Position,
        (mtu, now): (u16, Instant),
    ) -> Option<Self> {
        let mut device = Unplugged {
            inbound: None,
            sent: None,
            mtu,
        };
        let first = position.ours.wrapping_sub(1);
        let mut stack = Self::with_seed(seed_that_draws(first), &mut device, now).ok()?;
        stack.listen(local).ok()?;
        let syn = syn_before(syn, position)?;
        let acknowledgement = acknowledgement(&syn, position)?;
        device.inbound = Some(syn);
        stack.feed(&mut device, now);
        stack.send(&mut device, now);
        if device.sent != Some(first) {
            return None;
        }
        device.inbound = Some(acknowledgement);
        stack.feed(&mut device, now);
        stack.send(&mut device, now);
        let tcp = stack.with_socket(|socket| socket.state());
        (tcp == State::Established).then_some(stack)
    }
}

/// The guest's SYN as if its next byte were the first of the connection.
fn syn_before(syn: &[u8], position: Position) -> Option<Vec<u8>> {
    let mut packet = syn.to_vec();
    let mut tcp = TcpPacket::new_checked(packet.get_mut(tcp_at(syn)?..)?).ok()?;
    tcp.set_seq_number(TcpSeqNumber(position.guest.wrapping_sub(1) as i32));
    Some(packet)
}

/// The acknowledgement that ends the handshake, made of the SYN.
fn acknowledgement(syn: &[u8], position: Position) -> Option<Vec<u8>> {
    let at = tcp_at(syn)?;
    let len = at + TCP_HEADER_LEN;
    let mut packet = syn.get(..len)?.to_vec();
    if at == IPV6_HEADER_LEN {
        packet[4..6].copy_from_slice(&(TCP_HEADER_LEN as u16).to_be_bytes());
    } else {
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    }
    let mut tcp = TcpPacket::new_unchecked(&mut packet[at..]);
    tcp.set_header_len(TCP_HEADER_LEN as u8);
    tcp.set_seq_number(TcpSeqNumber(position.guest as i32));
    tcp.set_ack_number(TcpSeqNumber(position.ours as i32));
    tcp.clear_flags();
    tcp.set_ack(true);
    tcp.set_window_len(position.window);
    Some(packet)
}

/// Where the TCP header of a packet begins.
fn tcp_at(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let words = usize::from(first & 0xf);
    match first >> 4 {
        4 => Some((4 * words).max(IPV4_HEADER_LEN)),
        6 => Some(IPV6_HEADER_LEN),
        _ => None,
    }
}

/// A device without a link: it hands in one packet, and remembers the sequence number of what is sent.
struct Unplugged {
    inbound: Option<Vec<u8>>,
    sent: Option<u32>,
    mtu: u16,
}

struct Packet(Vec<u8>);

struct Remembered<'a>(&'a mut Option<u32>);

impl Device for Unplugged {
    type RxToken<'t> = Packet;
    type TxToken<'t> = Remembered<'t>;

    fn receive(&mut self, _now: Instant) -> Option<(Packet, Remembered<'_>)> {
        let packet = self.inbound.take()?;
        Some((Packet(packet), Remembered(&mut self.sent)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Remembered<'_>> {
        Some(Remembered(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.mtu, true)
    }
}

impl RxToken for Packet {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Remembered<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        let tcp = tcp_at(&packet).and_then(|at| packet.get(at..));
        let tcp = tcp.and_then(|tcp| TcpPacket::new_checked(tcp).ok());
        *self.0 = tcp.map(|tcp| tcp.seq_number().0 as u32);
        result
    }
}

/// A seed with which smoltcp's generator (sPCG32, pcg-random.org) draws `wanted` as its second number, and first one whose
/// halves differ: that is for the IPv4 identification, which must not be zero.
fn seed_that_draws(wanted: u32) -> u64 {
    let mut low = 0;
    loop {
        // The highest three bits say how far a state is shifted to be the number drawn: seven, by 22.
        let second = 7 << 61 | u64::from(wanted) << 22 | low;
        let first = state_before(second);
        let drawn = (first >> (29 - (first >> 61))) as u32;
        if drawn >> 16 != drawn & 0xffff {
            return state_before(first);
        }
        low += 1;
    }
}

fn state_before(state: u64) -> u64 {
    state.wrapping_sub(INCREMENT).wrapping_mul(INVERSE)
}

const MULTIPLIER: u64 = 0xbb2e_fcec_3c39_611d;
const INCREMENT: u64 = 0x7590_ef39;

/// The multiplier's inverse modulo 2^64, by Newton's iteration: each step doubles the bits that are right, three at first.
const INVERSE: u64 = {
    let mut inverse = MULTIPLIER;
    let mut step = 0;
    while step < 5 {
        let product = MULTIPLIER.wrapping_mul(inverse);
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(product));
        step += 1;
    }
    inverse
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_draws_what_is_wanted() {
        for wanted in [0, 1, 0x1234_5678, u32::MAX] {
            let seed = seed_that_draws(wanted);
            let draw = |state: u64| {
                let next = state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
                (next, (next >> (29 - (next >> 61))) as u32)
            };
            let (state, first) = draw(seed);
            assert_ne!(first >> 16, first & 0xffff);
            assert_eq!(draw(state).1, wanted);
        }
    }
}
