//! The switch's part in flows of datagrams.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::{Start, Switch};
use crate::datagram_flow::DatagramKey;
use crate::handler::{DatagramKind, DatagramRequest, DenyReason, Transport};
use crate::packet::{Datagram, Refused};
use crate::reply::{self, Unreachable};

impl Switch {
    /// A datagram from the guest to somewhere outside.
    pub(super) fn datagram(&mut self, datagram: &Datagram<'_>) {
        let key = datagram.key;
        if let Some(flow) = self.datagrams.find(&key) {
            return flow.push(datagram.payload);
        }
        let remote = key.ends.remote;
        let request = DatagramRequest {
            kind: key.kind,
            names: self.dns.names(remote.ip()),
            address: remote.ip(),
            port: remote.port(),
            source_port: key.ends.guest_port,
        };
        let refused = |reason, quote| Refused {
            transport: transport(key.kind),
            destination: remote.ip(),
            port: (key.kind == DatagramKind::Udp).then_some(remote.port()),
            reason,
            quote,
        };
        if self.is_gateway(remote.ip()) && !self.config.gateway_ports_offered {
            let refused = refused(DenyReason::GatewayPort, Some(datagram.packet));
            return self.refuse_packet(&refused);
        }
        let Some(opening) = Rc::clone(&self.handler).open_datagrams(request) else {
            let reason = not_carried(&key);
            return self.refuse_packet(&refused(reason, Some(datagram.packet)));
        };
        let room = self.datagram_opens.allow(self.now);
        let Some(flow) = room.then(|| self.datagrams.insert(key)).flatten() else {
            return self.refuse_packet(&refused(DenyReason::Limit, None));
        };
        flow.push(datagram.payload);
        self.starts.push(Start::Datagrams(flow, opening));
    }

    /// Ready when the link takes a frame; else the task is woken when it does.
    pub(crate) fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.transmitter.link.is_clear() {
            return Poll::Ready(());
        }
        self.waiting_for_link.push(cx.waker().clone());
        Poll::Pending
    }

    /// Wakes who waits for the link, if it is clear.
    pub(crate) fn wake_waiting(&mut self) {
        if self.transmitter.link.is_clear() {
            for waker in self.waiting_for_link.drain(..) {
                waker.wake();
            }
        }
    }

    /// Sends what `fill` writes to the guest, from the flow's far end.
    pub(crate) fn send_datagram(
        &mut self,
        key: &DatagramKey,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let remote = key.ends.remote;
        let guest = self.guest_address(remote.ip());
        let sent = match key.kind {
            DatagramKind::Udp => {
                let to = (guest, key.ends.guest_port).into();
                self.transmitter.send_udp(remote, to, fill)
            }
            DatagramKind::Echo => {
                let ends = (remote.ip(), guest);
                self.transmitter
                    .send_echo_reply(ends, key.ends.guest_port, fill)
            }
        };
        // What did not fit the link is sent by the driver.
        if !self.transmitter.link.is_clear() {
            self.shared.wake();
        }
        sent
    }

    /// Tells the guest by ICMP what became of its datagrams.
    pub(crate) fn tell_unreachable(&mut self, key: &DatagramKey, why: Unreachable) {
        let remote = key.ends.remote;
        let guest = self.guest_address(remote.ip());
        if let Some(quote) = reply::sent_datagram(key, guest) {
            self.send_unreachable(&quote, remote.ip(), why);
            self.shared.wake();
        }
    }

    /// The flow's consumer has let go of it.
    pub(crate) fn datagrams_ended(&mut self, key: &DatagramKey) {
        self.datagrams.remove(key);
    }

    /// The guest's address of the same family.
    pub(super) fn guest_address(&self, like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => self.config.addresses.guest_v4.into(),
            IpAddr::V6(_) => self.config.addresses.guest_v6.into(),
        }
    }
}

fn transport(kind: DatagramKind) -> Transport {
    match kind {
        DatagramKind::Udp => Transport::Udp,
        DatagramKind::Echo => Transport::Icmp,
    }
}

/// Why a datagram goes nowhere when the handler carries none.
fn not_carried(key: &DatagramKey) -> DenyReason {
    match (key.kind, key.ends.remote.port()) {
        (DatagramKind::Udp, QUIC_PORT) => DenyReason::Quic,
        (DatagramKind::Udp, _) => DenyReason::Udp,
        (DatagramKind::Echo, _) => DenyReason::Icmp,
    }
}

/// HTTP/3.
const QUIC_PORT: u16 = 443;
