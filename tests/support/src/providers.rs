//! Fakes of the services that coding agents, `gh` and `git` talk to, with their hosts, answers, tokens that end and are
//! renewed with rotation: what the real clients need for one prompt, and the witness of what they sent.
//!
//! One TLS server (HTTP/1.1, HTTP/2, WebSocket) tells them apart by the server name. Every prompt is answered by one fixed
//! text. Each request is one line of JSON in the log: name, method, path, headers, body (decompressed, as text), status.

use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::upstream::{RequestLog, server_tls};

mod accounts;
mod anthropic;
mod github;
mod google;
mod openai;
mod reply;
mod websocket;

pub use accounts::{ACCOUNT_ID, Account, IN_ONE_HOUR, Service, signed};
pub use github::LOGIN as GITHUB_LOGIN;

use accounts::{Accounts, Renewed};
use reply::Reply;

/// All names the server answers to.
pub const HOSTS: &[&str] = &[
    "api.anthropic.com",
    "platform.claude.com",
    "chatgpt.com",
    "ab.chatgpt.com",
    "api.openai.com",
    "auth.openai.com",
    "models.opencode.ai",
    "models.dev",
    "api.z.ai",
    "api.github.com",
    "github.com",
    "api.individual.githubcopilot.com",
    "telemetry.individual.githubcopilot.com",
    "cloudcode-pa.googleapis.com",
    "generativelanguage.googleapis.com",
    "oauth2.googleapis.com",
    "www.googleapis.com",
    "play.googleapis.com",
    "example.test",
];

/// The largest body of a request that is kept in the log.
const MAX_LOGGED_BYTES: usize = 1024 * 1024;

/// How the fakes behave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Behaviour {
    /// The text every prompt is answered with.
    pub answer: String,
    /// The logins that are good.
    pub accounts: Vec<Account>,
    /// Whether a prompt of Claude Code is first answered with the use of a tool that shows the login.
    #[serde(default)]
    pub tool: bool,
    /// Whether a WebSocket is refused (426), as by a proxy that cannot carry one.
    #[serde(default)]
    pub no_websocket: bool,
    /// Directory of the bare repositories at github.com.
    #[serde(default)]
    pub git_root: Option<PathBuf>,
}

/// What a [`Providers`] serves.
#[derive(Debug, Clone)]
pub struct ProvidersConfig {
    /// Address for TLS; port 0 picks a free one.
    pub listen: SocketAddr,
    /// File the requests are appended to, one JSON object a line.
    pub log: PathBuf,
    /// Directory that receives `upstream-ca.pem`.
    pub ca_dir: PathBuf,
    /// What is answered.
    pub behaviour: Behaviour,
}

/// Running fakes; they stop when dropped.
#[derive(Debug)]
pub struct Providers {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Providers {
    /// Starts the server on a thread of its own and waits until it listens.
    ///
    /// # Errors
    /// When the certificate cannot be made, or the address is taken.
    pub fn start(config: ProvidersConfig) -> Result<Self> {
        let names: Vec<String> = HOSTS.iter().map(|name| (*name).to_owned()).collect();
        let (ca_pem, tls) = server_tls(&names)?;
        fs_err::create_dir_all(&config.ca_dir)?;
        fs_err::write(config.ca_dir.join("upstream-ca.pem"), ca_pem)?;
        let listener = std::net::TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let accounts = Accounts::new(config.behaviour.accounts.clone());
        let world = Arc::new(World {
            accounts: Mutex::new(accounts),
            log: RequestLog::open(&config.log)?,
            behaviour: config.behaviour,
        });
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("the listener is ready");
                tokio::spawn(accept_loop(listener, tls, world));
                let _dropped = stopped.await;
            });
        });
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Providers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// What all connections share.
pub(crate) struct World {
    pub(crate) behaviour: Behaviour,
    accounts: Mutex<Accounts>,
    log: RequestLog,
}

impl World {
    fn accept(&self, service: Service, ask: &Ask) -> bool {
        let mut accounts = self.accounts.lock().expect("no holder panics");
        accounts.accept(service, &ask.headers)
    }

    fn renew(&self, service: Service, refresh: &str) -> Option<Renewed> {
        let mut accounts = self.accounts.lock().expect("no holder panics");
        accounts.renew(service, refresh)
    }
}

/// One request, read to its end.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) host: String,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Ask {
    /// The body without its encoding.
    fn decoded(&self) -> Bytes {
        let encoding = self.headers.get(header::CONTENT_ENCODING);
        let mut plain = Vec::new();
        let limit = 16 * MAX_LOGGED_BYTES as u64;
        let read = match encoding.map(HeaderValue::as_bytes) {
            Some(b"gzip") => flate2::read::GzDecoder::new(&self.body[..])
                .take(limit)
                .read_to_end(&mut plain),
            Some(b"zstd") => zstd::Decoder::new(&self.body[..])
                .and_then(|decoder| decoder.take(limit).read_to_end(&mut plain)),
            _ => return self.body.clone(),
        };
        read.map_or_else(|_| self.body.clone(), |_| plain.into())
    }

    /// The body as JSON; null when it is none.
    pub(crate) fn document(&self) -> Value {
        serde_json::from_slice(&self.decoded()).unwrap_or_default()
    }

    /// The fields of a JSON object or of a form (WHATWG URL, `application/x-www-form-urlencoded`).
    pub(crate) fn fields(&self) -> Value {
        let document = self.document();
        if document.is_object() {
            return document;
        }
        let text = String::from_utf8_lossy(&self.body).replace('+', " ");
        let decode = |text: &str| {
            let bytes = percent_encoding::percent_decode_str(text);
            bytes.decode_utf8_lossy().into_owned()
        };
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let fields: Map<String, Value> = pairs
            .map(|(name, value)| (decode(name), json!(decode(value))))
            .collect();
        Value::Object(fields)
    }
}

async fn accept_loop(listener: TcpListener, tls: TlsAcceptor, world: Arc<World>) {
    while let Ok((stream, _peer)) = listener.accept().await {
        let (tls, world) = (tls.clone(), world.clone());
        tokio::spawn(async move {
            let _ended = serve_connection(stream, tls, world).await;
        });
    }
}

async fn serve_connection(stream: TcpStream, tls: TlsAcceptor, world: Arc<World>) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = tls.accept(stream).await?;
    let name = stream.get_ref().1.server_name();
    let host = name.unwrap_or_default().to_owned();
    let service = service_fn(move |request| {
        let (world, host) = (world.clone(), host.clone());
        async move { Ok::<_, Infallible>(serve_request(request, host, world).await) }
    });
    let served = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
    served.map_err(|error| anyhow::anyhow!("{error}"))
}

async fn serve_request(mut request: Request<Incoming>, host: String, world: Arc<World>) -> Reply {
    let upgrade =
        websocket::is_asked_for(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let body = match upgrade {
        Some(_) => Bytes::new(),
        None => body
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default(),
    };
    let ask = Ask {
        host,
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body,
    };
    let (reply, ask) = match upgrade {
        Some(upgrade) => (switch(&world, &ask, upgrade), ask),
        None => answer(&world, ask).await,
    };
    let mut line = describe(&ask);
    line["version"] = json!(format!("{:?}", head.version));
    line["status"] = json!(reply.status().as_u16());
    world.log.append(&line);
    reply
}

async fn answer(world: &Arc<World>, ask: Ask) -> (Reply, Ask) {
    let git_root = world.behaviour.git_root.clone().unwrap_or_default();
    if ask.host == "github.com" {
        if let Some(refused) = github::git_login(world, &ask) {
            return (refused, ask);
        }
        let served = tokio::task::spawn_blocking(move || {
            let reply = github::git(Path::new(&git_root), &ask);
            (reply, ask)
        });
        return served.await.expect("git's back end does not panic");
    }
    let reply = match ask.host.as_str() {
        "api.anthropic.com" => anthropic::api(world, &ask),
        "platform.claude.com" => anthropic::login(world, &ask),
        "chatgpt.com" | "api.openai.com" => openai::api(world, &ask),
        "auth.openai.com" => openai::login(world, &ask),
        "models.opencode.ai" | "models.dev" => google::model_catalogue(),
        "api.z.ai" => openai::zai(world, &ask),
        "api.github.com" => github::api(world, &ask),
        "api.individual.githubcopilot.com" => github::copilot(world, &ask),
        "cloudcode-pa.googleapis.com" | "generativelanguage.googleapis.com" => {
            google::api(world, &ask)
        }
        "oauth2.googleapis.com" | "www.googleapis.com" => google::login(world, &ask),
        "example.test" => reply::ok(&json!({"hello": "example.test"})),
        _ => reply::not_found(),
    };
    (reply, ask)
}

/// Answers the wish for a WebSocket, and serves it when it is granted.
fn switch(world: &Arc<World>, ask: &Ask, upgrade: hyper::upgrade::OnUpgrade) -> Reply {
    let service = match ask.host.as_str() {
        "chatgpt.com" | "api.openai.com" => Service::OpenAi,
        _ => return reply::not_found(),
    };
    if !world.accept(service, ask) {
        return openai::unauthorized();
    }
    if world.behaviour.no_websocket {
        let refused = reply::bytes(http::StatusCode::UPGRADE_REQUIRED, "text/plain", "no\n");
        return refused;
    }
    let (world, host) = (world.clone(), ask.host.clone());
    tokio::spawn(async move {
        let _ended = serve_websocket(&world, &host, upgrade).await;
    });
    websocket::accepted(&ask.headers)
}

async fn serve_websocket(
    world: &World,
    host: &str,
    upgrade: hyper::upgrade::OnUpgrade,
) -> Result<()> {
    let mut stream = TokioIo::new(upgrade.await?);
    while let Some(text) = websocket::next(&mut stream).await? {
        world.log.append(&json!({"sni": host, "websocket": text}));
        let prompt: Value = serde_json::from_str(&text).context("a message is JSON")?;
        for event in openai::response(&world.behaviour.answer, &prompt) {
            websocket::send_text(&mut stream, &event.to_string()).await?;
        }
    }
    Ok(())
}

/// The line of a request in the log, without what was answered.
fn describe(ask: &Ask) -> Value {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = ask.headers.iter();
    let headers: Map<String, Value> = headers
        .map(|(name, value)| (name.to_string(), json!(text(value))))
        .collect();
    let body = ask.decoded();
    let shown = &body[..body.len().min(MAX_LOGGED_BYTES)];
    json!({
        "sni": ask.host, "method": ask.method.as_str(), "path": ask.path, "query": ask.query,
        "headers": headers, "body_bytes": ask.body.len(), "body": String::from_utf8_lossy(shown),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(body: &str, encoding: Option<&'static str>) -> Ask {
        let mut headers = HeaderMap::new();
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        let body = match encoding {
            Some(_) => zstd::encode_all(body.as_bytes(), 1).unwrap().into(),
            None => Bytes::from(body.to_owned()),
        };
        Ask {
            host: String::new(),
            method: Method::POST,
            path: String::new(),
            query: String::new(),
            headers,
            body,
        }
    }

    #[test]
    fn reads_the_fields_of_documents_and_forms() {
        let form = ask("grant_type=refresh_token&refresh_token=a%2Bb+c", None);
        assert_eq!(form.fields()["refresh_token"], "a+b c");
        let document = ask(r#"{"refresh_token":"x"}"#, None);
        assert_eq!(document.fields()["refresh_token"], "x");
    }

    #[test]
    fn sees_through_the_encoding_of_a_body() {
        assert_eq!(ask(r#"{"a":1}"#, Some("zstd")).document()["a"], 1);
    }
}
