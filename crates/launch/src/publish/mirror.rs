//! Auto-publish: what the guest listens at appears on 127.0.0.1 of the host, while it does.
//!
//! The guest names ports; it cannot choose the address, get more than [`MAX_MIRRORED`] or a port below 1024, or take one
//! that is in use: it gets another free one, which is told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use agent_vm_protocol::PortProtocol;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::mux::Mux;
use super::{News, PublishEvent, bytes};

/// Most ports mirrored at a time.
pub const MAX_MIRRORED: usize = 64;

/// Ports told, and remembered with their place on the host, in one launch at most.
const MAX_TOLD: usize = 256;

/// Time between two changes: a guest cannot keep the launcher busy with ports that come and go.
const SETTLE: Duration = Duration::from_millis(50);

/// The first port that needs no privilege.
const FIRST_FREE: u16 = 1024;

/// Follows the guest's listeners.
pub(super) struct Mirror {
    mux: Rc<Mux>,
    /// Ports of the guest that are not mirrored.
    except: BTreeSet<u16>,
    news: News,
    /// Each accepts on a task of its own, ended when it is dropped.
    open: BTreeMap<u16, JoinSet<()>>,
    /// Where a port of the guest was told to be; it comes back there if it can.
    told: BTreeMap<u16, u16>,
    too_many_told: bool,
}

impl Mirror {
    pub(super) fn new(mux: Rc<Mux>, except: BTreeSet<u16>, news: News) -> Self {
        Self {
            mux,
            except,
            news,
            open: BTreeMap::new(),
            told: BTreeMap::new(),
            too_many_told: false,
        }
    }

    /// For ever.
    pub(super) async fn follow(mut self) {
        let mut listening = self.mux.listening();
        loop {
            let ports = listening.borrow_and_update().clone();
            self.become_like(&ports).await;
            tokio::time::sleep(SETTLE).await;
            if listening.changed().await.is_err() {
                return;
            }
        }
    }

    async fn become_like(&mut self, ports: &[u16]) {
        self.open
            .retain(|port, _| ports.binary_search(port).is_ok());
        for port in ports {
            if self.open.contains_key(port) || self.except.contains(port) {
                continue;
            }
            if self.open.len() >= MAX_MIRRORED {
                if !self.too_many_told {
                    self.too_many_told = true;
                    let guest_port = *port;
                    self.news.tell(PublishEvent::TooMany { guest_port });
                }
                return;
            }
            self.publish(*port).await;
        }
    }

    async fn publish(&mut self, guest_port: u16) {
        let before = self.told.get(&guest_port).copied();
        let same = Some(guest_port).filter(|port| *port >= FIRST_FREE);
        let mut bound = None;
        for port in [same, before, Some(0)].into_iter().flatten() {
            bound = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                Ok(listener) => listener.local_addr().ok().map(|at| (listener, at)),
                Err(_) => None,
            };
            if bound.is_some() {
                break;
            }
        }
        let Some((listener, at)) = bound else {
            self.tell(guest_port, 0, PublishEvent::Unbound { guest_port });
            return;
        };
        self.tell_open(guest_port, at);
        let mut accepting = JoinSet::new();
        accepting.spawn_local(bytes::accept(listener, Rc::clone(&self.mux), guest_port));
        self.open.insert(guest_port, accepting);
    }

    fn tell_open(&mut self, guest_port: u16, at: SocketAddr) {
        let protocol = PortProtocol::Tcp;
        let event = PublishEvent::Open {
            guest_port,
            protocol,
            at,
        };
        self.tell(guest_port, at.port(), event);
    }

    /// Tells each thing once, and no more than [`MAX_TOLD`].
    fn tell(&mut self, guest_port: u16, host_port: u16, event: PublishEvent) {
        let known = self.told.contains_key(&guest_port);
        if known || self.told.len() < MAX_TOLD {
            let news = self.told.insert(guest_port, host_port) != Some(host_port);
            if news {
                self.news.tell(event);
            }
        }
    }
}
