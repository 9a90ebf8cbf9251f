//! A fake provider that renews logins: a real TLS server that replaces the refresh token at every use and refuses one
//! that was used before, as providers do. It is the API too: GET answers 200 to the current access token, else 401.

use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use flate2::Compression;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::upstream::server_tls;

/// What the provider knows and has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Refresh grants that were answered with tokens.
    pub granted: usize,
    /// Requests with a refresh token that is not the current one.
    pub refused: usize,
    /// Bodies of all token requests.
    pub bodies: Vec<String>,
    /// Values of `Accept-Encoding` of the granted ones.
    pub accepted: Vec<String>,
    /// Values of `Authorization` of all other requests.
    pub authorizations: Vec<String>,
}

/// How the provider behaves.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// Seconds that an access token is said to live.
    pub lifetime: u64,
    /// Wait before each answer to a grant.
    pub delay: Duration,
    /// Status of every answer to a grant, when it is to fail.
    pub failing: Option<u16>,
    /// Content coding of every answer to a grant: `gzip`, `deflate` or `zstd`; another is only said.
    pub coding: Option<&'static str>,
}

#[derive(Debug)]
struct State {
    generation: usize,
    /// The generation whose access token is not taken.
    revoked: Option<usize>,
    behaviour: Behaviour,
    seen: Seen,
}

/// A running provider; it stops when dropped.
#[derive(Debug)]
pub struct Issuer {
    address: SocketAddr,
    ca_pem: String,
    state: Arc<Mutex<State>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Issuer {
    /// Starts a provider whose certificate has `names`; the current tokens are [`Issuer::access`] and
    /// [`Issuer::refresh`] of generation 0.
    ///
    /// # Errors
    /// When the certificate cannot be made or nothing can be listened on.
    pub fn start(names: &[&str], behaviour: Behaviour) -> Result<Self> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let (ca_pem, tls) = server_tls(&names)?;
        let state = Arc::new(Mutex::new(State {
            generation: 0,
            revoked: None,
            behaviour,
            seen: Seen::default(),
        }));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, listening) = std::sync::mpsc::channel();
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime can be made");
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
                let _told = ready.send(listener.local_addr());
                tokio::spawn(accept_loop(listener, tls, shared));
                let _dropped = stopped.await;
            });
        });
        Ok(Self {
            address: listening.recv().context("the provider's thread ended")??,
            ca_pem,
            state,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where TLS is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The authority to trust, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The access token of a generation.
    #[must_use]
    pub fn access(generation: usize) -> String {
        format!("real-access-{generation}")
    }

    /// The refresh token of a generation.
    #[must_use]
    pub fn refresh(generation: usize) -> String {
        format!("real-refresh-{generation}")
    }

    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.state().seen.clone()
    }

    /// Behaves in another way from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.state().behaviour = behaviour;
    }

    /// Replaces the tokens as if another client of the login had renewed it; gives the new generation.
    pub fn rotate(&self) -> usize {
        let mut state = self.state();
        state.generation += 1;
        state.generation
    }

    /// Takes the current access token no more, as after a revocation.
    pub fn revoke(&self) {
        let mut state = self.state();
        state.revoked = Some(state.generation);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the state panics")
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

async fn accept_loop(listener: TcpListener, tls: TlsAcceptor, state: Arc<Mutex<State>>) {
    while let Ok((stream, _peer)) = listener.accept().await {
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let service = service_fn(move |request| answer(request, Arc::clone(&state)));
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ended = served.await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map_or_else(|_| Bytes::new(), |body| body.to_bytes());
    let lock = || state.lock().expect("no holder of the state panics");
    if head.method != Method::POST {
        let mut state = lock();
        let value = head.headers.get(AUTHORIZATION);
        let value = value
            .map_or("", |value| value.to_str().unwrap_or_default())
            .to_owned();
        let current = format!("Bearer {}", Issuer::access(state.generation));
        let good = value == current && state.revoked != Some(state.generation);
        state.seen.authorizations.push(value);
        let status = if good {
            StatusCode::OK
        } else {
            StatusCode::UNAUTHORIZED
        };
        let known = json!({ "generation": state.generation });
        return Ok(reply(status, &known).map(Full::new));
    }
    let (delay, failing, coding) = {
        let behaviour = &lock().behaviour;
        (behaviour.delay, behaviour.failing, behaviour.coding)
    };
    let text = String::from_utf8_lossy(&body).into_owned();
    let sent = refresh_token(&text).unwrap_or_default();
    let granted = {
        let mut state = lock();
        state.seen.bodies.push(text);
        let good = failing.is_none() && sent == Issuer::refresh(state.generation);
        if good {
            state.generation += 1;
            state.seen.granted += 1;
        } else {
            state.seen.refused += 1;
        }
        good.then_some((state.generation, state.behaviour.lifetime))
    };
    tokio::time::sleep(delay).await;
    let Some((generation, lifetime)) = granted else {
        let status = failing.and_then(|code| StatusCode::from_u16(code).ok());
        let refused = json!({"error": "invalid_grant", "error_description": "used before"});
        let status = status.unwrap_or(StatusCode::BAD_REQUEST);
        return Ok(coded(reply(status, &refused), coding));
    };
    let tokens = json!({
        "token_type": "Bearer",
        "access_token": Issuer::access(generation),
        "refresh_token": Issuer::refresh(generation),
        "expires_in": lifetime,
        "scope": "user:profile user:inference",
    });
    let encoding = head.headers.get(ACCEPT_ENCODING);
    let said = encoding.map_or("", |value| value.to_str().unwrap_or_default());
    lock().seen.accepted.push(said.to_owned());
    Ok(coded(reply(StatusCode::OK, &tokens), coding))
}

/// The refresh token of a request in JSON; of a form whose tokens need no encoding.
fn refresh_token(body: &str) -> Option<String> {
    if let Ok(document) = serde_json::from_str::<Value>(body) {
        return Some(document.get("refresh_token")?.as_str()?.to_owned());
    }
    let mut pairs = body.split('&');
    pairs.find_map(|pair| pair.strip_prefix("refresh_token=").map(str::to_owned))
}

fn reply(status: StatusCode, document: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(document.to_string()));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Compressed, though nobody asked for it.
fn coded(response: Response<Bytes>, coding: Option<&'static str>) -> Response<Full<Bytes>> {
    let Some(coding) = coding else {
        return response.map(Full::new);
    };
    let mut response = response.map(|body| match coding {
        "gzip" => {
            let mut plain = flate2::read::GzEncoder::new(&body[..], Compression::default());
            all_of(&mut plain)
        }
        "deflate" => {
            let mut plain = flate2::read::ZlibEncoder::new(&body[..], Compression::default());
            all_of(&mut plain)
        }
        "zstd" => zstd::encode_all(&body[..], 1)
            .expect("memory can be written")
            .into(),
        _ => body,
    });
    let value = http::HeaderValue::from_static(coding);
    response.headers_mut().insert(CONTENT_ENCODING, value);
    response.map(Full::new)
}

fn all_of(source: &mut dyn Read) -> Bytes {
    let mut all = Vec::new();
    source.read_to_end(&mut all).expect("memory can be read");
    all.into()
}
