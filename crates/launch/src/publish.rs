//! Published ports: listeners of the launcher whose connections end at servers in the guest.
//!
//! ```text
//! client ──► listener on the host ──► Mux ══ one frame stream, vsock 1025 ══ forwarder in PID 1 ──► 127.0.0.1, ::1, eth0
//! ```
//!
//! Ports the user named are bound before the machine starts ([`bind`]), so a port in use is told at once. Mirrored ports
//! ([`mirror`]) come and go with the guest's listeners, on 127.0.0.1 of the host only, at most [`MAX_MIRRORED`].
//! The guest opens nothing by itself: it tells ports, the launcher decides. Connections of one port never wait for those of
//! another, except for the frame stream they share, where each has a window of its own.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use agent_vm_protocol::{Forwarding, PortProtocol};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

mod bind;
mod bytes;
mod datagrams;
mod mirror;
mod mux;
mod settings;

pub use bind::BindError;
pub(crate) use bind::{BoundPorts, bind};
pub use mirror::MAX_MIRRORED;
pub use settings::{AutoPublish, PublishSettings, PublishedPort};

use crate::keys::KeyAgents;
use bind::Bound;
use mirror::Mirror;
pub(crate) use mux::Flow;
use mux::Mux;

/// News that may wait for the observer; more are lost.
const MAX_NEWS: usize = 256;

/// Something about published ports that a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishEvent {
    /// A port can be connected to.
    Open {
        /// Port of the guest.
        guest_port: u16,
        /// What it speaks.
        protocol: PortProtocol,
        /// Where it is on the host.
        at: SocketAddr,
    },
    /// The guest listens at more ports than are mirrored; told once.
    TooMany {
        /// The first that is not.
        guest_port: u16,
    },
    /// This host gives no port for it.
    Unbound {
        /// Port of the guest.
        guest_port: u16,
    },
    /// The guest's forwarder is gone or does not keep to the protocol: nothing is published any more.
    Lost,
}

/// What a launch publishes, before its guest runs.
pub(crate) struct ToPublish {
    pub(crate) ports: BoundPorts,
    pub(crate) settings: PublishSettings,
    /// What streams of the guest may ask for.
    pub(crate) agents: KeyAgents,
    pub(crate) stream: UnixStream,
}

/// Serves published ports until it is dropped.
pub(crate) struct Publishing {
    mux: Rc<Mux>,
    _services: JoinSet<()>,
}

/// Tells what happens to published ports.
#[derive(Clone)]
pub(crate) struct News(mpsc::Sender<PublishEvent>);

impl News {
    fn tell(&self, event: PublishEvent) {
        // More news than anybody reads.
        let _ = self.0.try_send(event);
    }
}

/// What the guest is to do for these settings.
pub(crate) fn forwarding(settings: &PublishSettings, agents: &KeyAgents) -> Forwarding {
    match (
        &settings.auto,
        settings.ports.is_empty() && agents.is_empty(),
    ) {
        (Some(_), _) => Forwarding::ConnectAndReport,
        (None, false) => Forwarding::Connect,
        (None, true) => Forwarding::Off,
    }
}

impl Publishing {
    /// Begins to accept. Needs a `LocalSet`.
    ///
    /// # Errors
    /// When the event loop does not take a socket.
    pub(crate) fn start(
        publish: ToPublish,
    ) -> std::io::Result<(Self, mpsc::Receiver<PublishEvent>)> {
        let (sender, receiver) = mpsc::channel(MAX_NEWS);
        let news = News(sender);
        let mux = Rc::new(Mux::serving(publish.agents));
        let mut services = JoinSet::new();
        let (reader, writer) = publish.stream.into_split();
        let (reading, told) = (Rc::clone(&mux), news.clone());
        services.spawn_local(async move {
            let error = reading.read(reader).await;
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "published ports are gone"
            );
            reading.close();
            told.tell(PublishEvent::Lost);
        });
        let writing = Rc::clone(&mux);
        services.spawn_local(async move { writing.write(writer).await });
        for port in publish.ports.into_inner() {
            news.tell(PublishEvent::Open {
                guest_port: port.asked.guest_port,
                protocol: port.asked.protocol,
                at: port.at,
            });
            let (mux, guest_port) = (Rc::clone(&mux), port.asked.guest_port);
            match port.socket {
                Bound::Tcp(listener) => {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    services.spawn_local(bytes::accept(listener, mux, guest_port));
                }
                Bound::Udp(socket) => {
                    let socket = tokio::net::UdpSocket::from_std(socket)?;
                    services.spawn_local(datagrams::serve(socket, mux, guest_port));
                }
            }
        }
        if let Some(auto) = publish.settings.auto {
            let asked = publish.settings.ports.iter();
            let asked = asked.filter(|port| port.protocol == PortProtocol::Tcp);
            let except = asked.map(|port| port.guest_port).chain(auto.except);
            let mirror = Mirror::new(Rc::clone(&mux), except.collect(), news);
            services.spawn_local(mirror.follow());
        }
        let this = Self {
            mux,
            _services: services,
        };
        Ok((this, receiver))
    }
}

#[cfg(test)]
impl Publishing {
    /// How many streams there are.
    pub(crate) fn open_flows(&self) -> usize {
        self.mux.open_flows()
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.mux.close();
        self.mux.connections.end();
    }
}

/// The connections of all ports, ended with the one who holds them.
#[derive(Debug, Default)]
struct Connections(RefCell<JoinSet<()>>);

impl Connections {
    fn spawn(&self, connection: impl Future<Output = ()> + 'static) {
        let mut all = self.0.borrow_mut();
        while all.try_join_next().is_some() {}
        all.spawn_local(connection);
    }

    fn end(&self) {
        self.0.borrow_mut().abort_all();
    }
}

#[cfg(test)]
mod tests;
