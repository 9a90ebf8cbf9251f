//! A fake upstream: a TLS (or plain) HTTP server with its own authority that remembers every request.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use crate::echo;
use crate::rig::{API, FREE, KEY_SECRET, LOGIN, OAUTH_SECRET, OTHER, OTHER_SECRET, TOKENS};

/// What arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) version: Version,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// The token that `/renewed` takes.
pub(crate) const NEWER_SECRET: &str = "sk-real-newer-token";

/// A running fake upstream.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
    pub(crate) seen: Rc<RefCell<Vec<Seen>>>,
    pub(crate) connections: Rc<RefCell<usize>>,
    /// Connections that have ended.
    pub(crate) ended: Rc<RefCell<usize>>,
    /// Ends all HTTP/2 connections.
    pub(crate) end_connections: Rc<Notify>,
    /// Bytes of `/endless` that were taken.
    pub(crate) taken: Rc<RefCell<usize>>,
    /// Requests to `/slow` that nobody waits for any more.
    pub(crate) abandoned: Rc<RefCell<usize>>,
    /// Lets a request to `/slow` go on, and the next event come.
    pub(crate) release: Rc<Notify>,
}

/// How it behaves.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) names: Vec<String>,
    pub(crate) alpn: Vec<&'static str>,
    pub(crate) tls: bool,
    pub(crate) expired: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        let names = [API, OTHER, FREE, LOGIN, TOKENS];
        Self {
            names: names.map(str::to_owned).to_vec(),
            alpn: vec!["h2", "http/1.1"],
            tls: true,
            expired: false,
        }
    }
}

impl Upstream {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        // A small receive buffer, so that a stalled upstream is felt soon.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(128).unwrap();
        let (ca_pem, config) = server_config(&behaviour);
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            ca_pem,
            seen: Rc::default(),
            connections: Rc::default(),
            ended: Rc::default(),
            end_connections: Rc::default(),
            taken: Rc::default(),
            abandoned: Rc::default(),
            release: Rc::default(),
        };
        let server = upstream.clone();
        let acceptor = behaviour.tls.then(|| TlsAcceptor::from(config));
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *server.connections.borrow_mut() += 1;
                stream.set_nodelay(true).unwrap();
                let (server, acceptor) = (server.clone(), acceptor.clone());
                spawn_local(async move {
                    server.clone().serve(stream, acceptor).await;
                    *server.ended.borrow_mut() += 1;
                });
            }
        });
        upstream
    }

    pub(crate) fn only_request(&self) -> Seen {
        let seen = self.seen.borrow();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }

    /// Whether the last request carried the token that is valid after a renewal.
    fn only_newer(&self) -> bool {
        let seen = self.seen.borrow();
        seen.last()
            .and_then(|seen| seen.header("authorization"))
            .is_some_and(|value| value.ends_with(NEWER_SECRET))
    }

    /// Fails when a real token is anywhere but in its header.
    pub(crate) fn assert_no_leak(&self) {
        let places = [
            (OAUTH_SECRET, "authorization"),
            (KEY_SECRET, "x-api-key"),
            (OTHER_SECRET, "authorization"),
            (NEWER_SECRET, "authorization"),
        ];
        for seen in self.seen.borrow().iter() {
            let mut rest = seen.headers.clone();
            for (secret, header) in places {
                assert!(!seen.target.contains(secret), "{seen:?}");
                let body = String::from_utf8_lossy(&seen.body);
                assert!(!body.contains(secret), "{seen:?}");
                assert!(!format!("{:?}", seen.trailers).contains(secret), "{seen:?}");
                if seen
                    .header(header)
                    .is_some_and(|value| value.contains(secret))
                {
                    rest.remove(header);
                }
            }
            for (secret, _) in places {
                assert!(!format!("{rest:?}").contains(secret), "{seen:?}");
            }
            let lengths = seen.headers.get_all("content-length").iter().count();
            let chunked = usize::from(seen.headers.contains_key("transfer-encoding"));
            assert!(lengths + chunked <= 1, "{seen:?}");
            assert!(seen.headers.get_all("host").iter().count() <= 1, "{seen:?}");
        }
    }

    /// The answer to `/early/STATUS`, given without reading the body; a 401 only to an old token.
    fn early(&self, head: &http::request::Parts) -> Option<Response<BoxBody<Bytes, Infallible>>> {
        let status: u16 = head.uri.path().strip_prefix("/early/")?.parse().unwrap();
        let token = head.headers.get("authorization");
        let newer = token.is_some_and(|value| value.as_bytes().ends_with(NEWER_SECRET.as_bytes()));
        if status == 401 && newer {
            return None;
        }
        self.seen.borrow_mut().push(Seen {
            version: head.version,
            target: head.uri.path().to_owned(),
            headers: head.headers.clone(),
            body: Bytes::new(),
            trailers: None,
        });
        let answer = Response::builder().status(status);
        Some(answer.body(text("early")).unwrap())
    }

    /// A body without end, of which it is counted what is taken.
    fn endless(&self) -> BoxBody<Bytes, Infallible> {
        let (sender, body) = channel();
        let taken = Rc::clone(&self.taken);
        spawn_local(async move {
            let piece = Bytes::from(vec![b'e'; 64 * 1024]);
            while sender.send(Ok(Frame::data(piece.clone()))).await.is_ok() {
                *taken.borrow_mut() += piece.len();
            }
        });
        body
    }

    async fn serve(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        let Some(acceptor) = acceptor else {
            return self.serve_http1(stream).await;
        };
        let Ok(stream) = acceptor.accept(stream).await else {
            return;
        };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.serve_http2(stream).await;
        } else {
            self.serve_http1(stream).await;
        }
    }

    async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) {
        let server = self.clone();
        let service = service_fn(move |request| server.clone().answer(request));
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        let _ended = connection.with_upgrades().await;
    }

    async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin + 'static>(&self, stream: S) {
        let server = self.clone();
        let service = service_fn(move |request| server.clone().answer(request));
        let connection = hyper::server::conn::http2::Builder::new(Local)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            _ended = connection => {}
            () = self.end_connections.notified() => {}
        }
    }

    async fn answer(
        self,
        mut request: Request<Incoming>,
    ) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
        let path = request.uri().path().to_owned();
        let upgrade = path
            .starts_with("/socket")
            .then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        if let Some(early) = self.early(&head) {
            return Ok(early);
        }
        if path == "/slow" {
            let waiting = Waiting(Some(Rc::clone(&self.abandoned)));
            self.release.notified().await;
            waiting.over();
        }
        let body = body
            .collect()
            .await
            .map(|body| (body.trailers().cloned(), body.to_bytes()));
        let (trailers, body) = body.unwrap_or_default();
        let echoed = path
            .starts_with("/echo/")
            .then(|| same(&head.headers, &body));
        self.seen.borrow_mut().push(Seen {
            version: head.version,
            target: head
                .uri
                .path_and_query()
                .map_or(String::new(), |target| target.to_string()),
            headers: head.headers,
            body,
            trailers,
        });
        if let Some(echoed) = echoed {
            return Ok(echoed);
        }
        let sent = self.seen.borrow().last().map(|seen| seen.headers.clone());
        let sent = sent.expect("it was just noted");
        if let Some(mode) = sent.get("x-echo") {
            return Ok(echo::answer(mode.to_str().unwrap(), &sent));
        }
        if let Some(upgrade) = upgrade {
            spawn_local(async move { echo(TokioIo::new(upgrade.await.unwrap())).await });
            let response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("connection", "Upgrade")
                .header("upgrade", "websocket");
            return Ok(response.body(text("")).unwrap());
        }
        Ok(match path.as_str() {
            "/endless" => Response::new(self.endless()),
            "/events" => Response::new(events(Rc::clone(&self.release))),
            "/trailers" => Response::builder()
                .header("trailer", "x-sum")
                .body(with_trailers())
                .unwrap(),
            "/close" => Response::builder()
                .header("connection", "close")
                .body(text("bye"))
                .unwrap(),
            "/renewed" if !self.only_newer() => Response::builder()
                .status(StatusCode::UNAUTHORIZED)
                .body(text("expired"))
                .unwrap(),
            "/big" => Response::new(text(&"x".repeat(1 << 20))),
            "/remembered" => Response::builder()
                .header("x-remembered", OAUTH_SECRET)
                .body(text("hi"))
                .unwrap(),
            "/hints" => Response::builder()
                .header("alt-svc", "h3=\":443\"")
                .body(text("hi"))
                .unwrap(),
            _ => Response::new(text("hello")),
        })
    }
}

/// Counts itself when it is dropped before its time.
struct Waiting(Option<Rc<RefCell<usize>>>);

impl Waiting {
    fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(abandoned) = &self.0 {
            *abandoned.borrow_mut() += 1;
        }
    }
}

/// An answer that is the request's own body.
fn same(headers: &HeaderMap, body: &Bytes) -> Response<BoxBody<Bytes, Infallible>> {
    let answer = Response::builder().header("content-type", &headers["x-kind"]);
    answer.body(Full::new(body.clone()).boxed()).unwrap()
}

fn text(text: &str) -> BoxBody<Bytes, Infallible> {
    Full::new(Bytes::from(text.to_owned())).boxed()
}

/// Three events, each only when the one before was received.
fn events(received: Rc<Notify>) -> BoxBody<Bytes, Infallible> {
    let (sender, receiver) = mpsc::channel(1);
    spawn_local(async move {
        for event in 0..3 {
            let frame = Frame::data(Bytes::from(format!("data: {event}\n\n")));
            if sender.send(Ok(frame)).await.is_err() {
                return;
            }
            received.notified().await;
        }
    });
    channel_body(receiver)
}

fn with_trailers() -> BoxBody<Bytes, Infallible> {
    let (sender, receiver) = mpsc::channel(2);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "42".parse().unwrap());
    sender
        .try_send(Ok(Frame::data(Bytes::from_static(b"body"))))
        .unwrap();
    sender.try_send(Ok(Frame::trailers(trailers))).unwrap();
    channel_body(receiver)
}

fn channel_body(receiver: Frames) -> BoxBody<Bytes, Infallible> {
    BoxBody::new(ChannelBody(receiver))
}

/// A body that is sent through a channel of one frame.
pub(crate) fn channel() -> (FrameSender, BoxBody<Bytes, Infallible>) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, channel_body(receiver))
}

pub(crate) type FrameSender = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;
type Frames = mpsc::Receiver<Result<Frame<Bytes>, Infallible>>;

/// A body whose frames come from a task.
struct ChannelBody(Frames);

impl hyper::body::Body for ChannelBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx)
    }
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        stream.write_all(&buffer[..length]).await.unwrap();
        stream.flush().await.unwrap();
    }
}

/// Runs helper futures on the test's `LocalSet`.
#[derive(Clone)]
pub(crate) struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        drop(spawn_local(async move { drop(future.await) }));
    }
}

/// A number that differs from call to call.
fn next_id() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn server_config(behaviour: &Behaviour) -> (String, Arc<ServerConfig>) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    // Each authority has its own name, else a verifier takes one for the other.
    let name = format!("fake upstream {}", next_id());
    ca.distinguished_name.push(rcgen::DnType::CommonName, name);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(behaviour.names.clone()).unwrap();
    if behaviour.expired {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = behaviour
        .alpn
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    (ca_pem, Arc::new(config))
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
