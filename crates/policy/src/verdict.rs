//! The policy and its three decisions. Deny rules come first and nothing undoes them; then what the user overrode by
//! hand; then the class of the address. A credential's hosts are intercepted, all others are passed on untouched.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::address::{AddressClass, canonical, classify};
use crate::host::{HostName, HostPattern};
use crate::reason::DenyReason;

/// What a VM may reach. Built once per launch; the same value is shown by `explain` and enforced.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Policy {
    deny: Vec<FlowPattern>,
    intercept: Vec<HostPattern>,
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

    /// Judges a new connection. [`ConnectVerdict::Intercept`] when any of the names is intercepted: the ClientHello
    /// then says which it is.
    #[must_use]
    pub fn decide_connect(&self, facts: &ConnectFacts<'_>) -> ConnectVerdict {
        if self.deny.iter().any(|pattern| pattern.covers(facts)) {
            return ConnectVerdict::Deny(DenyReason::Rule);
        }
        if facts.resolution == Resolution::Public {
            if facts.owner == Owner::Host {
                return ConnectVerdict::Deny(DenyReason::HostAddress);
            }
            match classify(facts.address) {
                AddressClass::Global => {}
                class => return ConnectVerdict::Deny(DenyReason::Address(class)),
            }
        }
        if facts.names.iter().any(|name| self.intercepts(name)) {
            ConnectVerdict::Intercept
        } else {
            ConnectVerdict::Tunnel
        }
    }

    /// Judges the server name in a ClientHello on an allowed connection to an address that has `names`.
    ///
    /// A name that is intercepted must be one of `names`, else a guest could reach an intercepted host's name through
    /// an address that is not judged. To an address of an intercepted host, every name must be one of `names`.
    #[must_use]
    pub fn decide_hello(
        &self,
        names: &[HostName],
        server_name: Option<&HostName>,
    ) -> ConnectVerdict {
        let guarded = names.iter().any(|name| self.intercepts(name));
        let Some(server_name) = server_name else {
            return if guarded {
                ConnectVerdict::Deny(DenyReason::ServerNameMissing)
            } else {
                ConnectVerdict::Tunnel
            };
        };
        let intercepted = self.intercepts(server_name);
        if (guarded || intercepted) && !names.contains(server_name) {
            return ConnectVerdict::Deny(DenyReason::ServerNameMismatch);
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
        match facts.placeholders {
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
