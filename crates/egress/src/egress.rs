//! The egress of one VM: what it is made of, and how a flow is opened.

use std::cell::{OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use agent_vm_policy::{ConnectVerdict, DenyReason, FlowPattern, HostName, HostPattern, Policy};
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;

use crate::asks::{Asked, Asks};
use crate::audit::{
    AuditEvent, AuditSink, DeniedName, DeniedPacket, Kind, Source, Verdict, bounded,
};
use crate::ca::SessionCa;
use crate::canary::{Canary, CanaryAlive};
use crate::credential::{BoundCredential, CredentialSet, SecretSource};
use crate::dial::{HostAddresses, dial};
use crate::flow;
use crate::judged::{Denial, Flow};
use crate::leaf_cache::{LeafCache, LeafError, Offer};
use crate::pool::{Key, Pool};
use crate::proxy::ProxySettings;
use crate::record::Record;
use crate::scrub::SentSecrets;
use crate::splice::Duplex;
use crate::tls_roots::{LazyRoots, UpstreamRoots};
use crate::token_endpoint::TokenEndpoints;
use crate::upstream::UpstreamError;
use crate::usage::UsageLog;

mod errors;

pub use errors::{EgressError, OpenError};

/// What the egress of one VM is made of.
pub struct EgressConfig {
    /// Id of the session, for the audit log.
    pub session: String,
    /// Id of the project, for the audit log.
    pub project: String,
    /// What may be reached. The hosts of the credentials are intercepted in addition to what it says.
    pub policy: Policy,
    /// Placeholders and where their secrets may go.
    pub credentials: Vec<BoundCredential>,
    /// Where the secrets come from.
    pub secrets: Rc<dyn SecretSource>,
    /// Where logins are renewed, and who answers there.
    pub token_endpoints: TokenEndpoints,
    /// Which upstream certificates are trusted.
    pub roots: UpstreamRoots,
    /// Names and ports that the user sends elsewhere.
    pub overrides: Vec<ResolveOverride>,
    /// The host's proxies.
    pub proxies: ProxySettings,
    /// Where decisions are recorded.
    pub audit: AuditSink,
}

/// A name and port that lead to an address of the user's choice (`--resolve`), whatever the class of that address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveOverride {
    /// The name.
    pub host: HostName,
    /// The port as the guest asks for it.
    pub port: u16,
    /// Where it leads.
    pub target: SocketAddr,
}

/// A connection that the guest wants to open.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// Names our DNS answered with this address, the most recent first.
    pub names: Vec<HostName>,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// The egress of one VM. Cheap to clone.
#[derive(Clone)]
pub struct Egress {
    shared: Rc<Shared>,
}

/// What all flows of one VM share.
pub(crate) struct Shared {
    pub(crate) session: String,
    pub(crate) project: String,
    policy: RefCell<Rc<Policy>>,
    pub(crate) asks: Asks,
    pub(crate) credentials: CredentialSet,
    pub(crate) secrets: Rc<dyn SecretSource>,
    pub(crate) token_endpoints: TokenEndpoints,
    pub(crate) sent: SentSecrets,
    pub(crate) pool: Rc<Pool>,
    pub(crate) audit: AuditSink,
    canary: Canary,
    /// Where what models used is counted.
    pub(crate) usage: OnceCell<Rc<UsageLog>>,
    pub(crate) overrides: Vec<ResolveOverride>,
    pub(crate) proxies: ProxySettings,
    pub(crate) host_addresses: HostAddresses,
    ca: SessionCa,
    leaves: LeafCache,
    roots: LazyRoots,
}

impl Egress {
    /// Makes the egress and the VM's certificate authority.
    ///
    /// # Errors
    /// When the authority cannot be made or an extra upstream authority cannot be read.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        let hosts = config
            .credentials
            .iter()
            .flat_map(|c| c.hosts.clone())
            .chain(config.token_endpoints.hosts());
        let policy = hosts.fold(config.policy, Policy::intercept);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = LazyRoots::new(Arc::clone(&provider), &config.roots)
            .map_err(|source| EgressError::Roots { source })?;
        let vouched: Vec<_> = policy.intercepted().cloned().collect();
        let ca = SessionCa::new(&config.session, &vouched)
            .map_err(|source| EgressError::Ca { source })?;
        let canary = Canary::new().map_err(|source| EgressError::Random { source })?;
        let policy = policy.deny(FlowPattern::Host(HostPattern::Exact(canary.name().clone())));
        let shared = Shared {
            session: config.session,
            project: config.project,
            policy: RefCell::new(Rc::new(policy)),
            asks: Asks::default(),
            credentials: CredentialSet::new(config.credentials),
            secrets: config.secrets,
            token_endpoints: config.token_endpoints,
            sent: SentSecrets::default(),
            pool: Rc::default(),
            audit: config.audit,
            canary,
            usage: OnceCell::new(),
            overrides: config.overrides,
            proxies: config.proxies,
            host_addresses: HostAddresses::new(),
            ca,
            leaves: LeafCache::new(provider),
            roots,
        };
        Ok(Self {
            shared: Rc::new(shared),
        })
    }

    /// Certificate of the VM's authority, for the guest's trust stores.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.shared.ca.pem()
    }

    /// Counts from now on what models used. A second log is not taken.
    pub fn count_usage(&self, log: UsageLog) {
        let _first_stays = self.shared.usage.set(Rc::new(log));
    }

    /// The policy that is in force now; an answer of the person may put another in its place.
    #[must_use]
    pub fn policy(&self) -> Rc<Policy> {
        self.shared.policy()
    }

    /// What the guest must try before it starts programs.
    #[must_use]
    pub fn canary(&self) -> &Canary {
        &self.shared.canary
    }

    /// Whether the guest's canary was seen and refused, so that this egress is the one in force.
    ///
    /// # Errors
    /// What was not.
    pub fn is_in_force(&self) -> Result<(), CanaryAlive> {
        if self.shared.audit.is_broken() {
            return Err(CanaryAlive::Audit);
        }
        self.shared.canary.dead()
    }

    /// Whether `name`, as the guest asks for it, exists for the guest.
    ///
    /// # Errors
    /// Why it does not.
    pub fn ask(&self, name: &str) -> Result<(), DenyReason> {
        let shared = &self.shared;
        let decided = match HostName::parse(name) {
            Ok(name) => shared.policy().decide_name(&name),
            Err(_odd) => shared.policy().decide_odd_name(),
        };
        match decided {
            Ok(()) => shared.audit.record_question(shared.source(), name),
            Err(reason) if shared.canary.asks(name) => {
                let mut event = AuditEvent::new(shared.source(), Kind::Canary);
                event.host = Some(name);
                if shared.record_refusal(event, reason) {
                    shared.canary.name_refused(reason);
                }
            }
            Err(reason) => {
                let denied = DeniedName {
                    name: bounded(name),
                    address: None,
                    reason,
                };
                shared.audit.record_denied_name(shared.source(), denied, 0);
            }
        }
        if shared.audit.is_broken() {
            return Err(DenyReason::AuditUnavailable);
        }
        decided
    }

    /// Whether connections to `name` are made by a proxy that is given the name, so that it needs no address of its own.
    #[must_use]
    pub fn connects_by_name(&self, name: &str) -> bool {
        let shared = &self.shared;
        HostName::parse(name).is_ok_and(|name| {
            shared.proxies.resolves(&name) && shared.policy().decide_name(&name).is_ok()
        })
    }

    /// Records that the guest was not told `address` for `name`; `unseen` such answers were not even told here.
    pub fn record_denied_answer(&self, name: &str, address: IpAddr, unseen: u64) {
        let shared = &self.shared;
        let decided = shared.policy().decide_answer(address);
        let denied = DeniedName {
            name: bounded(name),
            address: Some(address),
            reason: decided.err().unwrap_or(DenyReason::Rule),
        };
        shared
            .audit
            .record_denied_name(shared.source(), denied, unseen);
    }

    /// Judges a connection and, if it may pass, connects upstream. The guest's SYN is answered after that, so a
    /// refused port looks refused to the guest. Waits for the person where the policy asks.
    ///
    /// # Errors
    /// When it is denied (recorded) or the upstream cannot be reached.
    pub async fn open(&self, request: ConnectRequest) -> Result<OpenFlow, OpenError> {
        let mut decided = self.shared.decide(request.clone());
        if let Err(denial) = &decided
            && let Some(question) = denial.question(&self.shared)
            && self.shared.ask(question, denial.address).await == Asked::Answered
        {
            decided = self.shared.decide(request);
        }
        let flow = decided.map_err(|denial| {
            self.shared.record_denied(&denial);
            OpenError::Denied {
                reason: denial.reason,
            }
        })?;
        if self.shared.shares(&flow) {
            return Ok(OpenFlow {
                shared: Rc::clone(&self.shared),
                flow,
                upstream: None,
            });
        }
        // Written also when the guest gives up meanwhile.
        let mut opening = Record::begin(&self.shared, Kind::Connect, flow.place());
        opening.failed(DenyReason::UpstreamFailed);
        let prepare = async {
            if flow.verdict == ConnectVerdict::Intercept {
                let _told_later = self.shared.client_config().await;
            }
        };
        let upstream = match tokio::join!(dial(&flow.route), prepare) {
            (Ok(stream), ()) => stream,
            (Err(error), ()) => {
                opening.failed(error.reason());
                return Err(OpenError::Dial(error));
            }
        };
        opening.forget();
        Ok(OpenFlow {
            shared: Rc::clone(&self.shared),
            flow,
            upstream: Some(upstream),
        })
    }

    pub(crate) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// Records a packet that the gateway denied because it belongs to no connection; `unseen` such packets were not
    /// even told here.
    pub fn record_denied_packet(&self, packet: DeniedPacket, unseen: u64) {
        self.shared
            .audit
            .record_packet(self.shared.source(), packet, unseen);
    }
}

impl Shared {
    /// The policy that is in force now.
    pub(crate) fn policy(&self) -> Rc<Policy> {
        Rc::clone(&self.policy.borrow())
    }

    pub(crate) fn set_policy(&self, policy: Rc<Policy>) {
        *self.policy.borrow_mut() = policy;
    }

    /// Whose decisions are recorded.
    pub(crate) fn source(&self) -> Source<'_> {
        Source {
            session: &self.session,
            project: &self.project,
        }
    }

    /// The TLS configuration toward upstreams.
    pub(crate) async fn client_config(&self) -> Result<Arc<ClientConfig>, UpstreamError> {
        self.roots
            .client_config()
            .await
            .map_err(|source| UpstreamError::Roots { source })
    }

    /// The TLS configuration toward the guest.
    pub(crate) fn server_config(
        &self,
        host: &HostName,
        offer: Offer,
    ) -> Result<Arc<ServerConfig>, LeafError> {
        self.leaves.server_config(&self.ca, host, offer)
    }

    /// Whether there is a connection that a flow will probably share.
    fn shares(&self, flow: &Flow) -> bool {
        let shared = |name| Key::new(name, &flow.route).is_some_and(|key| self.pool.has(&key));
        flow.verdict == ConnectVerdict::Intercept && flow.names.iter().any(shared)
    }

    /// Whether there is nothing to look for in flows to hosts that are not intercepted.
    pub(crate) fn passes_unseen(&self) -> bool {
        self.policy().intercepts_nothing() && self.credentials.scanner().is_empty()
    }

    /// Records a connection that is denied.
    fn record_denied(&self, denial: &Denial) {
        let is_canary = self.canary.connects(denial.address, denial.port);
        let kind = if is_canary {
            Kind::Canary
        } else {
            Kind::Connect
        };
        let mut event = AuditEvent::new(self.source(), kind);
        event.host = denial.names.first().map(HostName::as_str);
        event.address = Some(denial.address);
        event.port = Some(denial.port);
        event.rule = denial.rule.as_ref();
        if self.record_refusal(event, denial.reason) && is_canary {
            self.canary.connection_refused(denial.reason);
        }
    }

    /// Records that something is denied; says whether it is recorded.
    fn record_refusal(&self, mut event: AuditEvent<'_>, reason: DenyReason) -> bool {
        event.verdict = Some(Verdict::Deny);
        event.reason = Some(reason);
        self.audit.record(&event).is_ok()
    }
}

/// A flow whose upstream connection is open.
pub struct OpenFlow {
    shared: Rc<Shared>,
    flow: Flow,
    /// `None` while it may be one that the guest's connections share.
    upstream: Option<TcpStream>,
}

impl OpenFlow {
    /// Carries the guest's bytes until both sides are done. Must run inside a `LocalSet`.
    pub async fn serve<S: Duplex + 'static>(self, guest: S) -> FlowEnd {
        flow::serve(self.shared, self.flow, self.upstream, guest).await
    }
}

/// How the guest's side of a flow is to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEnd {
    /// Both directions were closed in order.
    Finished,
    /// The flow was denied or broke off: the guest gets a reset.
    Reset,
}
