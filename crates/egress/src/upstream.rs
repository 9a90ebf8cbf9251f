//! Connections to the upstream of one intercepted connection: TLS with the real roots, then HTTP/1.1 or HTTP/2.
//!
//! The connection that was dialled when the flow was opened is used first, unless the VM has one that can be shared
//! (`pool.rs`). HTTP/2 carries all requests on one connection; HTTP/1.1 one at a time, and a [`Lease`] gives the
//! connection back when the answer has ended. When an HTTP/1.1 upstream closes, the guest is told by closing its side in
//! the same way; a request that was not sent yet goes over a new connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_vm_policy::HostName;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio_rustls::TlsConnector;

use crate::body::RequestBody;
use crate::dial::{Route, dial};
use crate::leaf_cache::Offer;
use crate::local_executor::LocalExecutor;
use crate::pool::{Connection, Key, Pool};
use crate::proxy::ProxyServer;
use crate::read_ahead::ReadAhead;
use crate::request_head::MAX_HEAD_BYTES;

mod error;
mod lease;

pub(crate) use error::UpstreamError;
pub(crate) use lease::{Lease, NotSent, Wanted};

/// How long the TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// HTTP/2 window of one stream: what a slow guest may leave waiting here.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// HTTP/2 window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// How often an HTTP/2 connection is asked whether it still stands, and how long the answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// The largest answer head in bytes.
const MAX_HEAD_LIST_BYTES: u32 = 256 * 1024;

/// The way to one upstream, for one connection of the guest.
pub(crate) struct Upstream {
    route: Route,
    security: Security,
    pool: Rc<Pool>,
    /// What is offered in the TLS handshake: what the guest offered.
    offer: Cell<Offer>,
    idle: RefCell<Option<Sender>>,
    drivers: RefCell<Vec<JoinHandle<()>>>,
    closed: Rc<Notify>,
    /// Whether a request was answered.
    answered: Cell<bool>,
}

/// How the upstream connection is protected.
pub(crate) enum Security {
    /// TLS to this host, verified.
    Tls {
        host: HostName,
        config: Arc<ClientConfig>,
    },
    /// None; no secret goes this way.
    Plain,
    /// Nothing can be verified, so nothing is sent.
    Unusable,
}

/// What requests are sent with.
pub(crate) enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(Connection),
}

impl Upstream {
    pub(crate) fn new(route: Route, security: Security, offer: Offer, pool: Rc<Pool>) -> Self {
        Self {
            route,
            security,
            pool,
            offer: Cell::new(offer),
            idle: RefCell::default(),
            drivers: RefCell::default(),
            closed: Rc::default(),
            answered: Cell::new(false),
        }
    }

    /// Makes a shared connection, `stream` or a new one ready for the first request.
    pub(crate) async fn start(
        self: &Rc<Self>,
        stream: Option<TcpStream>,
    ) -> Result<(), UpstreamError> {
        let sender = match (self.shared(self.offer.get()), stream) {
            (Some(shared), _) => Sender::Http2(shared),
            (None, Some(stream)) => self.handshake(stream, self.offer.get()).await?,
            (None, None) => self.dial(self.offer.get()).await?,
        };
        let spoken = match sender {
            Sender::Http1(_) => Offer::Http1,
            Sender::Http2(_) => Offer::Http2,
        };
        self.offer.set(spoken);
        *self.idle.borrow_mut() = Some(sender);
        Ok(())
    }

    /// A connection of the VM's that another one of the guest's opened.
    fn shared(&self, offer: Offer) -> Option<Connection> {
        match offer {
            Offer::Http1 => None,
            Offer::Http2 => self.pool.find(&self.key()?),
        }
    }

    fn key(&self) -> Option<Key> {
        match &self.security {
            Security::Tls { host, .. } => Key::new(host, &self.route),
            Security::Plain | Security::Unusable => None,
        }
    }

    async fn dial(self: &Rc<Self>, offer: Offer) -> Result<Sender, UpstreamError> {
        let stream = dial(&self.route)
            .await
            .map_err(|source| UpstreamError::Dial { source })?;
        self.handshake(stream, offer).await
    }

    /// The proxy that whole requests are sent to.
    pub(crate) fn forwarder(&self) -> Option<&ProxyServer> {
        self.route.forwarder()
    }

    /// What the upstream speaks, or is expected to.
    pub(crate) fn spoken(&self) -> Offer {
        self.offer.get()
    }

    /// Resolves when a connection has ended.
    pub(crate) async fn closed(&self) {
        self.closed.notified().await;
    }

    /// A sender that is ready.
    pub(crate) async fn lease(self: &Rc<Self>, wanted: Wanted) -> Result<Lease, UpstreamError> {
        if let Some(sender) = self.take_idle(wanted).await {
            let reused = self.answered.get();
            return Ok(Lease {
                upstream: Rc::clone(self),
                sender: Some(sender),
                reused,
            });
        }
        let offer = match wanted {
            Wanted::Any => self.offer.get(),
            Wanted::Http1 => Offer::Http1,
        };
        let sender = match self.shared(offer) {
            Some(shared) => Sender::Http2(shared),
            None => self.dial(offer).await?,
        };
        Ok(Lease {
            upstream: Rc::clone(self),
            sender: Some(sender),
            reused: false,
        })
    }

    async fn take_idle(&self, wanted: Wanted) -> Option<Sender> {
        let shared = match &*self.idle.borrow() {
            Some(Sender::Http2(_)) if wanted == Wanted::Http1 => return None,
            Some(Sender::Http2(shared)) => Some(Sender::Http2(shared.clone())),
            Some(Sender::Http1(_)) | None => None,
        };
        let mut sender = shared.or_else(|| self.idle.borrow_mut().take())?;
        let ready = match &mut sender {
            Sender::Http1(sender) => sender.ready().await,
            Sender::Http2(shared) => shared.sender.ready().await,
        };
        if ready.is_ok() {
            return Some(sender);
        }
        self.idle.borrow_mut().take_if(|idle| idle.is_closed());
        None
    }

    async fn handshake(
        self: &Rc<Self>,
        stream: TcpStream,
        offer: Offer,
    ) -> Result<Sender, UpstreamError> {
        let connect = async {
            match &self.security {
                Security::Unusable => Err(UpstreamError::Unusable),
                Security::Plain => self.speak_http1(stream).await,
                Security::Tls { host, config } => {
                    let stream = tls_connect(host, config, offer, stream).await?;
                    let spoken = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    if spoken && offer == Offer::Http2 {
                        self.speak_http2(stream).await
                    } else {
                        self.speak_http1(stream).await
                    }
                }
            }
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, connect).await {
            Ok(connected) => connected,
            Err(_elapsed) => Err(UpstreamError::TimedOut),
        }
    }

    async fn speak_http1<T>(&self, stream: T) -> Result<Sender, UpstreamError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| UpstreamError::Http { source })?;
        self.drive(connection.with_upgrades());
        Ok(Sender::Http1(sender))
    }

    async fn speak_http2<T>(&self, stream: T) -> Result<Sender, UpstreamError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(MAX_HEAD_LIST_BYTES)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| UpstreamError::Http { source })?;
        let driver = spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection broke");
            }
        });
        let connection = Connection::new(sender, driver);
        if let Some(key) = self.key() {
            self.pool.share(key, &connection);
        }
        Ok(Sender::Http2(connection))
    }

    /// Runs an HTTP/1.1 connection until it ends or this upstream is dropped.
    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + 'static) {
        let closed = Rc::clone(&self.closed);
        let driver = spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection broke");
            }
            closed.notify_one();
        });
        let mut drivers = self.drivers.borrow_mut();
        drivers.retain(|driver| !driver.is_finished());
        drivers.push(driver);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        for driver in self.drivers.get_mut() {
            driver.abort();
        }
    }
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(shared) => shared.is_closed(),
        }
    }
}

async fn tls_connect(
    host: &HostName,
    config: &Arc<ClientConfig>,
    offer: Offer,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<ReadAhead<TcpStream>>, UpstreamError> {
    let name = ServerName::try_from(host.as_str().to_owned())
        .map_err(|_| UpstreamError::Name { host: host.clone() })?;
    TlsConnector::from(Arc::clone(config))
        .with_alpn(offer.alpn())
        .connect(name, ReadAhead::new(stream))
        .await
        .map_err(|source| UpstreamError::from_tls(host, source))
}
