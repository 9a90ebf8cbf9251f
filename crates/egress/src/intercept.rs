//! An intercepted connection: TLS toward the guest with a leaf of the VM's authority, HTTP, and the end of it.
//!
//! The upstream is spoken to first, so that the guest is offered exactly the protocol the upstream chose and nothing
//! has to be translated. When the upstream cannot be used, the guest's handshake still succeeds and its request is
//! answered with the reason.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use agent_vm_policy::{DenyReason, HostName, Transport};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::audit::Kind;
use crate::client_hello::ClientHello;
use crate::dial::Route;
use crate::egress::{FlowEnd, Shared};
use crate::exchange::{Exchange, Tunnel};
use crate::leaf_cache::Offer;
use crate::local_executor::LocalExecutor;
use crate::record::{Place, Record};
use crate::request_head::MAX_HEAD_BYTES;
use crate::splice::{Duplex, Early, SpliceEnd, splice};
use crate::upstream::{Security, Upstream};
use crate::usage::Tapped;

/// How long the guest may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the guest may leave a connection without a whole request head.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the guest may take to acknowledge the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// The most requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// HTTP/2 window of one stream toward the guest.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// HTTP/2 window of the guest's connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// A flow that is about to be intercepted.
pub(crate) struct Intercepted {
    pub(crate) shared: Rc<Shared>,
    pub(crate) place: Place,
    /// How a further connection would be made.
    pub(crate) route: Route,
    /// The connection that was opened for the flow, unless one is shared.
    pub(crate) stream: Option<TcpStream>,
}

impl Intercepted {
    /// Serves TLS for `host`.
    pub(crate) async fn serve_tls(
        self,
        guest: impl Duplex + 'static,
        host: HostName,
        hello: &ClientHello,
    ) -> FlowEnd {
        let offer = if hello.offers_h2 {
            Offer::Http2
        } else {
            Offer::Http1
        };
        let shared = Rc::clone(&self.shared);
        let mut place = self.place.clone();
        place.host = Some(host.clone());
        let exchange = self.connect(&host, offer).await;
        let offer = if exchange.failure.borrow().is_some() {
            offer
        } else {
            exchange.upstream.spoken()
        };
        let accepted = accept_tls(&shared, guest, &host, offer).await;
        let stream = match accepted {
            Ok(stream) => stream,
            Err(reason) => {
                Record::begin(&shared, Kind::Connect, place).failed(reason);
                return FlowEnd::Reset;
            }
        };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            serve_http2(stream, exchange).await
        } else {
            serve_http1(stream, exchange).await
        }
    }

    /// Serves HTTP/1.1 without TLS, where no placeholder is ever exchanged.
    pub(crate) async fn serve_plain(
        self,
        guest: impl Duplex + 'static,
        hosts: Vec<HostName>,
    ) -> FlowEnd {
        let pool = Rc::clone(&self.shared.pool);
        let upstream = Upstream::new(self.route, Security::Plain, Offer::Http1, pool);
        let upstream = Rc::new(upstream);
        let failure = upstream.start(self.stream).await.err();
        let exchange = Exchange {
            shared: self.shared,
            place: self.place,
            hosts,
            transport: Transport::Plain,
            upstream,
            failure: RefCell::new(failure),
            tunnel: RefCell::default(),
        };
        serve_http1(guest, Rc::new(exchange)).await
    }

    async fn connect(self, host: &HostName, offer: Offer) -> Rc<Exchange> {
        let (security, failure) = match self.shared.client_config().await {
            Ok(config) => (
                Security::Tls {
                    host: host.clone(),
                    config,
                },
                None,
            ),
            Err(error) => (Security::Unusable, Some(error)),
        };
        let route = self.route.meant_for(host);
        let pool = Rc::clone(&self.shared.pool);
        let upstream = Rc::new(Upstream::new(route, security, offer, pool));
        let failure = match failure {
            None => upstream.start(self.stream).await.err(),
            failure => failure,
        };
        let mut place = self.place;
        place.host = Some(host.clone());
        Rc::new(Exchange {
            shared: self.shared,
            place,
            hosts: vec![host.clone()],
            transport: Transport::Tls,
            upstream,
            failure: RefCell::new(failure),
            tunnel: RefCell::default(),
        })
    }
}

async fn accept_tls<S: Duplex>(
    shared: &Shared,
    guest: S,
    host: &HostName,
    offer: Offer,
) -> Result<TlsStream<S>, DenyReason> {
    let config = shared.server_config(host, offer).map_err(|error| {
        tracing::error!(%error, %host, "no certificate for an intercepted host");
        DenyReason::GuestTls
    })?;
    let accept = TlsAcceptor::from(config).accept(guest);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, accept).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, %host, "the guest broke off the TLS handshake");
            Err(DenyReason::GuestTls)
        }
        Err(_elapsed) => Err(DenyReason::GuestTls),
    }
}

async fn serve_http1(guest: impl Duplex + 'static, exchange: Rc<Exchange>) -> FlowEnd {
    let upstream = Rc::clone(&exchange.upstream);
    let served = Rc::clone(&exchange);
    let service = service_fn(move |request| Box::pin(Rc::clone(&served).answer(request)));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_header_size(MAX_HEAD_BYTES)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(guest), service);
    let mut closing = false;
    let served = loop {
        tokio::select! {
            served = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break served,
            () = upstream.closed(), if !closing => {
                closing = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let parts = connection.into_parts();
    let mut guest = parts.io.into_inner();
    let tunnel = exchange.tunnel.borrow_mut().take();
    match (served, tunnel) {
        (Ok(()), Some(tunnel)) => pass_on(guest, parts.read_buf.to_vec(), tunnel).await,
        (Ok(()), None) => close(&mut guest).await,
        (Err(error), _) => {
            note_broken(&exchange, &error);
            if error.is_parse() || error.is_timeout() {
                close(&mut guest).await
            } else {
                FlowEnd::Reset
            }
        }
    }
}

async fn serve_http2(guest: impl Duplex + 'static, exchange: Rc<Exchange>) -> FlowEnd {
    let upstream = Rc::clone(&exchange.upstream);
    let served = Rc::clone(&exchange);
    let service = service_fn(move |request| Rc::clone(&served).answer(request));
    let mut connection = pin!(
        http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
            .auto_date_header(false)
            .serve_connection(TokioIo::new(guest), service)
    );
    let mut closing = false;
    let served = loop {
        tokio::select! {
            served = &mut connection => break served,
            () = upstream.closed(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    match served {
        Ok(()) => FlowEnd::Finished,
        Err(error) => {
            note_broken(&exchange, &error);
            FlowEnd::Reset
        }
    }
}

/// Records requests that could not even be read; other ends are no decision.
fn note_broken(exchange: &Exchange, error: &hyper::Error) {
    tracing::debug!(%error, "the guest's connection broke");
    if error.is_parse() || error.is_timeout() {
        let place = exchange.place.clone();
        Record::begin(&exchange.shared, Kind::Request, place).denied(DenyReason::RequestInvalid);
    }
}

/// Carries an upgraded connection: opaque from here on.
async fn pass_on(mut guest: impl Duplex, early: Vec<u8>, tunnel: Tunnel) -> FlowEnd {
    let Tunnel {
        upstream,
        record,
        tap,
    } = tunnel;
    let mut upstream = Tapped {
        stream: TokioIo::new(upstream),
        tap,
    };
    let early = Early {
        to_upstream: early,
        to_guest: Vec::new(),
    };
    match splice(&mut guest, &mut upstream, early, record.traffic(), None).await {
        SpliceEnd::Finished => FlowEnd::Finished,
        SpliceEnd::Broken | SpliceEnd::Placeholder => FlowEnd::Reset,
    }
}

async fn close(guest: &mut impl Duplex) -> FlowEnd {
    match tokio::time::timeout(SHUTDOWN_TIMEOUT, guest.shutdown()).await {
        Ok(Ok(())) => FlowEnd::Finished,
        Ok(Err(_)) | Err(_) => FlowEnd::Reset,
    }
}
