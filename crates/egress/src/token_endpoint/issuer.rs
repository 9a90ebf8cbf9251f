//! The launcher's own requests to token endpoints: over verified TLS, through the host's proxies and the user's
//! `--resolve` as the guest's requests go. They are not judged by the policy, which is the guest's, but recorded.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use agent_vm_policy::{AddressClass, DenyReason, HostName, classify};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Limited};
use thiserror::Error;

use crate::audit::Kind;
use crate::body::RequestBody;
use crate::dial::Route;
use crate::egress::{Egress, Shared};
use crate::leaf_cache::Offer;
use crate::proxy::Destination;
use crate::record::{Place, Record};
use crate::upstream::{Security, Upstream, UpstreamError, Wanted};

/// The largest answer that is read, in bytes.
pub const MAX_ISSUER_ANSWER_BYTES: usize = 256 * 1024;
/// How long a request may take from the name to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(25);
/// The most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
/// The port of HTTPS.
const HTTPS_PORT: u16 = 443;

/// A request to renew a login.
pub struct IssuerRequest {
    /// Name of the credential it is for, for the audit log.
    pub credential: String,
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
    /// Its body, at most [`MAX_ISSUER_ANSWER_BYTES`].
    pub body: Vec<u8>,
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
    /// It cannot be reached, its certificate is not valid, or it breaks the protocol.
    #[error("{host} cannot be asked")]
    Upstream {
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
    /// The answer is too large or broke off.
    #[error("the answer of {host} is not whole")]
    Answer {
        /// The host.
        host: HostName,
    },
    /// It took too long.
    #[error("{host} did not answer in time")]
    TimedOut {
        /// The host.
        host: HostName,
    },
    /// The audit log is broken, so nothing may leave.
    #[error("the request cannot be recorded")]
    Audit,
}

/// How an exchange with a token endpoint broke.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct IssuerFailure(UpstreamError);

impl Egress {
    /// Asks a token endpoint. Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// When there is no whole answer within 25 s. Whether the request arrived is then not known.
    pub async fn ask_issuer(&self, request: IssuerRequest) -> Result<IssuerAnswer, IssuerError> {
        let shared = self.shared();
        if shared.audit.is_broken() {
            return Err(IssuerError::Audit);
        }
        let host = request.host.clone();
        let mut routes = Vec::new();
        let asked = async {
            routes = shared.routes(&host).await?;
            let mut last = IssuerError::Name { host: host.clone() };
            for route in &routes {
                // Only a connection that was not made is tried elsewhere: a request is sent once.
                match connected(shared, route, &host).await {
                    Ok(upstream) => return send(shared, &upstream, route, request).await,
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(answered) => answered,
            Err(_elapsed) => Err(IssuerError::TimedOut { host }),
        }
    }
}

impl Shared {
    /// The ways to a host of the launcher's own choice.
    async fn routes(&self, host: &HostName) -> Result<Vec<Route>, IssuerError> {
        let given = |o: &&crate::egress::ResolveOverride| o.port == HTTPS_PORT && o.host == *host;
        if let Some(given) = self.overrides.iter().find(given) {
            return Ok(vec![Route::Direct(given.target)]);
        }
        let named = Destination {
            name: Some(host.clone()),
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, HTTPS_PORT)),
        };
        if let Some(proxy) = self.proxies.choose(&named).filter(|proxy| proxy.resolves()) {
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
}

async fn connected(
    shared: &Rc<Shared>,
    route: &Route,
    host: &HostName,
) -> Result<Rc<Upstream>, IssuerError> {
    let failed = |source| IssuerError::Upstream {
        host: host.clone(),
        source: IssuerFailure(source),
    };
    let security = Security::Tls {
        host: host.clone(),
        config: shared.client_config().await.map_err(failed)?,
    };
    let upstream = Rc::new(Upstream::new(route.clone(), security, Offer::Http1));
    let stream = crate::dial::dial(route)
        .await
        .map_err(|source| failed(UpstreamError::Dial { source }))?;
    upstream.start(stream).await.map_err(failed)?;
    Ok(upstream)
}

async fn send(
    shared: &Rc<Shared>,
    upstream: &Rc<Upstream>,
    route: &Route,
    request: IssuerRequest,
) -> Result<IssuerAnswer, IssuerError> {
    let host = request.host.clone();
    let mut record = Record::begin(shared, Kind::Refresh, place(route, &request));
    record.failed(DenyReason::UpstreamFailed);
    if let Some(index) = shared.credentials.position(&request.credential) {
        record.attached(index);
    }
    let body = RequestBody::of_bytes(Bytes::from(request.body), Rc::clone(record.traffic()));
    let fixed = HeaderValue::from_static;
    let asked = Request::builder()
        .method(Method::POST)
        .uri(request.path)
        .header(HOST, host.as_str())
        .header(CONTENT_TYPE, fixed(request.content_type))
        .header(ACCEPT, fixed("application/json"))
        .header(
            USER_AGENT,
            fixed(concat!("agent-vm/", env!("CARGO_PKG_VERSION"))),
        )
        .body(body);
    let failed = |source| IssuerError::Upstream {
        host: host.clone(),
        source: IssuerFailure(source),
    };
    let asked = asked.map_err(|_| IssuerError::Path { host: host.clone() })?;
    let mut lease = upstream.lease(Wanted::Any).await.map_err(failed)?;
    let response = lease.send(asked).await.map_err(failed)?;
    let (head, body) = response.into_parts();
    let whole = Limited::new(body, MAX_ISSUER_ANSWER_BYTES).collect().await;
    let whole = whole.map_err(|_| IssuerError::Answer { host: host.clone() })?;
    let body = Vec::from(whole.to_bytes());
    record.succeeded();
    record.answered(head.status);
    record.traffic().down.set(body.len() as u64);
    let retry_after = head.headers.get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(IssuerAnswer {
        status: head.status.as_u16(),
        retry_after: retry_after.map(Duration::from_secs),
        body,
    })
}

fn place(route: &Route, request: &IssuerRequest) -> Place {
    let place = Place {
        host: Some(request.host.clone()),
        address: route.address(),
        port: HTTPS_PORT,
        protocol: None,
        rule: None,
        proxy: route.proxy().map(|proxy| proxy.to_string().into()),
        method: None,
        path: None,
    };
    place.with_request(&Method::POST, &request.path)
}
