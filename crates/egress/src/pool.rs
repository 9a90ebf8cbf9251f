//! HTTP/2 connections to upstreams that several connections of the guest share, so that a program which opens a
//! connection for each request does not make one upstream each time.
//!
//! A connection is found only under the very name its certificate was verified for, and the very way it was dialled:
//! each flow was judged for its own name and address before it looks here. One that carries much, or that nobody has
//! used for a while, is not shared further; answers that a guest leaves unread fill its window. HTTP/1.1 connections are
//! never shared: a client expects the first request of a new connection to be answered, which an old one cannot promise.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use agent_vm_policy::HostName;
use hyper::client::conn::http2;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::dial::Route;

/// The most connections that are kept for sharing.
const MAX_CONNECTIONS: usize = 32;
/// How many of the guest's connections and requests one connection may carry when it is shared once more.
const MAX_LOAD: usize = 32;
/// How long a connection that nobody uses is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What may share a connection: the verified name, the address that was dialled, the proxy in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    host: HostName,
    address: SocketAddr,
    proxy: Option<String>,
}

impl Key {
    /// `None` for ways that are never shared.
    pub(crate) fn new(host: &HostName, route: &Route) -> Option<Self> {
        let address = match route {
            Route::Direct(address) => *address,
            Route::Tunnel(_, to) => to.address,
            Route::HostService(_) | Route::Forward(..) => return None,
        };
        Some(Self {
            host: host.clone(),
            address,
            proxy: route.proxy().map(ToString::to_string),
        })
    }
}

/// A connection; it ends when nobody holds it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) sender: http2::SendRequest<RequestBody>,
    driver: Rc<Driver>,
}

struct Driver {
    task: JoinHandle<()>,
    used: Cell<Instant>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// `driver` carries the bytes of `sender`'s requests.
    pub(crate) fn new(sender: http2::SendRequest<RequestBody>, driver: JoinHandle<()>) -> Self {
        Self {
            sender,
            driver: Rc::new(Driver {
                task: driver,
                used: Cell::new(Instant::now()),
            }),
        }
    }

    /// Whether requests can no longer be sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.driver.task.is_finished()
    }

    /// Those that hold it beside the pool.
    fn load(&self) -> usize {
        Rc::strong_count(&self.driver) - 1
    }

    fn is_stale(&self) -> bool {
        self.is_closed() || (self.load() == 0 && self.driver.used.get().elapsed() >= IDLE_TIMEOUT)
    }
}

/// The shared connections of one VM.
#[derive(Default)]
pub(crate) struct Pool {
    connections: RefCell<Vec<(Key, Connection)>>,
    sweeping: Cell<bool>,
}

impl Pool {
    /// A connection that can carry more.
    pub(crate) fn find(&self, key: &Key) -> Option<Connection> {
        let connections = self.connections.borrow();
        let usable = connections.iter().find(|(known, connection)| {
            known == key && !connection.is_stale() && connection.load() < MAX_LOAD
        });
        usable.map(|(_, connection)| {
            connection.driver.used.set(Instant::now());
            connection.clone()
        })
    }

    /// Whether there is one.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.find(key).is_some()
    }

    /// Lets others share a connection, unless there is one for them already.
    pub(crate) fn share(self: &Rc<Self>, key: Key, connection: &Connection) {
        if self.has(&key) {
            return;
        }
        let mut connections = self.connections.borrow_mut();
        connections.retain(|(_, connection)| !connection.is_stale());
        if connections.len() >= MAX_CONNECTIONS {
            let unused = connections.iter().position(|(_, known)| known.load() == 0);
            connections.remove(unused.unwrap_or(0));
        }
        connections.push((key, connection.clone()));
        if !self.sweeping.replace(true) {
            drop(spawn_local(sweep(Rc::downgrade(self))));
        }
    }
}

/// Ends unused connections, until there are none or the VM's egress is gone.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_TIMEOUT).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut connections = pool.connections.borrow_mut();
        connections.retain(|(_, connection)| !connection.is_stale());
        if connections.is_empty() {
            pool.sweeping.set(false);
            return;
        }
    }
}
