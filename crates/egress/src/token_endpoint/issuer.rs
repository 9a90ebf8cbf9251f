//! The launcher's own requests to token endpoints: over verified TLS, through the host's proxies and the user's
//! `--resolve` as the guest's requests go. They are not judged by the policy, which is the guest's; who makes them
//! records them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_vm_policy::{AddressClass, HostName, classify};
use bytes::Bytes;
use http::Request;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use http_body_util::{BodyExt as _, Limited};
use thiserror::Error;

use crate::body::RequestBody;
use crate::content_coding::{CodingError, ContentCoding};
use crate::dial::{Route, dial};
use crate::egress::ResolveOverride;
use crate::leaf_cache::Offer;
use crate::proxy::{Destination, ProxySettings};
use crate::tls_roots::{LazyRoots, RootsError, UpstreamRoots};
use crate::upstream::{Security, Upstream, UpstreamError, Wanted};

/// The largest answer that is read, in bytes, as it is sent and without its coding.
pub const MAX_ISSUER_ANSWER_BYTES: usize = 256 * 1024;
/// How long a request may take from the name to the last byte of the answer.
pub const ISSUER_TIMEOUT: Duration = Duration::from_secs(25);
/// The most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
/// The port of HTTPS.
const HTTPS_PORT: u16 = 443;

/// Asks token endpoints. Can be given to another thread, so that a request is not lost with who waited for it.
#[derive(Debug, Clone)]
pub struct IssuerClient {
    roots: Arc<LazyRoots>,
    overrides: Vec<ResolveOverride>,
    proxies: ProxySettings,
}

/// A request to renew a login.
pub struct IssuerRequest {
    /// Host of the token endpoint.
    pub host: HostName,
    /// Path of the token endpoint.
    pub path: String,
    /// `application/json` or `application/x-www-form-urlencoded`.
    pub content_type: &'static str,
    /// The request's body.
    pub body: Vec<u8>,
}

/// What the token endpoint answered.
pub struct IssuerAnswer {
    /// Its status.
    pub status: u16,
    /// How long it wants not to be asked again (RFC 9110 §10.2.3, in seconds).
    pub retry_after: Option<Duration>,
    /// The address that was asked; unspecified when a proxy resolved the name.
    pub address: IpAddr,
    /// Its body, at most [`MAX_ISSUER_ANSWER_BYTES`].
    pub body: Vec<u8>,
}

impl IssuerClient {
    /// A client that trusts `roots` beside the host's store. Nothing is read from the host before the first request.
    ///
    /// # Errors
    /// When an extra authority cannot be used.
    pub fn new(
        roots: &UpstreamRoots,
        overrides: Vec<ResolveOverride>,
        proxies: ProxySettings,
    ) -> Result<Self, RootsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Self {
            roots: Arc::new(LazyRoots::new(provider, roots)?),
            overrides,
            proxies,
        })
    }

    /// Asks a token endpoint. Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// When there is no whole answer within [`ISSUER_TIMEOUT`]. Whether the request arrived is then not known, unless
    /// [`IssuerError::was_sent`] says no.
    pub async fn ask(&self, request: IssuerRequest) -> Result<IssuerAnswer, IssuerError> {
        let host = request.host.clone();
        let asked = async {
            let mut last = IssuerError::Name { host: host.clone() };
            for route in self.routes(&host).await? {
                // Only a connection that was not made is tried elsewhere: a request is sent once.
                match self.connect(&route, &host).await {
                    Ok(upstream) => return send(&upstream, route.address(), request).await,
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        match tokio::time::timeout(ISSUER_TIMEOUT, asked).await {
            Ok(answered) => answered,
            Err(_elapsed) => Err(IssuerError::TimedOut { host }),
        }
    }

    /// The ways to a host of the launcher's own choice.
    async fn routes(&self, host: &HostName) -> Result<Vec<Route>, IssuerError> {
        let given = |o: &&ResolveOverride| o.port == HTTPS_PORT && o.host == *host;
        if let Some(given) = self.overrides.iter().find(given) {
            return Ok(vec![Route::Direct(given.target)]);
        }
        let named = Destination {
            name: Some(host.clone()),
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, HTTPS_PORT)),
        };
        let proxy = self.proxies.choose(&named);
        if let Some(proxy) = proxy.filter(|proxy| proxy.takes_names()) {
            return Ok(vec![Route::Tunnel(Rc::new(proxy.clone()), named)]);
        }
        let found = tokio::net::lookup_host((host.as_str(), HTTPS_PORT)).await;
        let found = found.map_err(|_| IssuerError::Name { host: host.clone() })?;
        let public = found.filter(|address| classify(address.ip()) == AddressClass::Global);
        let route = |address| {
            let to = Destination {
                name: Some(host.clone()),
                address,
            };
            match self.proxies.choose(&to).cloned() {
                Some(proxy) => Route::Tunnel(Rc::new(proxy), to),
                None => Route::Direct(address),
            }
        };
        Ok(public.take(MAX_ADDRESSES).map(route).collect())
    }

    async fn connect(&self, route: &Route, host: &HostName) -> Result<Rc<Upstream>, IssuerError> {
        let failed = |source| IssuerError::Connect {
            host: host.clone(),
            source: IssuerFailure(source),
        };
        let config = self.roots.client_config().await;
        let config = config.map_err(|source| failed(UpstreamError::Roots { source }))?;
        let security = Security::Tls {
            host: host.clone(),
            config,
        };
        let upstream = Rc::new(Upstream::new(
            route.clone(),
            security,
            Offer::Http1,
            Rc::default(),
        ));
        let stream = dial(route).await;
        let stream = stream.map_err(|source| failed(UpstreamError::Dial { source }))?;
        upstream.start(Some(stream)).await.map_err(failed)?;
        Ok(upstream)
    }
}

async fn send(
    upstream: &Rc<Upstream>,
    address: IpAddr,
    request: IssuerRequest,
) -> Result<IssuerAnswer, IssuerError> {
    let host = request.host;
    let body = RequestBody::of_bytes(Bytes::from(request.body), Rc::default());
    let fixed = HeaderValue::from_static;
    let asked = Request::post(request.path)
        .header(HOST, host.as_str())
        .header(CONTENT_TYPE, fixed(request.content_type))
        .header(ACCEPT, fixed("application/json"))
        .header(ACCEPT_ENCODING, fixed("identity"))
        .header(
            USER_AGENT,
            fixed(concat!("agent-vm/", env!("CARGO_PKG_VERSION"))),
        )
        .body(body);
    let asked = asked.map_err(|_| IssuerError::Path { host: host.clone() })?;
    let broken = |source| IssuerError::Broken {
        host: host.clone(),
        source: IssuerFailure(source),
    };
    let mut lease = upstream.lease(Wanted::Any).await.map_err(broken)?;
    let response = lease
        .send(asked)
        .await
        .map_err(|unsent| broken(unsent.error))?;
    let (head, body) = response.into_parts();
    let whole = Limited::new(body, MAX_ISSUER_ANSWER_BYTES).collect().await;
    let whole = whole.map_err(|_| IssuerError::Answer { host: host.clone() })?;
    let coding = ContentCoding::of(&head.headers);
    let decoded =
        coding.and_then(|coding| coding.decode(&whole.to_bytes(), MAX_ISSUER_ANSWER_BYTES));
    let body = decoded.map_err(|source| IssuerError::Coding {
        host: host.clone(),
        source: IssuerCodingError(source),
    })?;
    let retry_after = head.headers.get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(IssuerAnswer {
        status: head.status.as_u16(),
        retry_after: retry_after.map(Duration::from_secs),
        address,
        body,
    })
}

/// Why a token endpoint gave no answer.
#[derive(Debug, Error)]
pub enum IssuerError {
    /// Its name has no public address.
    #[error("{host} has no public address")]
    Name {
        /// The host.
        host: HostName,
    },
    /// It cannot be reached, or its certificate is not valid.
    #[error("{host} cannot be reached")]
    Connect {
        /// The host.
        host: HostName,
        /// Why, without secrets.
        #[source]
        source: IssuerFailure,
    },
    /// The request cannot be written.
    #[error("the path for {host} is not valid")]
    Path {
        /// The host.
        host: HostName,
    },
    /// The connection broke before an answer began.
    #[error("{host} gave no answer")]
    Broken {
        /// The host.
        host: HostName,
        /// Why, without secrets.
        #[source]
        source: IssuerFailure,
    },
    /// The answer is too large or broke off.
    #[error("the answer of {host} is not whole")]
    Answer {
        /// The host.
        host: HostName,
    },
    /// The answer's content coding (RFC 9110 §8.4) cannot be read.
    #[error("the answer of {host} is compressed and cannot be read")]
    Coding {
        /// The host.
        host: HostName,
        /// What is wrong with it.
        #[source]
        source: IssuerCodingError,
    },
    /// It took too long.
    #[error("{host} did not answer in time")]
    TimedOut {
        /// The host.
        host: HostName,
    },
}

impl IssuerError {
    /// Whether the request may have arrived.
    #[must_use]
    pub fn was_sent(&self) -> bool {
        match self {
            Self::Name { .. } | Self::Connect { .. } | Self::Path { .. } => false,
            Self::Broken { .. }
            | Self::Answer { .. }
            | Self::Coding { .. }
            | Self::TimedOut { .. } => true,
        }
    }
}

/// How an exchange with a token endpoint broke.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct IssuerFailure(UpstreamError);

/// What is wrong with the coding of an answer.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct IssuerCodingError(CodingError);
