//! The gateway's one loop: frames in, turns for flows, frames out, and the tasks that belong to it.
//!
//! A turn reads a bounded batch of frames, lets every dirty flow send a bounded burst, starts tasks, and yields, so that
//! the flows' consumers on the same thread run between turns. Consumers make flows dirty directly; no channel is in
//! between.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use smoltcp::time::Instant;
use tokio::task::JoinSet;
use tokio::time::Sleep;

use crate::config::{GatewayConfig, READ_BATCH, READ_BATCH_BYTES};
use crate::dns::resolver::Resolver;
use crate::dns::server::DnsServer;
use crate::flow::Shared;
use crate::guest_datagrams::GuestDatagrams;
use crate::half_open::Ticket;
use crate::handler::{FlowHandler, FlowRefusal, FlowRequest};
use crate::link::{Link, LinkCounters};
use crate::switch::{Start, Switch};

/// The guest's network.
pub struct Gateway {
    switch: Rc<RefCell<Switch>>,
    shared: Rc<Shared>,
    handler: Rc<dyn FlowHandler>,
    dns: Rc<DnsServer>,
    epoch: tokio::time::Instant,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

/// Why a gateway does not start or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The MTU is below what IPv6 needs.
    #[error("the MTU {mtu} is below {MIN_MTU}")]
    Mtu {
        /// What was asked for.
        mtu: u16,
    },
    /// The file descriptor is no link.
    #[error("cannot use the network link")]
    Open {
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The link broke.
    #[error("cannot read from the network link")]
    Link {
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

impl Gateway {
    /// Takes over the link: a connected `SOCK_SEQPACKET` socket or a TAP device (`IFF_NO_PI | IFF_VNET_HDR`, header
    /// size 12), each message a virtio header of 12 bytes and one Ethernet frame; or a connected `SOCK_STREAM` socket,
    /// each frame without that header behind its length, 4 bytes, big endian. Call it within a tokio runtime with I/O
    /// and time.
    ///
    /// # Errors
    /// [`GatewayError::Mtu`] and [`GatewayError::Open`].
    pub fn new(
        config: GatewayConfig,
        link: OwnedFd,
        handler: Rc<dyn FlowHandler>,
        resolver: Rc<dyn Resolver>,
    ) -> Result<Self, GatewayError> {
        if config.mtu < MIN_MTU {
            return Err(GatewayError::Mtu { mtu: config.mtu });
        }
        let link =
            Link::new(link, config.large_frames).map_err(|source| GatewayError::Open { source })?;
        let dns = Rc::new(DnsServer::new(&config, resolver, Rc::clone(&handler)));
        let epoch = tokio::time::Instant::now();
        let switch = Switch::new(
            config,
            link,
            Rc::clone(&handler),
            Rc::clone(&dns),
            instant(epoch, epoch),
        );
        Ok(Self {
            shared: switch.shared(),
            switch: Rc::new(RefCell::new(switch)),
            handler,
            dns,
            epoch,
        })
    }

    /// The state behind the link, to be driven by hand.
    pub(crate) fn switch(&self) -> Rc<RefCell<Switch>> {
        Rc::clone(&self.switch)
    }

    /// Serves the guest until its end of the link closes. Needs a [`LocalSet`](tokio::task::LocalSet) around it. When
    /// the future ends or is dropped, all flows end with it.
    ///
    /// # Errors
    /// [`GatewayError::Link`] when the link fails otherwise than by closing.
    pub async fn run(self) -> Result<LinkCounters, GatewayError> {
        let buffer = self.switch.borrow().transmitter.link.receive_buffer();
        let mut driver = Driver {
            gateway: self,
            tasks: JoinSet::new(),
            buffer,
            sleep: Box::pin(tokio::time::sleep(std::time::Duration::ZERO)),
        };
        let end = poll_fn(|cx| driver.poll(cx)).await;
        end.map_err(|source| GatewayError::Link { source })?;
        let counters = driver.gateway.switch.borrow().transmitter.link.counters();
        Ok(counters)
    }
}

/// A gateway at work.
struct Driver {
    gateway: Gateway,
    tasks: JoinSet<()>,
    buffer: Box<[u8]>,
    sleep: Pin<Box<Sleep>>,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.gateway.shared.register(cx.waker());
        while let Poll::Ready(Some(ended)) = self.tasks.poll_join_next(cx) {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!("a flow's task panicked; its connection is reset");
            }
        }
        let mut switch = self.gateway.switch.borrow_mut();
        switch.set_now(instant(self.gateway.epoch, tokio::time::Instant::now()));
        if let Poll::Ready(Err(error)) = switch.transmitter.link.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        // What the consumers wrote and made room for goes out first; they have their turn between reading and that, so
        // that one frame says as much as possible.
        let mut again = switch.serve_flows();
        if !switch.transmitter.link.is_clear() {
            match switch.transmitter.link.poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => again = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        switch.wake_waiting();
        let mut bytes = 0;
        for _ in 0..READ_BATCH {
            if bytes >= READ_BATCH_BYTES {
                break;
            }
            match switch.transmitter.link.poll_receive(cx, &mut self.buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(message))) => {
                    again = true;
                    bytes += message.len();
                    switch.message(&self.buffer[message]);
                }
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        let starts = switch.take_starts();
        let deadline = switch.next_deadline();
        drop(switch);
        for start in starts {
            self.start(start);
        }
        again |= self.poll_sleep(cx, deadline);
        if again {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Arranges to be woken at `deadline`; says whether it has passed.
    fn poll_sleep(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> bool {
        let Some(deadline) = deadline else {
            return false;
        };
        let since = deadline.total_micros().saturating_sub(EPOCH_MICROS).max(0);
        let deadline = self.gateway.epoch
            + std::time::Duration::from_micros(u64::try_from(since).unwrap_or_default());
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(cx).is_ready()
    }

    fn start(&mut self, start: Start) {
        let switch = Rc::clone(&self.gateway.switch);
        match start {
            Start::Open(ticket, request) => {
                let handler = Rc::clone(&self.gateway.handler);
                let guard = OpenGuard::new(switch, ticket);
                let task = self.tasks.spawn_local(open(guard, handler, request));
                self.gateway.switch.borrow_mut().dialling(ticket, task);
            }
            Start::Question {
                server,
                guest_port,
                query,
            } => {
                let guard = QuestionGuard {
                    switch,
                    server,
                    guest_port,
                    answer: None,
                };
                let dns = Rc::clone(&self.gateway.dns);
                self.tasks.spawn_local(async move {
                    let mut guard = guard;
                    guard.answer = dns.answer_datagram(&query).await;
                });
            }
            Start::Datagrams(flow, opening) => {
                let guest = GuestDatagrams::new(switch, flow);
                self.tasks.spawn_local(async move {
                    match opening.await {
                        Ok(opened) => opened.serve(guest).await,
                        Err(refusal) => guest.refuse(refusal),
                    }
                });
            }
            Start::DnsStream(stream) => {
                let guard = DnsStreamGuard { switch };
                let dns = Rc::clone(&self.gateway.dns);
                self.tasks.spawn_local(async move {
                    let _guard = guard;
                    dns.serve(stream).await;
                });
            }
        }
    }
}

async fn open(mut guard: OpenGuard, handler: Rc<dyn FlowHandler>, request: FlowRequest) {
    match handler.open(request).await {
        Ok(opened) => {
            if let Some(stream) = guard.accept() {
                opened.serve(stream).await;
            }
        }
        Err(refusal) => guard.refuse(refusal),
    }
}

/// Settles a half-open connection exactly once, also when its task panics.
struct OpenGuard {
    switch: Rc<RefCell<Switch>>,
    ticket: Option<Ticket>,
}

impl OpenGuard {
    fn new(switch: Rc<RefCell<Switch>>, ticket: Ticket) -> Self {
        Self {
            switch,
            ticket: Some(ticket),
        }
    }

    fn accept(&mut self) -> Option<crate::stream::GuestStream> {
        self.switch.borrow_mut().accept(self.ticket.take()?)
    }

    fn refuse(&mut self, refusal: FlowRefusal) {
        if let Some(ticket) = self.ticket.take() {
            self.switch.borrow_mut().refuse(ticket, refusal);
        }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.refuse(FlowRefusal::Refused);
    }
}

/// Ends a DNS question exactly once, answered or not.
struct QuestionGuard {
    switch: Rc<RefCell<Switch>>,
    server: IpAddr,
    guest_port: u16,
    answer: Option<Vec<u8>>,
}

impl Drop for QuestionGuard {
    fn drop(&mut self) {
        let answer = self.answer.take();
        self.switch
            .borrow_mut()
            .answered(self.server, self.guest_port, answer);
    }
}

/// Gives back the place of a DNS connection.
struct DnsStreamGuard {
    switch: Rc<RefCell<Switch>>,
}

impl Drop for DnsStreamGuard {
    fn drop(&mut self) {
        self.switch.borrow_mut().dns_stream_ended();
    }
}

/// The stack's clock: it starts above zero, which smoltcp uses for "never".
fn instant(epoch: tokio::time::Instant, now: tokio::time::Instant) -> Instant {
    let micros = i64::try_from(now.duration_since(epoch).as_micros()).unwrap_or(i64::MAX / 2);
    Instant::from_micros(EPOCH_MICROS + micros)
}

const EPOCH_MICROS: i64 = 1_000_000_000;

/// Smallest MTU IPv6 allows (RFC 8200 §5).
const MIN_MTU: u16 = 1_280;
