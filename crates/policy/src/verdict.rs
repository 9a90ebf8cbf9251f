//! The policy and its decisions about names, connections and ClientHellos.
//!
//! What is said about a connection, in this order: metadata services and denials, which nothing undoes; what the user
//! granted by address (`--allow-egress`, `--allow-lan`) or as a service of the host; the class of the address; then what
//! the preset, and each further scope that narrows it, says about the name. Only the rules about hosts have an order
//! ([`crate::rule`]). Hosts with a credential or with rules about requests are intercepted, all others are passed on
//! untouched. An address may stand for several names: a connection may pass when one of them may, and is then held to it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::address::{AddressClass, canonical, classify};
use crate::answer::{Answer, Answers};
use crate::grant::{EgressRule, HOST_SERVICE_NAME, Rule, Scope};
use crate::host::{HostName, HostPattern};
use crate::reason::DenyReason;
use crate::rule::{FlowWord, HostRule, RuleList};

use self::judge::{Basis, Denied};

mod judge;

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
    rules: RuleList,
    /// What the person said while the VM runs.
    answers: Answers,
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
    /// None: the flow's only name is given to a proxy, which resolves it. The address stands for the name and is of no class
    /// that could be judged.
    ByProxy,
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

    /// The same with rules about hosts, behind those it has.
    #[must_use]
    pub fn with_rules(mut self, rules: Vec<HostRule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// The same with what the person said about hosts. A later answer stands before earlier ones; none undoes a denial of
    /// the rules.
    #[must_use]
    pub fn answered(mut self, hosts: HostPattern, answer: Answer) -> Self {
        self.answers.add(hosts, answer);
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

    /// Whether requests to `host` are judged one by one, at some port at least.
    #[must_use]
    pub fn intercepts(&self, host: &HostName) -> bool {
        self.intercepted().any(|pattern| pattern.matches(host))
    }

    /// The hosts whose requests are judged one by one.
    pub fn intercepted(&self) -> impl Iterator<Item = &HostPattern> {
        self.intercept.iter().chain(self.rules.intercepted())
    }

    /// Whether a connection may be passed on whoever it turns out to be for, once it was allowed for its address.
    #[must_use]
    pub fn intercepts_nothing(&self) -> bool {
        self.intercept.is_empty() && self.rules.is_empty() && self.answers.is_empty()
    }

    /// Whether nothing but TLS and HTTP may be spoken over a connection, because what is said about one of its names needs
    /// to know which is meant, or which request is made.
    #[must_use]
    pub fn wants_http(&self, facts: &ConnectFacts<'_>) -> bool {
        let judged = |name| matches!(self.rules.flow(name, facts.port), FlowWord::Requests(_));
        let denied = |name| self.word(name, Some(facts.port)).is_err();
        facts.names.iter().any(|name| judged(name) || denied(name))
    }

    /// Whether a login of the guest's own may not reach a host that has a credential.
    pub(crate) fn refuses_foreign(&self) -> bool {
        self.foreign_credentials == Grant::Denied
    }

    pub(crate) fn rules(&self) -> &RuleList {
        &self.rules
    }

    pub(crate) fn answers(&self) -> &Answers {
        &self.answers
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
        let word = self.word(name, None).map_err(|denied| denied.reason)?;
        if name.as_str() == HOST_SERVICE_NAME {
            return match self.host {
                Grant::Granted => Ok(()),
                Grant::Denied => Err(DenyReason::HostAddress),
            };
        }
        match self.within_scopes(Some((name, &word))) {
            // It exists: whoever connects to it waits for the answer.
            Err(Denied {
                reason: DenyReason::Unanswered,
                ..
            })
            | Ok(_) => Ok(()),
            Err(denied) => Err(denied.reason),
        }
    }

    /// Whether names that are no [`HostName`] may be asked about.
    ///
    /// # Errors
    /// Why not: they cannot be listed.
    pub fn decide_odd_name(&self) -> Result<(), DenyReason> {
        let decided = self.within_scopes(None);
        decided.map(drop).map_err(|denied| denied.reason)
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
    /// then says which it is. Denied as [`DenyReason::Unanswered`] it would be allowed if the person said so.
    #[must_use]
    pub fn decide_connect(&self, facts: &ConnectFacts<'_>) -> ConnectVerdict {
        match self.judge(facts) {
            Err(denied) => ConnectVerdict::Deny(denied.reason),
            Ok(_)
                if facts
                    .names
                    .iter()
                    .any(|name| self.looks_into(name, facts.port)) =>
            {
                ConnectVerdict::Intercept
            }
            Ok((Basis::Name, _)) => ConnectVerdict::Inspect,
            Ok((Basis::Address, _)) => ConnectVerdict::Tunnel,
        }
    }

    /// What lets a connection pass, or the rule or answer that denies it.
    #[must_use]
    pub fn rule(&self, facts: &ConnectFacts<'_>) -> Option<Rule> {
        match self.judge(facts) {
            Ok((_, rule)) => Some(rule),
            Err(denied) => denied.rule,
        }
    }

    /// Whether a connection to `host` at `port` is intercepted.
    fn looks_into(&self, host: &HostName, port: u16) -> bool {
        let credential = self.intercept.iter().any(|pattern| pattern.matches(host));
        credential || matches!(self.rules.flow(host, port), FlowWord::Requests(_))
    }

    /// Judges a TLS connection once its ClientHello has been read; `connected` is what was decided about its connection.
    /// At an address of an intercepted host, or of a listed one, the server name must be one that our DNS answered with
    /// this address; an intercepted name is accepted nowhere else. The connection is then judged as one for that name
    /// alone.
    #[must_use]
    pub fn decide_hello(
        &self,
        connected: ConnectVerdict,
        facts: &ConnectFacts<'_>,
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
        if facts.names.contains(server_name) {
            let names = std::slice::from_ref(server_name);
            return match self.decide_connect(&ConnectFacts { names, ..*facts }) {
                ConnectVerdict::Inspect => ConnectVerdict::Tunnel,
                verdict => verdict,
            };
        }
        if guarded || self.intercepts(server_name) {
            return ConnectVerdict::Deny(match self.decide_name(server_name) {
                Err(DenyReason::NotListed) => DenyReason::NotListed,
                Ok(()) | Err(_) => DenyReason::ServerNameMismatch,
            });
        }
        match self.word(server_name, Some(facts.port)) {
            Err(denied) => ConnectVerdict::Deny(denied.reason),
            Ok(word) if word.unanswered => ConnectVerdict::Deny(DenyReason::ServerNameMismatch),
            Ok(_) => ConnectVerdict::Tunnel,
        }
    }
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
mod rule_tests;
#[cfg(test)]
mod tests;
