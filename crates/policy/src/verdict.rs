//! The policy and its decisions about names, connections, ClientHellos and requests.
//!
//! What is said about a connection, in this order: metadata services and deny rules, which nothing undoes; what the user
//! granted by address (`--allow-egress`, `--allow-lan`) or as a service of the host; the class of the address; then what
//! the preset, and each further scope that narrows it, says about the name. The order in which rules were given never
//! matters. A credential's hosts are intercepted, all others are passed on untouched.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::address::{AddressClass, canonical, classify};
use crate::grant::{EgressRule, HOST_SERVICE_NAME, Preset, Rule, Scope, can_be_granted};
use crate::host::{HostName, HostPattern};
use crate::reason::DenyReason;

/// What a VM may reach. Built once per launch; the same value is shown by `explain` and enforced.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Policy {
    scope: Scope,
    /// Each narrows what may be reached further.
    narrowed: Vec<Scope>,
    deny: Vec<FlowPattern>,
    intercept: Vec<HostPattern>,
    egress: Vec<EgressRule>,
    lan: Grant,
    host: Grant,
    foreign_credentials: Grant,
}

/// Whether something is granted that is denied by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Grant {
    #[default]
    Denied,
    Granted,
}

/// Flows that a deny rule covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum FlowPattern {
    /// Destinations in this network, at every port.
    Network(IpNet),
    /// Destinations with this port, at every address.
    Port(u16),
    /// Destinations that our DNS answered for a name in this pattern.
    Host(HostPattern),
}

/// Where the address of a flow comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// From DNS, or chosen by the guest.
    Public,
    /// Given by the user for this name and port (`--resolve`): exempt from the check of its class.
    Overridden,
    /// The flow is for [`HOST_SERVICE_NAME`], so that the host's loopback would be dialled.
    HostService,
}

/// Whose address a destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// This machine has it on one of its interfaces.
    Host,
    /// Anyone else.
    Other,
}

/// What is known when the guest opens a connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectFacts<'a> {
    /// Names our DNS answered with this address.
    pub names: &'a [HostName],
    /// The address that would be dialled.
    pub address: IpAddr,
    /// The port that would be dialled.
    pub port: u16,
    /// Where the address comes from.
    pub resolution: Resolution,
    /// Whose address it is.
    pub owner: Owner,
}

/// Whether and how a flow may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectVerdict {
    /// Not at all.
    Deny(DenyReason),
    /// As it is, end to end.
    Tunnel,
    /// As it is, if the host that its first bytes name is the one it was allowed for.
    Inspect,
    /// With TLS ended here, so that each request can be judged and given its credential.
    Intercept,
}

/// What carries a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TLS, with the upstream's certificate verified.
    Tls,
    /// Nothing that protects it.
    Plain,
}

/// The worst place in which a request head carries a placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlaceholderUse {
    /// No placeholder at all.
    None,
    /// Only in the header that the credential names, at a host it is bound to.
    InItsHeader,
    /// One that is bound to other hosts.
    OtherHost,
    /// In another header, the path or the query, in any encoding.
    Elsewhere,
}

/// Whether a request carries a login of its own to a host that a credential is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignCredential {
    /// No login, or only the placeholder of the host's own.
    Absent,
    /// Another key, token or session.
    Present,
}

/// What is known of a request when it is judged: the head, nothing of the body.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The host the connection is for: the TLS server name, or the resolved name of a plain connection.
    pub host: &'a HostName,
    /// The host that the request names (`:authority` or `Host`); `None` when it is missing or no host name.
    pub authority: Option<&'a HostName>,
    /// What carries the request.
    pub transport: Transport,
    /// Method, as sent.
    pub method: &'a str,
    /// Path and query, as sent.
    pub target: &'a str,
    /// Where placeholders are.
    pub placeholders: PlaceholderUse,
    /// Whether somebody else's credential is in it.
    pub foreign: ForeignCredential,
}

/// Whether a request may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestVerdict {
    /// Not at all.
    Deny(DenyReason),
    /// With its credential, when it carries the placeholder of one.
    Allow,
}

impl Policy {
    /// The default: the public Internet and nothing else (FEATURES D2).
    #[must_use]
    pub fn public() -> Self {
        Self::default()
    }

    /// A policy that begins with `scope`.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            ..Self::default()
        }
    }

    /// The same, within `scope` too: what either denies is denied.
    #[must_use]
    pub fn narrow(mut self, scope: Scope) -> Self {
        self.narrowed.push(scope);
        self
    }

    /// The same with an address or network that may be reached.
    #[must_use]
    pub fn allow_egress(mut self, rule: EgressRule) -> Self {
        self.egress.push(rule);
        self
    }

    /// The same with the user's own network: the private IPv4 networks and unique local IPv6 addresses.
    #[must_use]
    pub fn allow_lan(mut self) -> Self {
        self.lan = Grant::Granted;
        self
    }

    /// The same with the services on the host's loopback, by their name.
    #[must_use]
    pub fn allow_host(mut self) -> Self {
        self.host = Grant::Granted;
        self
    }

    /// The same with credentials of the guest's own allowed at hosts that a credential is bound to.
    #[must_use]
    pub fn allow_foreign_credentials(mut self) -> Self {
        self.foreign_credentials = Grant::Granted;
        self
    }

    /// Whether the services on the host's loopback may be reached.
    #[must_use]
    pub fn allows_host(&self) -> bool {
        self.host == Grant::Granted
    }

    /// The same with one more deny rule.
    #[must_use]
    pub fn deny(mut self, pattern: FlowPattern) -> Self {
        self.deny.push(pattern);
        self
    }

    /// The same with one more pattern of hosts whose TLS is intercepted.
    #[must_use]
    pub fn intercept(mut self, hosts: HostPattern) -> Self {
        if !self.intercept.contains(&hosts) {
            self.intercept.push(hosts);
        }
        self
    }

    /// Whether requests to `host` are judged one by one.
    #[must_use]
    pub fn intercepts(&self, host: &HostName) -> bool {
        self.intercept.iter().any(|pattern| pattern.matches(host))
    }

    /// Whether no host at all is intercepted.
    #[must_use]
    pub fn intercepts_nothing(&self) -> bool {
        self.intercept.is_empty()
    }

    /// Whether `name` exists for the guest; what does not is never asked of a name server.
    ///
    /// # Errors
    /// Why it does not.
    pub fn decide_name(&self, name: &HostName) -> Result<(), DenyReason> {
        let denied = |pattern: &FlowPattern| matches!(pattern, FlowPattern::Host(hosts) if hosts.matches(name));
        if self.deny.iter().any(denied) {
            return Err(DenyReason::Rule);
        }
        if name.as_str() == HOST_SERVICE_NAME {
            return match self.host {
                Grant::Granted => Ok(()),
                Grant::Denied => Err(DenyReason::HostAddress),
            };
        }
        self.within_scopes(std::slice::from_ref(name)).map(drop)
    }

    /// Whether names that are no [`HostName`] may be asked about.
    ///
    /// # Errors
    /// Why not: they cannot be listed.
    pub fn decide_odd_name(&self) -> Result<(), DenyReason> {
        self.within_scopes(&[]).map(drop)
    }

    /// Whether the guest may be told `address` as that of a name: no connection to what it may not be told is allowed.
    ///
    /// # Errors
    /// Why not.
    pub fn decide_answer(&self, address: IpAddr) -> Result<(), DenyReason> {
        match classify(address) {
            AddressClass::Global => Ok(()),
            _ if self.granted(address, None, Owner::Other).is_some() => Ok(()),
            class => Err(DenyReason::Address(class)),
        }
    }

    /// Judges a new connection. [`ConnectVerdict::Intercept`] when any of the names is intercepted: the ClientHello
    /// then says which it is.
    #[must_use]
    pub fn decide_connect(&self, facts: &ConnectFacts<'_>) -> ConnectVerdict {
        match self.judge(facts) {
            Err(reason) => ConnectVerdict::Deny(reason),
            Ok(_) if facts.names.iter().any(|name| self.intercepts(name)) => {
                ConnectVerdict::Intercept
            }
            Ok((Basis::Name, _)) => ConnectVerdict::Inspect,
            Ok((Basis::Address, _)) => ConnectVerdict::Tunnel,
        }
    }

    /// What lets a connection pass; `None` when it is denied.
    #[must_use]
    pub fn rule(&self, facts: &ConnectFacts<'_>) -> Option<Rule> {
        self.judge(facts).ok().map(|(_, rule)| rule)
    }

    fn judge(&self, facts: &ConnectFacts<'_>) -> Result<(Basis, Rule), DenyReason> {
        let class = classify(facts.address);
        if class == AddressClass::Metadata {
            return Err(DenyReason::Address(class));
        }
        if self.deny.iter().any(|pattern| pattern.covers(facts)) {
            return Err(DenyReason::Rule);
        }
        if facts.resolution == Resolution::HostService {
            return match self.host {
                Grant::Granted => Ok((Basis::Address, Rule::Host)),
                Grant::Denied => Err(DenyReason::HostAddress),
            };
        }
        if let Some(rule) = self.granted(facts.address, Some(facts.port), facts.owner) {
            return Ok((Basis::Address, rule));
        }
        if facts.resolution == Resolution::Public {
            if facts.owner == Owner::Host {
                return Err(DenyReason::HostAddress);
            }
            if class != AddressClass::Global {
                return Err(DenyReason::Address(class));
            }
        }
        let (basis, rule) = self.within_scopes(facts.names)?;
        match facts.resolution {
            Resolution::Overridden => Ok((basis, Rule::Resolve)),
            Resolution::Public | Resolution::HostService => Ok((basis, rule)),
        }
    }

    /// The grant by address that covers a destination; at any port when that is not known.
    fn granted(&self, address: IpAddr, port: Option<u16>, owner: Owner) -> Option<Rule> {
        let (address, class) = (canonical(address), classify(address));
        let covers = |rule: &&EgressRule| {
            let whose = owner == Owner::Other || rule.is_single();
            whose && can_be_granted(class) && rule.covers(address, port)
        };
        if let Some(rule) = self.egress.iter().find(covers) {
            return Some(Rule::Egress(*rule));
        }
        let lan = self.lan == Grant::Granted && owner == Owner::Other && is_lan(address, class);
        lan.then_some(Rule::Lan)
    }

    /// Whether every scope lets a flow with these names pass.
    fn within_scopes(&self, names: &[HostName]) -> Result<(Basis, Rule), DenyReason> {
        let scopes = || std::iter::once(&self.scope).chain(&self.narrowed);
        if scopes().any(|scope| scope.preset == Preset::Offline) {
            return Err(DenyReason::Offline);
        }
        let mut lists = scopes().filter(|scope| scope.preset == Preset::Allowlist);
        let Some(first) = lists.next() else {
            return Ok((Basis::Address, Rule::Public));
        };
        let lists: Vec<&Scope> = std::iter::once(first).chain(lists).collect();
        let listed = |name: &HostName| {
            let in_each = lists.iter().map(|scope| self.lists(scope, name));
            in_each.reduce(Option::and).flatten()
        };
        let rule = names.iter().find_map(listed);
        rule.map_or(Err(DenyReason::NotListed), |rule| Ok((Basis::Name, rule)))
    }

    /// What puts `name` on the list of `scope`.
    fn lists(&self, scope: &Scope, name: &HostName) -> Option<Rule> {
        let find = |patterns: &[HostPattern]| {
            let found = patterns.iter().find(|pattern| pattern.matches(name));
            found.cloned()
        };
        let listed = find(&scope.domains).map(Rule::Domain);
        listed.or_else(|| find(&self.intercept).map(Rule::CredentialHost))
    }

    /// Judges a TLS connection once its ClientHello has been read; `connected` is what was decided about its connection.
    /// At an address of an intercepted host, or of a listed one, the server name must be one that our DNS answered with
    /// this address; an intercepted name is accepted nowhere else.
    #[must_use]
    pub fn decide_hello(
        &self,
        connected: ConnectVerdict,
        names: &[HostName],
        server_name: Option<&HostName>,
    ) -> ConnectVerdict {
        let guarded = match connected {
            ConnectVerdict::Deny(_) => return connected,
            ConnectVerdict::Inspect | ConnectVerdict::Intercept => true,
            ConnectVerdict::Tunnel => false,
        };
        let Some(server_name) = server_name else {
            return if guarded {
                ConnectVerdict::Deny(DenyReason::ServerNameMissing)
            } else {
                ConnectVerdict::Tunnel
            };
        };
        let intercepted = self.intercepts(server_name);
        if (guarded || intercepted) && !names.contains(server_name) {
            return ConnectVerdict::Deny(match self.decide_name(server_name) {
                Err(DenyReason::NotListed) => DenyReason::NotListed,
                Ok(()) | Err(_) => DenyReason::ServerNameMismatch,
            });
        }
        if intercepted {
            ConnectVerdict::Intercept
        } else {
            ConnectVerdict::Tunnel
        }
    }

    /// Judges one request of an intercepted connection.
    #[must_use]
    pub fn decide_request(&self, facts: &RequestFacts<'_>) -> RequestVerdict {
        if facts.method == "CONNECT" {
            return RequestVerdict::Deny(DenyReason::ConnectMethod);
        }
        if facts.authority != Some(facts.host) {
            return RequestVerdict::Deny(DenyReason::AuthorityMismatch);
        }
        let in_clear = facts.transport == Transport::Plain;
        let foreign = facts.foreign == ForeignCredential::Present
            && self.foreign_credentials == Grant::Denied;
        match facts.placeholders {
            PlaceholderUse::None | PlaceholderUse::InItsHeader if foreign => {
                RequestVerdict::Deny(DenyReason::ForeignCredential)
            }
            PlaceholderUse::None => RequestVerdict::Allow,
            _ if in_clear => RequestVerdict::Deny(DenyReason::PlaceholderInClear),
            PlaceholderUse::InItsHeader => RequestVerdict::Allow,
            PlaceholderUse::OtherHost => RequestVerdict::Deny(DenyReason::PlaceholderOtherHost),
            PlaceholderUse::Elsewhere => {
                RequestVerdict::Deny(DenyReason::PlaceholderOutsideCredential)
            }
        }
    }
}

/// What a flow was allowed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Basis {
    /// Its address: whatever host it is for.
    Address,
    /// One of its names: only for that host.
    Name,
}

/// Whether the address is itself one of the user's own network. One that only hides such an address leads elsewhere.
fn is_lan(canonical: IpAddr, class: AddressClass) -> bool {
    let plain = match canonical {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => matches!(v6.segments()[0], 0xfc00..=0xfdff | 0xfec0..=0xfeff),
    };
    plain && class == AddressClass::Private
}

impl FlowPattern {
    fn covers(&self, facts: &ConnectFacts<'_>) -> bool {
        match self {
            Self::Network(network) => network.contains(&canonical(facts.address)),
            Self::Port(port) => *port == facts.port,
            Self::Host(pattern) => facts.names.iter().any(|name| pattern.matches(name)),
        }
    }
}

#[cfg(test)]
mod tests;
