//! A fake HTTPS upstream: a real TLS server with its own certificate authority that answers by HTTP/1.1 or HTTP/2
//! and writes one JSON line per request it received, with every header as it arrived. It is the witness of every
//! end-to-end test: what the guest asked is worth nothing, what the upstream saw is.
//!
//! Paths: `/bytes/N` answers N bytes, `/status/N` that status, everything else `hello from NAME`. Request bodies are
//! read to their end and only counted.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The largest answer of `/bytes/N`.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// What a [`Upstream`] serves.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Address for TLS; port 0 picks a free one.
    pub tls_listen: SocketAddr,
    /// Address for plain HTTP, when wanted.
    pub plain_listen: Option<SocketAddr>,
    /// Names the certificate is valid for.
    pub names: Vec<String>,
    /// File the requests are appended to, one JSON object a line.
    pub log: PathBuf,
    /// Directory that receives `upstream-ca.pem`.
    pub ca_dir: PathBuf,
}

/// A running upstream; it stops when dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    plain: Option<SocketAddr>,
    ca_pem: String,
    log: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Starts the server on a thread of its own and waits until it listens.
    ///
    /// # Errors
    /// When the certificate cannot be made, or an address is taken.
    pub fn start(config: UpstreamConfig) -> Result<Self> {
        let (ca_pem, tls) = server_tls(&config.names)?;
        fs_err::create_dir_all(&config.ca_dir)?;
        fs_err::write(config.ca_dir.join("upstream-ca.pem"), &ca_pem)?;
        let log = RequestLog::open(&config.log)?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, listening) = std::sync::mpsc::channel();
        let listen = (config.tls_listen, config.plain_listen);
        let thread = std::thread::spawn(move || serve_thread(listen, tls, log, &ready, stopped));
        let (address, plain) = listening.recv().context("the upstream thread ended")??;
        Ok(Self {
            address,
            plain,
            ca_pem,
            log: config.log,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where TLS is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where plain HTTP is served.
    #[must_use]
    pub fn plain_address(&self) -> Option<SocketAddr> {
        self.plain
    }

    /// The authority to trust, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The requests seen so far.
    ///
    /// # Errors
    /// When the log cannot be read or holds a broken line.
    pub fn requests(&self) -> Result<Vec<Value>> {
        read_log(&self.log)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Reads a request log written by an [`Upstream`].
///
/// # Errors
/// When the file cannot be read or holds a broken line.
pub fn read_log(path: &Path) -> Result<Vec<Value>> {
    let text = fs_err::read_to_string(path)?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("broken log line {line:?}")))
        .collect()
}

/// Appends requests to a file, one whole line per write.
#[derive(Debug, Clone)]
pub(crate) struct RequestLog(Arc<Mutex<fs_err::File>>);

impl RequestLog {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut options = fs_err::OpenOptions::new();
        Ok(Self(Arc::new(Mutex::new(
            options.create(true).append(true).open(path)?,
        ))))
    }

    pub(crate) fn append(&self, entry: &Value) {
        let line = format!("{entry}\n");
        let mut file = self.0.lock().expect("no holder of the log panics");
        file.write_all(line.as_bytes())
            .expect("the request log is writable");
    }
}

type Listening = Result<(SocketAddr, Option<SocketAddr>)>;

fn serve_thread(
    (tls_listen, plain_listen): (SocketAddr, Option<SocketAddr>),
    tls: TlsAcceptor,
    log: RequestLog,
    ready: &std::sync::mpsc::Sender<Listening>,
    stopped: tokio::sync::oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async move {
        let bound = async {
            let secure = TcpListener::bind(tls_listen).await?;
            let plain = match plain_listen {
                Some(address) => Some(TcpListener::bind(address).await?),
                None => None,
            };
            anyhow::Ok((secure, plain))
        };
        match bound.await {
            Ok((secure, plain)) => {
                let addresses = (|| {
                    let plain = plain.as_ref().map(TcpListener::local_addr).transpose()?;
                    anyhow::Ok((secure.local_addr()?, plain))
                })();
                let _told = ready.send(addresses);
                if let Some(plain) = plain {
                    tokio::spawn(accept_loop(plain, None, log.clone()));
                }
                tokio::spawn(accept_loop(secure, Some(tls), log));
                let _dropped = stopped.await;
            }
            Err(error) => {
                let _told = ready.send(Err(error));
            }
        }
    });
}

async fn accept_loop(listener: TcpListener, tls: Option<TlsAcceptor>, log: RequestLog) {
    while let Ok((stream, _peer)) = listener.accept().await {
        let (tls, log) = (tls.clone(), log.clone());
        tokio::spawn(async move {
            let _ended = serve_connection(stream, tls, log).await;
        });
    }
}

async fn serve_connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    log: RequestLog,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let served = match tls {
        Some(tls) => {
            let stream = tls.accept(stream).await?;
            let sni = stream
                .get_ref()
                .1
                .server_name()
                .unwrap_or_default()
                .to_owned();
            let service = service_fn(move |request| answer(request, sni.clone(), log.clone()));
            auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
        }
        None => {
            let service = service_fn(move |request| answer(request, String::new(), log.clone()));
            auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
        }
    };
    served.map_err(|error| anyhow::anyhow!("{error}"))
}

async fn answer(
    request: Request<Incoming>,
    sni: String,
    log: RequestLog,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body_bytes = body.collect().await.map_or(0, |body| body.to_bytes().len());
    let headers: serde_json::Map<String, Value> = head
        .headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                json!(String::from_utf8_lossy(value.as_bytes())),
            )
        })
        .collect();
    log.append(&json!({
        "sni": sni,
        "version": format!("{:?}", head.version),
        "method": head.method.as_str(),
        "uri": head.uri.to_string(),
        "headers": headers,
        "body_bytes": body_bytes,
    }));
    Ok(answer_for(head.uri.path(), &sni))
}

fn answer_for(path: &str, sni: &str) -> Response<Full<Bytes>> {
    let number = |prefix: &str| {
        path.strip_prefix(prefix)
            .and_then(|rest| rest.parse::<usize>().ok())
    };
    let (status, body) = if let Some(count) = number("/bytes/") {
        (StatusCode::OK, vec![b'x'; count.min(MAX_ANSWER_BYTES)])
    } else if let Some(status) = number("/status/").and_then(|code| u16::try_from(code).ok()) {
        (
            StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
            Vec::new(),
        )
    } else {
        (StatusCode::OK, format!("hello from {sni}\n").into_bytes())
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

/// A fresh authority and an acceptor whose certificate names `names`.
pub(crate) fn server_tls(names: &[String]) -> Result<(String, TlsAcceptor)> {
    let ca_key = KeyPair::generate()?;
    let mut ca_params = CertificateParams::default();
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca_params
        .distinguished_name
        .push(DnType::CommonName, "agent-vm test upstream CA");
    let ca = ca_params.self_signed(&ca_key)?;
    let ca_pem = ca.pem();
    let issuer = Issuer::new(ca_params, ca_key);
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(names.to_vec())?.signed_by(&key, &issuer)?;
    let chain = vec![leaf.der().clone(), ca.der().clone()];
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|reason| anyhow::anyhow!("unusable key: {reason}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((ca_pem, TlsAcceptor::from(Arc::new(config))))
}
