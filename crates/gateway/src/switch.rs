//! What happens to every frame: the table of connections and everything that is answered without one.
//!
//! States of a connection here: *half-open* (the guest's SYN is kept, the handler is dialling, nothing was answered),
//! *silent* (the dial timed out: further SYNs are ignored, as they would be outside), *flow* (accepted; the rest is
//! smoltcp's state machine), gone (segments are answered with RST). The switch never waits: what takes time is handed to
//! the driver as a [`Start`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::Waker;

use smoltcp::time::Instant;
use smoltcp::wire::EthernetProtocol;
use tokio::task::AbortHandle;

use crate::config::{
    DATAGRAM_OPENS, FLOW_BURST, GatewayConfig, MAX_DNS_CONNECTIONS, MAX_DNS_QUERIES, MAX_FLOWS,
};
use crate::datagram_flow::{DatagramFlow, DatagramTable};
use crate::device::Transmitter;
use crate::dns::server::DnsServer;
use crate::flow::{Flow, FlowKey, Next, Shared, Syn};
use crate::half_open::{HalfOpenTable, Ticket};
use crate::handler::{
    Denied, DenyReason, FlowHandler, FlowRefusal, FlowRequest, OpeningDatagrams, Transport,
};
use crate::link::{ETHERNET_HEADER_LEN, Link, MAX_MESSAGE};
use crate::neighbour::{answer_arp, answer_discovery};
use crate::packet::{
    DnsDatagram, Inbound, Refused, TcpKind, TcpSegment, classify, classify_packet,
};
use crate::rate_limit::RateLimit;
use crate::reply::{self, Unreachable};
use crate::stream::GuestStream;
use crate::timers::Timers;
use crate::virtio_header::VNET_HEADER_LEN;

mod datagrams;

/// Something for the driver to run as a task.
pub(crate) enum Start {
    /// Ask the handler for a connection.
    Open(Ticket, FlowRequest),
    /// Answer a DNS question.
    Question {
        server: IpAddr,
        guest_port: u16,
        query: Vec<u8>,
    },
    /// Wait for the handler's decision about datagrams.
    Datagrams(Rc<DatagramFlow>, OpeningDatagrams),
    /// Serve DNS over TCP.
    DnsStream(GuestStream),
}

/// The state behind the link.
pub(crate) struct Switch {
    config: GatewayConfig,
    pub(crate) transmitter: Transmitter,
    shared: Rc<Shared>,
    flows: HashMap<FlowKey, Rc<Flow>>,
    half_open: HalfOpenTable,
    timers: Timers,
    datagrams: DatagramTable,
    datagram_opens: RateLimit,
    waiting_for_link: Vec<Waker>,
    handler: Rc<dyn FlowHandler>,
    dns: Rc<DnsServer>,
    dns_queries: usize,
    dns_streams: usize,
    starts: Vec<Start>,
    reports: RateLimit,
    suppressed: u64,
    replies: RateLimit,
    now: Instant,
}

impl Switch {
    pub(crate) fn new(
        config: GatewayConfig,
        link: Link,
        handler: Rc<dyn FlowHandler>,
        dns: Rc<DnsServer>,
        now: Instant,
    ) -> Self {
        Self {
            transmitter: Transmitter::new(link, &config.addresses),
            shared: Shared::new(config.mtu),
            config,
            flows: HashMap::new(),
            half_open: HalfOpenTable::default(),
            timers: Timers::default(),
            datagrams: DatagramTable::default(),
            datagram_opens: RateLimit::new(DATAGRAM_OPENS.0, DATAGRAM_OPENS.1, now),
            waiting_for_link: Vec::new(),
            handler,
            dns,
            dns_queries: 0,
            dns_streams: 0,
            starts: Vec::new(),
            reports: RateLimit::new(REPORT_BURST, REPORTS_PER_SECOND, now),
            suppressed: 0,
            replies: RateLimit::new(REPLY_BURST, REPLIES_PER_SECOND, now),
            now,
        }
    }

    pub(crate) fn shared(&self) -> Rc<Shared> {
        Rc::clone(&self.shared)
    }

    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// Takes what is to be started.
    pub(crate) fn take_starts(&mut self) -> Vec<Start> {
        std::mem::take(&mut self.starts)
    }

    /// Handles one message from the link.
    pub(crate) fn message(&mut self, message: &[u8]) {
        if message.len() > MAX_MESSAGE {
            return;
        }
        let Some(frame) = message.get(VNET_HEADER_LEN..) else {
            return;
        };
        if frame.len() < ETHERNET_HEADER_LEN {
            return;
        }
        match classify(frame, &self.config.addresses) {
            Inbound::Tcp(segment) => self.tcp(&segment),
            Inbound::Dns(datagram) => self.dns(&datagram),
            Inbound::Arp(bytes) => {
                if let Some(answer) = answer_arp(bytes, &self.config.addresses) {
                    self.transmitter
                        .send_ethernet(EthernetProtocol::Arp, &answer);
                }
            }
            Inbound::Discovery(bytes) => {
                let answer = answer_discovery(bytes, &self.config);
                self.send_packet(answer);
            }
            Inbound::Echo(bytes) => {
                if self.replies.allow(self.now) {
                    self.send_packet(reply::echo_reply(bytes));
                }
            }
            Inbound::Datagram(datagram) => self.datagram(&datagram),
            Inbound::Refused(refused) => self.refuse_packet(&refused),
            Inbound::Noise | Inbound::Malformed => {}
        }
    }

    /// Lets every flow that has something to send have its turn; says whether some want another at once.
    pub(crate) fn serve_flows(&mut self) -> bool {
        for denied in self.dns.take_denied() {
            self.report(denied);
        }
        while let Some(flow) = self.timers.pop_due(self.now) {
            flow.mark_dirty();
        }
        for _ in 0..self.shared.dirty_count() {
            if !self.transmitter.link.is_clear() {
                return false;
            }
            let Some(flow) = self.shared.next_dirty() else {
                break;
            };
            if flow.over.get() {
                continue;
            }
            match flow.egress(&mut self.transmitter, self.now, FLOW_BURST) {
                Next::Again => flow.mark_dirty(),
                Next::Wait(None) => {}
                Next::Wait(Some(at)) => self.timers.arm(&flow, at, self.flows.len()),
                Next::Over => {
                    flow.over.set(true);
                    self.flows.remove(&flow.key);
                }
            }
        }
        self.transmitter.link.is_clear() && self.shared.dirty_count() > 0
    }

    /// When the switch needs a turn although nothing happens.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The number of connections, half-open ones included.
    pub(crate) fn connections(&self) -> usize {
        self.flows.len() + self.half_open.len()
    }

    fn tcp(&mut self, segment: &TcpSegment<'_>) {
        if let Some(flow) = self.flows.get(&segment.key) {
            flow.ingress(segment, &mut self.transmitter, self.now);
            return;
        }
        match segment.kind {
            TcpKind::Open => self.open(segment),
            TcpKind::Reset => self.half_open.cancel(segment.key),
            TcpKind::Other if self.half_open.contains(&segment.key) => {}
            TcpKind::Other => self.reset(segment),
        }
    }

    fn open(&mut self, segment: &TcpSegment<'_>) {
        let Some(syn) = segment.syn(self.config.mtu) else {
            return;
        };
        let Err(syn) = self.half_open.absorb(segment.key, syn, self.now) else {
            return;
        };
        let FlowKey { guest_port, remote } = segment.key;
        let gateway = self.is_gateway(remote.ip());
        match remote.port() {
            DNS_PORT if gateway => return self.open_dns(segment, &syn),
            _ if gateway && !self.config.gateway_ports_offered => {
                return self.deny_segment(segment, DenyReason::GatewayPort);
            }
            DNS_PORT => return self.deny_segment(segment, DenyReason::OtherDnsServer),
            _ => {}
        }
        let full = self.connections() >= MAX_FLOWS;
        let ticket = (!full).then(|| self.half_open.insert(segment.key, syn, self.now));
        let Some(ticket) = ticket.flatten() else {
            // Not refused: the guest tries again, and may find room then.
            self.report(denied(segment, DenyReason::Limit));
            return;
        };
        let request = FlowRequest {
            names: self.dns.names(remote.ip()),
            address: remote.ip(),
            port: remote.port(),
            source_port: guest_port,
        };
        self.starts.push(Start::Open(ticket, request));
    }

    /// DNS over TCP is served here and needs nobody's leave.
    fn open_dns(&mut self, segment: &TcpSegment<'_>, syn: &Syn) {
        if self.dns_streams >= MAX_DNS_CONNECTIONS || self.connections() >= MAX_FLOWS {
            return self.reset(segment);
        }
        if let Some(stream) = self.accept_syn(segment.key, syn) {
            self.dns_streams += 1;
            self.starts.push(Start::DnsStream(stream));
        }
    }

    pub(crate) fn dns_stream_ended(&mut self) {
        self.dns_streams -= 1;
    }

    /// The far end is connected: answers the SYN. `None` if the guest has given up meanwhile.
    pub(crate) fn accept(&mut self, ticket: Ticket) -> Option<GuestStream> {
        let syn = self.half_open.take(ticket)?;
        self.accept_syn(ticket.key, &syn)
    }

    fn accept_syn(&mut self, key: FlowKey, syn: &Syn) -> Option<GuestStream> {
        let flow = Flow::accept(&self.shared, key, syn, &mut self.transmitter, self.now)?;
        self.flows.insert(key, Rc::clone(&flow));
        Some(GuestStream::new(flow))
    }

    /// The far end is not to be had: tells the guest in the way that looks like it.
    pub(crate) fn refuse(&mut self, ticket: Ticket, refusal: FlowRefusal) {
        let Some(syn) = self.half_open.take(ticket) else {
            return;
        };
        match refusal {
            FlowRefusal::Refused | FlowRefusal::Denied => {
                let inbound = classify_packet(&syn.packet, &self.config.addresses);
                if let Inbound::Tcp(segment) = inbound {
                    self.reset(&segment);
                }
            }
            FlowRefusal::Unreachable => {
                self.send_unreachable(&syn.packet, ticket.key.address(), Unreachable::Host);
            }
            FlowRefusal::TimedOut => self.half_open.silence(ticket, syn, self.now),
        }
        // The reply must not wait for the next frame.
        self.shared.wake();
    }

    /// Remembers the task that dials, so that it ends when the guest gives up.
    pub(crate) fn dialling(&mut self, ticket: Ticket, task: AbortHandle) {
        self.half_open.dialling(ticket, task);
    }

    fn is_gateway(&self, address: IpAddr) -> bool {
        let addresses = &self.config.addresses;
        address == addresses.gateway_v4 || address == addresses.gateway_v6
    }

    fn deny_segment(&mut self, segment: &TcpSegment<'_>, reason: DenyReason) {
        self.report(denied(segment, reason));
        self.reset(segment);
    }

    fn reset(&mut self, segment: &TcpSegment<'_>) {
        if self.replies.allow(self.now) {
            self.send_packet(reply::reset(segment));
        }
    }

    fn dns(&mut self, datagram: &DnsDatagram<'_>) {
        if self.dns_queries >= MAX_DNS_QUERIES {
            let refusal = self.dns.refuse_datagram(datagram.query);
            return self.send_answer(datagram.server, datagram.guest_port, refusal);
        }
        self.dns_queries += 1;
        self.starts.push(Start::Question {
            server: datagram.server,
            guest_port: datagram.guest_port,
            query: datagram.query.to_vec(),
        });
    }

    /// A DNS question is done with; `answer` goes to the guest.
    pub(crate) fn answered(&mut self, server: IpAddr, guest_port: u16, answer: Option<Vec<u8>>) {
        self.dns_queries -= 1;
        self.send_answer(server, guest_port, answer);
        self.shared.wake();
    }

    fn send_answer(&mut self, server: IpAddr, guest_port: u16, answer: Option<Vec<u8>>) {
        let Some(answer) = answer else { return };
        let guest = self.guest_address(server);
        let packet = reply::datagram((server, DNS_PORT), (guest, guest_port), &answer);
        self.send_packet(packet);
    }

    fn refuse_packet(&mut self, refused: &Refused<'_>) {
        self.report(Denied {
            protocol: refused.transport,
            destination: refused.destination,
            port: refused.port,
            name: None,
            reason: refused.reason,
            suppressed: 0,
        });
        let Some(quote) = refused.quote else { return };
        let why = match refused.transport {
            Transport::Udp => Unreachable::Port,
            Transport::Tcp | Transport::Icmp | Transport::Other(_) => Unreachable::Prohibited,
        };
        self.send_unreachable(quote, refused.destination, why);
    }

    fn send_unreachable(&mut self, quote: &[u8], destination: IpAddr, why: Unreachable) {
        if !self.replies.allow(self.now) {
            return;
        }
        let from = match destination {
            IpAddr::V4(_) => IpAddr::V4(self.config.addresses.gateway_v4),
            IpAddr::V6(_) => IpAddr::V6(self.config.addresses.gateway_v6),
        };
        self.send_packet(reply::unreachable(quote, from, why));
    }

    fn send_packet(&mut self, packet: Option<Vec<u8>>) {
        if let Some(packet) = packet {
            self.transmitter
                .send_ip(packet.len(), |room| room.copy_from_slice(&packet));
        }
    }

    fn report(&mut self, mut denied: Denied) {
        if !self.reports.allow(self.now) {
            self.suppressed += 1;
            return;
        }
        denied.suppressed = std::mem::take(&mut self.suppressed);
        self.handler.denied(denied);
    }
}

fn denied(segment: &TcpSegment<'_>, reason: DenyReason) -> Denied {
    Denied {
        protocol: Transport::Tcp,
        destination: segment.key.address(),
        port: Some(segment.key.remote.port()),
        name: None,
        reason,
        suppressed: 0,
    }
}

/// DNS.
const DNS_PORT: u16 = 53;

/// RSTs and ICMP messages at once.
const REPLY_BURST: u64 = 5_000;

/// RSTs and ICMP messages a second.
const REPLIES_PER_SECOND: u64 = 5_000;

/// Denials reported at once.
const REPORT_BURST: u64 = 100;

/// Denials reported a second.
const REPORTS_PER_SECOND: u64 = 20;
