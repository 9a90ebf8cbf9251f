//! A guest with one egress: opens flows, speaks TLS and HTTP over them, and reads the audit log.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use agent_vm_egress::{
    AuditSink, BoundCredential, ConnectRequest, Duplex, Egress, EgressConfig, FlowEnd, HeaderRule,
    LocalBoxFuture, OpenError, ProxySettings, ResolveOverride, SecretSource, SecretUnavailable,
    TokenEndpoints, UpstreamRoots,
};
use agent_vm_policy::{HostName, HostPattern, Policy};
use agent_vm_secret::{Placeholder, Secret};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::DuplexStream;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::upstream::{Behaviour, Local, Upstream, provider};

pub(crate) const API: &str = "api.bound.test";
pub(crate) const OTHER: &str = "other.bound.test";
pub(crate) const LOGIN: &str = "login.bound.test";
/// A host with a path that answers with tokens.
pub(crate) const TOKENS: &str = "auth.openai.com";
pub(crate) const FREE: &str = "free.test";
/// Intercepted, without an override: a proxy on this machine finds it.
pub(crate) const LOCAL: &str = "localhost";
pub(crate) const OAUTH_SECRET: &str = "sk-real-oauth-token";
pub(crate) const KEY_SECRET: &str = "sk-real-api-key";
pub(crate) const OTHER_SECRET: &str = "gho_real-other-token";

/// Secrets by credential name; `broken` has none.
#[derive(Default)]
pub(crate) struct Secrets {
    /// What `oauth` is after it was rejected.
    pub(crate) newer: RefCell<Option<&'static str>>,
    /// What `oauth` is.
    current: RefCell<Option<&'static str>>,
    /// Credentials that upstreams rejected.
    pub(crate) rejected: RefCell<Vec<String>>,
    /// How often a secret was asked for.
    pub(crate) asked: Cell<usize>,
}

impl Secrets {
    fn find(&self, credential: &str) -> Result<Secret, SecretUnavailable> {
        let text = match credential {
            "oauth" => self.current.borrow().unwrap_or(OAUTH_SECRET),
            "api-key" => KEY_SECRET,
            "other" => OTHER_SECRET,
            _ => {
                return Err(SecretUnavailable {
                    credential: credential.to_owned(),
                });
            }
        };
        Ok(Secret::new(text).unwrap())
    }
}

impl SecretSource for Secrets {
    fn secret<'a>(
        &'a self,
        credential: &'a str,
    ) -> LocalBoxFuture<'a, Result<Secret, SecretUnavailable>> {
        self.asked.set(self.asked.get() + 1);
        Box::pin(std::future::ready(self.find(credential)))
    }

    fn rejected<'a>(&'a self, credential: &'a str, used: &'a Secret) -> LocalBoxFuture<'a, bool> {
        self.rejected.borrow_mut().push(credential.to_owned());
        assert_eq!(
            used.expose(),
            self.find(credential).unwrap().expose(),
            "what was used is told"
        );
        let newer = self.newer.borrow_mut().take();
        if newer.is_some() {
            *self.current.borrow_mut() = newer;
        }
        Box::pin(std::future::ready(newer.is_some()))
    }
}

/// Everything of one test.
#[derive(Clone)]
pub(crate) struct Rig {
    egress: Option<Egress>,
    pub(crate) upstream: Upstream,
    pub(crate) oauth: Placeholder,
    pub(crate) api_key: Placeholder,
    pub(crate) other: Placeholder,
    pub(crate) broken: Placeholder,
    /// Never exchanged: renews a login.
    pub(crate) refresh: Placeholder,
    pub(crate) secrets: Rc<Secrets>,
    pub(crate) token_endpoints: TokenEndpoints,
    pub(crate) local: Placeholder,
    policy: Policy,
    proxies: ProxySettings,
    audit: PathBuf,
    target: SocketAddr,
    dir: Rc<tempfile::TempDir>,
}

/// Runs a test with a rig on one thread.
pub(crate) fn with_rig<F: Future<Output = ()>>(behaviour: Behaviour, test: impl FnOnce(Rig) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limit = std::time::Duration::from_secs(20);
    LocalSet::new().block_on(&runtime, async {
        let test = async {
            let rig = Rig::new(behaviour).await;
            let upstream = rig.upstream.clone();
            test(rig).await;
            upstream.assert_no_leak();
        };
        tokio::time::timeout(limit, test)
            .await
            .expect("the test hangs");
    });
}

impl Rig {
    async fn new(behaviour: Behaviour) -> Self {
        let upstream = Upstream::start(behaviour).await;
        let dir = Rc::new(tempfile::tempdir().unwrap());
        let audit = dir.path().join("audit.jsonl");
        let mint = |prefix: &str| Placeholder::mint(prefix).unwrap();
        let (oauth, api_key) = (mint("sk-ant-oat01-"), mint("sk-ant-api03-"));
        let (other, broken, local) = (mint("gho_"), mint("x-"), mint("gho_"));
        let target = upstream.address;
        let rig = Self {
            upstream,
            oauth,
            api_key,
            other,
            broken,
            refresh: mint("sk-ant-ort01-"),
            secrets: Rc::default(),
            token_endpoints: TokenEndpoints::default(),
            local,
            policy: Policy::public(),
            proxies: ProxySettings::default(),
            audit,
            target,
            egress: None,
            dir,
        };
        rig.assembled()
    }

    /// The same guest whose names lead elsewhere.
    pub(crate) fn with_target(&self, target: SocketAddr) -> Self {
        Self {
            target,
            ..self.clone()
        }
        .assembled()
    }

    /// The same guest under another policy.
    pub(crate) fn with_policy(&self, policy: Policy) -> Self {
        Self {
            policy,
            ..self.clone()
        }
        .assembled()
    }

    /// The same guest on a host that has proxies.
    pub(crate) fn with_proxies(&self, proxies: ProxySettings) -> Self {
        Self {
            proxies,
            ..self.clone()
        }
        .assembled()
    }

    /// The same guest with logins that are renewed.
    pub(crate) fn with_token_endpoints(&self, token_endpoints: TokenEndpoints) -> Self {
        Self {
            token_endpoints,
            ..self.clone()
        }
        .assembled()
    }

    /// The same guest with another audit log.
    pub(crate) fn with_audit(&self, audit: &Path) -> Self {
        Self {
            audit: audit.to_owned(),
            ..self.clone()
        }
        .assembled()
    }

    fn assembled(mut self) -> Self {
        let bind =
            |name: &str, placeholder: &Placeholder, hosts: &[&str], header: &str| BoundCredential {
                name: name.to_owned(),
                placeholder: placeholder.clone(),
                hosts: hosts
                    .iter()
                    .map(|host| HostPattern::parse(host).unwrap())
                    .collect(),
                header: HeaderRule::parse(header).unwrap(),
            };
        let credentials = vec![
            bind("oauth", &self.oauth, &[API, TOKENS], "authorization"),
            bind("api-key", &self.api_key, &[API], "x-api-key"),
            bind("other", &self.other, &[OTHER], "authorization"),
            bind("broken", &self.broken, &[API], "x-broken"),
            BoundCredential {
                hosts: Vec::new(),
                ..bind("refresh", &self.refresh, &[LOGIN], "authorization")
            },
            bind("other", &self.local, &[LOCAL], "authorization"),
        ];
        let route = |host: &str, port| ResolveOverride {
            host: HostName::parse(host).unwrap(),
            port,
            target: self.target,
        };
        let overrides = [API, OTHER, FREE, LOGIN, TOKENS]
            .iter()
            .flat_map(|host| [route(host, 443), route(host, 80)]);
        let egress = Egress::new(EgressConfig {
            session: "test-session".into(),
            project: "test-project".into(),
            policy: self.policy.clone(),
            credentials,
            secrets: self.secrets.clone(),
            token_endpoints: self.token_endpoints.clone(),
            roots: UpstreamRoots {
                extra_pem: vec![self.upstream.ca_pem.clone()],
            },
            overrides: overrides.collect(),
            proxies: self.proxies.clone(),
            audit: AuditSink::open(&self.audit).unwrap(),
        });
        self.egress = Some(egress.unwrap());
        self
    }

    pub(crate) fn egress(&self) -> &Egress {
        assert!(self.dir.path().exists());
        self.egress.as_ref().expect("the rig is assembled")
    }

    /// Opens a flow as the gateway does and serves it; the guest's end is returned.
    pub(crate) async fn open(&self, name: &str, port: u16) -> (DuplexStream, JoinHandle<FlowEnd>) {
        let flow = self.try_open(Some(name), "198.18.0.9", port).await.unwrap();
        let (guest, near) = tokio::io::duplex(64 * 1024);
        (guest, spawn_local(async move { flow.serve(near).await }))
    }

    pub(crate) async fn try_open(
        &self,
        name: Option<&str>,
        address: &str,
        port: u16,
    ) -> Result<agent_vm_egress::OpenFlow, OpenError> {
        let address: IpAddr = address.parse().unwrap();
        let names = name
            .iter()
            .map(|name| HostName::parse(name).unwrap())
            .collect();
        self.egress()
            .open(ConnectRequest {
                names,
                address,
                port,
            })
            .await
    }

    /// TLS as a client in the guest speaks it, trusting only the VM's authority.
    pub(crate) async fn tls(&self, name: &str, alpn: &[&str]) -> TlsStream<DuplexStream> {
        let (guest, _flow) = self.open(name, 443).await;
        connect(guest, self.egress().ca_pem(), name, alpn)
            .await
            .unwrap()
    }

    /// An HTTP/1.1 client over an intercepted connection.
    pub(crate) async fn http1(&self, name: &str) -> Http1 {
        http1(self.tls(name, &["http/1.1"]).await).await
    }

    /// An HTTP/2 client over an intercepted connection.
    pub(crate) async fn http2(
        &self,
        name: &str,
    ) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let stream = self.tls(name, &["h2", "http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) =
            hyper::client::conn::http2::handshake(Local, TokioIo::new(stream))
                .await
                .unwrap();
        spawn_local(connection);
        sender
    }

    /// The audit log so far.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = fs_err::read_to_string(&self.audit).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The last line of the audit log.
    pub(crate) fn last_audit(&self) -> Value {
        self.audit().pop().expect("the log has a line")
    }
}

pub(crate) type Http1 = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

pub(crate) async fn http1<S: Duplex + Send + 'static>(stream: S) -> Http1 {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    spawn_local(connection.with_upgrades());
    sender
}

pub(crate) async fn connect<S: Duplex>(
    stream: S,
    ca_pem: &str,
    name: &str,
    alpn: &[&str],
) -> std::io::Result<TlsStream<S>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// A GET request with these fields; the host is the bound one unless a field says otherwise.
pub(crate) fn get(target: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().uri(target);
    if !fields.iter().any(|(name, _)| *name == "host") && target.starts_with('/') {
        request = request.header("host", API);
    }
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

/// Status, deny reason and text of an answer.
pub(crate) async fn outcome(response: Response<Incoming>) -> (u16, Option<String>, String) {
    let reason = response.headers().get("x-agent-vm-deny");
    let reason = reason.map(|reason| reason.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, reason, String::from_utf8(body.to_vec()).unwrap())
}
