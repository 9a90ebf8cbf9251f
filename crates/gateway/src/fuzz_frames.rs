//! Entry point for fuzzing the whole switch: a guest that sends any frames in any order, with any pauses, to a handler
//! that answers in any way.
//!
//! The input is a list of records: a byte of control, the frame's length (two bytes, little endian), the frame. Bits of
//! control: 0–1 how the handler answers, 2 whether consumers read and write, 3 whether the oldest consumer goes, 4
//! whether the frame's acknowledgement is made to fit what we sent last (else no fuzzer gets past a handshake), 5–7 the
//! pause before it.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetFrame, Ipv4Packet, Ipv6Packet, TcpPacket};

use crate::config::{GatewayConfig, LinkAddresses};
use crate::dns::resolver::{Answer, DnsFailure, Question, Resolver};
use crate::gateway::Gateway;
use crate::guest_datagrams::GuestDatagrams;
use crate::handler::{
    DatagramRequest, Denied, FlowHandler, FlowRefusal, FlowRequest, LocalBoxFuture, OpenedFlow,
    OpeningDatagrams,
};
use crate::link::{ETHERNET_HEADER_LEN, RECEIVE_BUFFER};
use crate::stream::GuestStream;
use crate::switch::{Start, Switch};
use crate::virtio_header::VNET_HEADER_LEN;

/// Plays the records and looks at every answer.
///
/// # Panics
/// When an answer is not addressed to the guest.
pub fn fuzz_frames(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs a few descriptors");
    let _inside = runtime.enter();
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (near, far) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .expect("a pair needs two descriptors");
    let handler = Rc::new(AnyHandler);
    let gateway = Gateway::new(GatewayConfig::default(), near, handler.clone(), handler)
        .expect("the configuration is the default one");
    let mut play = Play {
        switch: gateway.switch(),
        streams: Vec::new(),
        datagrams: Vec::new(),
        now: Instant::from_secs(1_000),
        sent: None,
    };
    let mut buffer = vec![0; RECEIVE_BUFFER];
    let mut rest = bytes;
    while let [control, low, high, after @ ..] = rest {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (frame, left) = after.split_at(len);
        play.step(*control, frame);
        while let Ok((len, _)) = rustix::net::recv(&far, &mut buffer[..], RecvFlags::DONTWAIT) {
            play.answer(&buffer[..len]);
        }
        rest = left;
    }
}

struct Play {
    switch: Rc<RefCell<Switch>>,
    streams: Vec<GuestStream>,
    datagrams: Vec<GuestDatagrams>,
    now: Instant,
    /// The sequence number after our last segment.
    sent: Option<u32>,
}

impl Play {
    fn step(&mut self, control: u8, frame: &[u8]) {
        self.now += Duration::from_millis(PAUSES[usize::from(control >> 5)]);
        let mut message = vec![0; VNET_HEADER_LEN];
        message.extend_from_slice(frame);
        if control & 0x10 != 0 {
            self.acknowledge(&mut message[VNET_HEADER_LEN..]);
        }
        let mut switch = self.switch.borrow_mut();
        switch.set_now(self.now);
        switch.message(&message);
        let starts = switch.take_starts();
        drop(switch);
        for start in starts {
            self.start(control & 3, start);
        }
        if control & 4 != 0 {
            self.consume();
        }
        if control & 8 != 0 && !self.streams.is_empty() {
            drop(self.streams.remove(0));
        }
        let mut switch = self.switch.borrow_mut();
        for _ in 0..TURNS {
            if !switch.serve_flows() {
                break;
            }
        }
    }

    fn start(&mut self, how: u8, start: Start) {
        let mut switch = self.switch.borrow_mut();
        match start {
            Start::Open(ticket, _request) => {
                let refusal = match how {
                    0 => FlowRefusal::Refused,
                    1 => FlowRefusal::TimedOut,
                    _ => return self.streams.extend(switch.accept(ticket)),
                };
                switch.refuse(ticket, refusal);
            }
            Start::Datagrams(flow, _opening) => {
                drop(switch);
                let guest = GuestDatagrams::new(Rc::clone(&self.switch), flow);
                match how {
                    0 => guest.refuse(FlowRefusal::Unreachable),
                    1 => guest.refuse(FlowRefusal::Denied),
                    _ => self.datagrams.push(guest),
                }
            }
            Start::Question {
                server, guest_port, ..
            } => switch.answered(server, guest_port, None),
            Start::DnsStream(stream) => {
                switch.dns_stream_ended();
                self.streams.push(stream);
            }
        }
    }

    /// Lets every consumer read and write once.
    fn consume(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        self.streams.retain_mut(|stream| {
            let read = stream.poll_read_with(&mut cx, |bytes| Ok(bytes.len()));
            let wrote = stream.poll_write_with(&mut cx, 3, |room| {
                let len = room.len().min(3);
                room[..len].fill(0x5a);
                Ok(len)
            });
            !matches!(
                (read, wrote),
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_)))
            )
        });
        self.datagrams.retain_mut(|datagrams| {
            let Poll::Ready(payload) = datagrams.poll_receive(&mut cx) else {
                return true;
            };
            let sent = datagrams.poll_send_with(&mut cx, |room| {
                let len = payload.len().min(room.len());
                room[..len].copy_from_slice(&payload[..len]);
                Ok(len)
            });
            sent.is_ready()
        });
    }

    /// Looks at a message to the guest.
    fn answer(&mut self, message: &[u8]) {
        let frame = &message[VNET_HEADER_LEN..];
        let ethernet = EthernetFrame::new_checked(frame).expect("we send whole frames");
        assert_eq!(ethernet.dst_addr().0, LinkAddresses::default().guest_mac);
        let packet = ethernet.payload();
        if let Some(at) = tcp_at(packet)
            && let Ok(tcp) = TcpPacket::new_checked(&packet[at..])
        {
            let control = u32::from(tcp.syn()) + u32::from(tcp.fin());
            let after = tcp.seq_number().0 as u32;
            self.sent = Some(after.wrapping_add(tcp.payload().len() as u32 + control));
        }
    }

    /// Makes a TCP segment of the guest acknowledge what we sent.
    fn acknowledge(&self, frame: &mut [u8]) {
        let (Some(sent), Some(packet)) = (self.sent, frame.get_mut(ETHERNET_HEADER_LEN..)) else {
            return;
        };
        if let Some(at) = tcp_at(packet)
            && let Some(place) = packet.get_mut(at + 8..at + 12)
        {
            place.copy_from_slice(&sent.to_be_bytes());
        }
    }
}

/// Where the TCP header of a packet begins.
fn tcp_at(packet: &[u8]) -> Option<usize> {
    let (protocol, at) = match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(packet).ok()?;
            (ip.next_header(), usize::from(ip.header_len()))
        }
        6 => {
            let ip = Ipv6Packet::new_checked(packet).ok()?;
            (ip.next_header(), ip.header_len())
        }
        _ => return None,
    };
    (protocol == smoltcp::wire::IpProtocol::Tcp).then_some(at)
}

/// Decides nothing: what it is asked the player answers.
struct AnyHandler;

impl FlowHandler for AnyHandler {
    fn open(
        self: Rc<Self>,
        _request: FlowRequest,
    ) -> LocalBoxFuture<'static, Result<Box<dyn OpenedFlow>, FlowRefusal>> {
        Box::pin(std::future::pending())
    }

    fn open_datagrams(self: Rc<Self>, _request: DatagramRequest) -> Option<OpeningDatagrams> {
        Some(Box::pin(std::future::pending()))
    }

    fn address_allowed(&self, _name: &str, _address: IpAddr) -> bool {
        true
    }

    fn denied(&self, _denied: Denied) {}
}

impl Resolver for AnyHandler {
    fn resolve(&self, _: &Question) -> LocalBoxFuture<'static, Result<Answer, DnsFailure>> {
        Box::pin(std::future::ready(Err(DnsFailure::Refused)))
    }
}

/// Milliseconds, by the highest bits of control.
const PAUSES: [u64; 8] = [0, 1, 10, 200, 1_000, 10_000, 61_000, 700_000];

/// Turns of all flows after each frame.
const TURNS: usize = 4;
