//! How a flow is judged before it is opened, and once more when its first bytes say which host it is for.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use agent_vm_policy::{
    AddressClass, ConnectFacts, ConnectVerdict, DenyReason, HOST_SERVICE_NAME, HostName, Owner,
    Resolution, Rule, canonical, classify,
};

use crate::asks::{Asked, Question};
use crate::dial::Route;
use crate::egress::{ConnectRequest, Shared};
use crate::proxy::{Destination, HTTP_PORT, is_stand_in};

/// Why a flow may not be, and where it was to go.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) names: Vec<HostName>,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) reason: DenyReason,
    pub(crate) rule: Option<Rule>,
}

impl Denial {
    /// What the person can be asked; the guest asked for the first of the names last.
    pub(crate) fn question(&self, shared: &Shared) -> Option<Question> {
        let policy = shared.policy();
        let unanswered = |name: &&HostName| policy.decide_name(name).is_ok();
        let host = self.names.iter().find(unanswered);
        let host = host.filter(|_| self.reason == DenyReason::Unanswered)?;
        Some(Question {
            host: host.clone(),
            port: self.port,
            request: None,
            rule: self.rule.as_ref().map(ToString::to_string),
        })
    }
}

/// A judged flow.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) names: Vec<HostName>,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) route: Route,
    pub(crate) verdict: ConnectVerdict,
    pub(crate) rule: Option<Rule>,
    /// Only HTTP and TLS may be spoken.
    pub(crate) http_only: bool,
    resolution: Resolution,
    owner: Owner,
}

impl Flow {
    /// What is known of it.
    pub(crate) fn facts(&self) -> ConnectFacts<'_> {
        ConnectFacts {
            names: &self.names,
            address: self.address,
            port: self.port,
            resolution: self.resolution,
            owner: self.owner,
        }
    }
}

impl Shared {
    /// Judges a flow by its ClientHello, and gives what decided. Waits for the person where the policy asks.
    pub(crate) async fn judge_hello(
        &self,
        flow: &Flow,
        server_name: Option<&HostName>,
    ) -> (ConnectVerdict, Option<Rule>) {
        let decide = || {
            let policy = self.policy();
            let verdict = policy.decide_hello(flow.verdict, &flow.facts(), server_name);
            let own = server_name.filter(|name| flow.names.contains(name));
            let names = own.map_or(&flow.names[..], std::slice::from_ref);
            (
                verdict,
                policy.rule(&ConnectFacts {
                    names,
                    ..flow.facts()
                }),
            )
        };
        let (verdict, rule) = decide();
        let unanswered = verdict == ConnectVerdict::Deny(DenyReason::Unanswered);
        let Some(name) = server_name.filter(|_| unanswered) else {
            return (verdict, rule);
        };
        let question = Question {
            host: name.clone(),
            port: flow.port,
            request: None,
            rule: rule.as_ref().map(ToString::to_string),
        };
        match self.ask(question, flow.address).await {
            Asked::Answered => decide(),
            Asked::Unanswered => (verdict, rule),
        }
    }

    /// The names that a plain connection may be for.
    pub(crate) fn plain_hosts(&self, flow: &Flow) -> Vec<HostName> {
        let policy = self.policy();
        let allowed = |name: &&HostName| {
            let names = std::slice::from_ref(*name);
            let verdict = policy.decide_connect(&ConnectFacts {
                names,
                ..flow.facts()
            });
            !matches!(verdict, ConnectVerdict::Deny(_))
        };
        flow.names.iter().filter(allowed).cloned().collect()
    }

    pub(crate) fn decide(&self, request: ConnectRequest) -> Result<Flow, Denial> {
        let ConnectRequest {
            mut names,
            address,
            port,
        } = request;
        let overridden = self
            .overrides
            .iter()
            .find(|o| o.port == port && names.contains(&o.host));
        let is_host = |name: &HostName| name.as_str() == HOST_SERVICE_NAME;
        let (route, resolution) = if let Some(o) = overridden {
            names = vec![o.host.clone()];
            (Route::Direct(o.target), Resolution::Overridden)
        } else if names.iter().any(is_host) {
            names.retain(is_host);
            (Route::HostService(port), Resolution::HostService)
        } else if let Some(route) = self.by_name(&names, address, port) {
            (route, Resolution::ByProxy)
        } else {
            let target = SocketAddr::new(canonical(address), port);
            (Route::Direct(target), Resolution::Public)
        };
        let target = route.address();
        let owner = match resolution {
            Resolution::Public if self.host_addresses.contain(target) => Owner::Host,
            Resolution::Public
            | Resolution::Overridden
            | Resolution::ByProxy
            | Resolution::HostService => Owner::Other,
        };
        let facts = ConnectFacts {
            names: &names,
            address: target,
            port,
            resolution,
            owner,
        };
        let policy = self.policy();
        let mut verdict = policy.decide_connect(&facts);
        if self.audit.is_broken() {
            verdict = ConnectVerdict::Deny(DenyReason::AuditUnavailable);
        }
        let rule = policy.rule(&facts);
        let http_only = policy.wants_http(&facts);
        if let ConnectVerdict::Deny(reason) = verdict {
            return Err(Denial {
                rule,
                names,
                address,
                port,
                reason,
            });
        }
        // What is no host for this guest is none that its requests may name.
        names.retain(|name| policy.decide_name(name).is_ok());
        let route = match resolution {
            Resolution::Public => self.by_proxy(&names, target, port).unwrap_or(route),
            Resolution::Overridden | Resolution::ByProxy | Resolution::HostService => route,
        };
        Ok(Flow {
            names,
            address: target,
            port,
            route,
            verdict,
            rule,
            http_only,
            resolution,
            owner,
        })
    }

    /// The way through the host's proxy, for a public address that has one.
    fn by_proxy(&self, names: &[HostName], address: IpAddr, port: u16) -> Option<Route> {
        if self.proxies.is_empty() || classify(address) != AddressClass::Global {
            return None;
        }
        self.through_proxy(names.first(), SocketAddr::new(address, port))
    }

    /// The way through the host's proxy to a name that only the proxy can resolve. Its address is a stand-in: nothing is
    /// ever dialled there.
    fn by_name(&self, names: &[HostName], address: IpAddr, port: u16) -> Option<Route> {
        let [name] = names else { return None };
        if !is_stand_in(address) || !self.proxies.resolves(name) {
            return None;
        }
        let route = self.through_proxy(Some(name), SocketAddr::new(address, port))?;
        route.proxy()?.takes_names().then_some(route)
    }

    fn through_proxy(&self, name: Option<&HostName>, address: SocketAddr) -> Option<Route> {
        let destination = Destination {
            name: name.cloned(),
            address,
        };
        let proxy = Rc::new(self.proxies.choose(&destination)?.clone());
        let forwarded = address.port() == HTTP_PORT && proxy.forwards() && name.is_some();
        Some(if forwarded {
            Route::Forward(proxy, destination)
        } else {
            Route::Tunnel(proxy, destination)
        })
    }
}
