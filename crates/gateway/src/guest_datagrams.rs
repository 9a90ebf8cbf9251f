//! The datagrams of one flow, for whoever carries them on, and the way they are carried to a socket of the host.
//!
//! The socket is connected, so the kernel hands up only what the asked peer sends. A flow without an answer lives
//! [`DATAGRAM_UNANSWERED`] after its last datagram, one with answers [`DATAGRAM_IDLE`] (RFC 4787 §4.3 wants two minutes
//! at least). What the network says of the far end (refused, unreachable) the guest is told by ICMP.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, Sleep};

use crate::config::{DATAGRAM_IDLE, DATAGRAM_UNANSWERED};
use crate::datagram_flow::DatagramFlow;
use crate::handler::{DatagramKind, FlowRefusal};
use crate::relay::Relayed;
use crate::reply::Unreachable;
use crate::switch::Switch;

/// The guest's end of a flow of datagrams. Dropping it ends the flow.
pub struct GuestDatagrams {
    switch: Rc<RefCell<Switch>>,
    flow: Rc<DatagramFlow>,
}

impl GuestDatagrams {
    pub(crate) fn new(switch: Rc<RefCell<Switch>>, flow: Rc<DatagramFlow>) -> Self {
        Self { switch, flow }
    }

    /// The address and port the guest sends to.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.flow.key.ends.remote
    }

    /// What the datagrams are.
    #[must_use]
    pub fn kind(&self) -> DatagramKind {
        self.flow.key.kind
    }

    /// The guest's next datagram; of an echo flow the ICMP message.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Vec<u8>> {
        self.flow.poll_pop(cx)
    }

    /// Sends a datagram that `fill` writes and whose length it gives, once the link takes one. Of an echo flow it is an
    /// ICMP message; whatever is no echo reply is dropped, and the guest's identifier is put in.
    ///
    /// # Errors
    /// What `fill` fails with.
    pub fn poll_send_with(
        &mut self,
        cx: &mut Context<'_>,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let mut switch = self.switch.borrow_mut();
        ready!(switch.poll_clear(cx));
        Poll::Ready(switch.send_datagram(&self.flow.key, fill))
    }

    pub(crate) fn refuse(&self, refusal: FlowRefusal) {
        let why = match (refusal, self.kind()) {
            (FlowRefusal::TimedOut, _) => return,
            (FlowRefusal::Unreachable, _) => Unreachable::Host,
            (FlowRefusal::Denied, DatagramKind::Echo) => Unreachable::Prohibited,
            (FlowRefusal::Refused | FlowRefusal::Denied, _) => Unreachable::Port,
        };
        self.tell(why);
    }

    /// Tells the guest what the network says of the far end.
    fn tell(&self, why: Unreachable) {
        self.switch
            .borrow_mut()
            .tell_unreachable(&self.flow.key, why);
    }
}

impl Drop for GuestDatagrams {
    fn drop(&mut self) {
        self.switch.borrow_mut().datagrams_ended(&self.flow.key);
    }
}

impl fmt::Debug for GuestDatagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GuestDatagrams")
            .field(&self.flow.key)
            .finish()
    }
}

/// Carries datagrams both ways until none has come for a while. `upstream` is connected to where they go; for
/// [`DatagramKind::Echo`] it is an ICMP datagram socket.
pub async fn relay_datagrams(guest: GuestDatagrams, upstream: UdpSocket, relayed: &Relayed) {
    let upstream = Rc::new(upstream);
    let mut relay = DatagramRelay {
        guest,
        error: Box::pin(next_error(Rc::clone(&upstream))),
        upstream,
        last: Instant::now(),
        answered: false,
        sleep: Box::pin(tokio::time::sleep(DATAGRAM_UNANSWERED)),
    };
    poll_fn(|cx| relay.poll(cx, relayed)).await;
}

struct DatagramRelay {
    guest: GuestDatagrams,
    upstream: Rc<UdpSocket>,
    error: Pin<Box<dyn Future<Output = io::Error>>>,
    last: Instant,
    answered: bool,
    sleep: Pin<Box<Sleep>>,
}

impl DatagramRelay {
    fn poll(&mut self, cx: &mut Context<'_>, relayed: &Relayed) -> Poll<()> {
        if let Poll::Ready(error) = self.error.as_mut().poll(cx) {
            self.told(&error);
            self.error = Box::pin(next_error(Rc::clone(&self.upstream)));
            cx.waker().wake_by_ref();
        }
        let up = self.poll_up(cx, relayed);
        let down = self.poll_down(cx, relayed);
        if up.is_ready() || down.is_ready() {
            // Others have their turn first.
            cx.waker().wake_by_ref();
        }
        self.poll_idle(cx)
    }

    /// Ready when there may be more.
    fn poll_up(&mut self, cx: &mut Context<'_>, relayed: &Relayed) -> Poll<()> {
        for _ in 0..DATAGRAMS_PER_TURN {
            if ready!(self.upstream.poll_send_ready(cx)).is_err() {
                return Poll::Pending;
            }
            let payload = ready!(self.guest.poll_receive(cx));
            self.last = Instant::now();
            match self.upstream.try_send(&payload) {
                Ok(sent) => relayed.up.set(relayed.up.get() + sent as u64),
                Err(error) => self.told(&error),
            }
        }
        Poll::Ready(())
    }

    /// Ready when there may be more.
    fn poll_down(&mut self, cx: &mut Context<'_>, relayed: &Relayed) -> Poll<()> {
        for _ in 0..DATAGRAMS_PER_TURN {
            if ready!(self.upstream.poll_recv_ready(cx)).is_err() {
                return Poll::Pending;
            }
            let upstream = &self.upstream;
            match ready!(
                self.guest
                    .poll_send_with(cx, |room| upstream.try_recv(room))
            ) {
                Ok(received) => {
                    (self.answered, self.last) = (true, Instant::now());
                    relayed.down.set(relayed.down.get() + received as u64);
                }
                Err(error) => self.told(&error),
            }
        }
        Poll::Ready(())
    }

    /// What the socket says of earlier datagrams. Whatever it is, the next one may arrive.
    fn told(&self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => self.guest.tell(Unreachable::Port),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                self.guest.tell(Unreachable::Host);
            }
            io::ErrorKind::PermissionDenied => self.guest.tell(Unreachable::Prohibited),
            _ => {}
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let limit = if self.answered {
                DATAGRAM_IDLE
            } else {
                DATAGRAM_UNANSWERED
            };
            let end = self.last + limit;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(end);
        }
    }
}

/// What the network says of a datagram that was sent. It makes a socket neither readable nor writable.
async fn next_error(socket: Rc<UdpSocket>) -> io::Error {
    loop {
        if let Err(error) = socket.ready(Interest::ERROR).await {
            return error;
        }
        // Before the error is taken, so that one in between is not missed.
        let blocked = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _cleared = socket.try_io(Interest::ERROR, blocked);
        if let Ok(Some(error)) = socket.take_error() {
            return error;
        }
    }
}

/// Datagrams in one direction before others have their turn.
const DATAGRAMS_PER_TURN: usize = 64;
