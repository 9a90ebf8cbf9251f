//! What the user may grant: the preset of a policy, addresses and networks (`--allow-egress`), and the rule that let a
//! flow pass, for the audit log.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;
use thiserror::Error;

use crate::address::{AddressClass, classify};
use crate::host::HostPattern;
use crate::rule::RuleName;

/// The name that stands for the services on the host's loopback. It means something only with `--allow-host`, and is
/// never asked of a name server.
pub const HOST_SERVICE_NAME: &str = "host.agent-vm.internal";

/// What a policy begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Public addresses and DNS; nothing of the host, no private network.
    #[default]
    Public,
    /// Public addresses, but only of hosts that are listed or have a credential; no other name exists.
    Allowlist,
    /// As with a list, but the person is asked about hosts that are not on it.
    Ask,
    /// Nothing, and no name exists.
    Offline,
}

impl Preset {
    /// Whether hosts can be listed under it.
    #[must_use]
    pub fn has_list(self) -> bool {
        match self {
            Self::Allowlist | Self::Ask => true,
            Self::Public | Self::Offline => false,
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Allowlist => "allowlist",
            Self::Ask => "ask",
            Self::Offline => "offline",
        })
    }
}

/// The text names no preset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a policy is `public`, `allowlist`, `ask` or `offline`")]
pub struct PresetError;

impl FromStr for Preset {
    type Err = PresetError;

    fn from_str(text: &str) -> Result<Self, PresetError> {
        let all = [Self::Public, Self::Allowlist, Self::Ask, Self::Offline];
        let found = all.into_iter().find(|preset| preset.to_string() == text);
        found.ok_or(PresetError)
    }
}

/// Which part of the Internet may be reached: what a policy begins with, or what a project narrows it to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Scope {
    /// What it begins with.
    pub preset: Preset,
    /// Hosts that [`Preset::Allowlist`] and [`Preset::Ask`] list.
    pub domains: Vec<HostPattern>,
    /// Hosts of the built-in list, which count as listed too.
    pub builtin: Vec<HostPattern>,
}

/// An address or network, at one port or all, that may be reached although it is not public (`--allow-egress`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EgressRule {
    network: IpNet,
    port: Option<u16>,
}

impl EgressRule {
    /// Reads `IP`, `CIDR`, `IP:PORT` or `CIDR:PORT`; IPv6 with a port is in brackets. An IPv4-mapped network is the IPv4
    /// network.
    ///
    /// # Errors
    /// When it has another form, or covers nothing that can ever be reached; the error says what to write instead.
    pub fn parse(text: &str) -> Result<Self, EgressRuleError> {
        let form = || EgressRuleError::Form {
            text: shortened(text),
        };
        let (network, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']').ok_or_else(form)? {
                (network, "") => (network, None),
                (network, rest) => (network, Some(rest.strip_prefix(':').ok_or_else(form)?)),
            },
            None if text.bytes().filter(|byte| *byte == b':').count() > 1 => (text, None),
            None => match text.split_once(':') {
                Some((network, port)) => (network, Some(port)),
                None => (text, None),
            },
        };
        let port = match port.map(u16::from_str) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(form()),
        };
        let network = parse_network(network).ok_or_else(form)?;
        if network.trunc() != network {
            return Err(EgressRuleError::HostBits {
                text: shortened(text),
                network: network.trunc(),
            });
        }
        let rule = Self {
            network: unmapped(network),
            port,
        };
        match rule.unreachable() {
            Some(class) => Err(EgressRuleError::Never {
                text: shortened(text),
                class,
            }),
            None => Ok(rule),
        }
    }

    /// Whether it covers `address` (canonical) at `port`, or at any port when that is not known.
    pub(crate) fn covers(&self, address: IpAddr, port: Option<u16>) -> bool {
        let at_port = match (self.port, port) {
            (Some(own), Some(port)) => own == port,
            (None, _) | (_, None) => true,
        };
        at_port && self.network.contains(&address)
    }

    /// Whether it names one address: only then may it be one of this machine's own.
    pub(crate) fn is_single(&self) -> bool {
        self.network.prefix_len() == self.network.max_prefix_len()
    }

    /// The class of all its addresses, if that is one no rule reaches.
    fn unreachable(&self) -> Option<AddressClass> {
        let first = classify(self.network.network());
        let all = first == classify(self.network.broadcast());
        (all && !can_be_granted(first)).then_some(first)
    }
}

/// Whether addresses of this class can be granted at all. Loopback is the guest's own and the host's is reached by name;
/// metadata services hand out credentials; the others are no destinations of a connection.
pub(crate) fn can_be_granted(class: AddressClass) -> bool {
    match class {
        AddressClass::Global
        | AddressClass::Private
        | AddressClass::Shared
        | AddressClass::LinkLocal
        | AddressClass::Documentation
        | AddressClass::Transition
        | AddressClass::Reserved => true,
        AddressClass::Unspecified
        | AddressClass::Loopback
        | AddressClass::Metadata
        | AddressClass::Multicast
        | AddressClass::Broadcast => false,
    }
}

fn parse_network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>().ok().or_else(address)
}

/// The IPv4 network of an IPv4-mapped one.
fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else {
        return network;
    };
    let v4: Option<Ipv4Addr> = v6.network().to_ipv4_mapped();
    let mapped = v4.zip(v6.prefix_len().checked_sub(96));
    let v4 = mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    v4.map_or(network, IpNet::V4)
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for EgressRule {
    type Err = EgressRuleError;

    fn from_str(text: &str) -> Result<Self, EgressRuleError> {
        Self::parse(text)
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = if self.is_single() {
            self.network.addr().to_string()
        } else {
            self.network.to_string()
        };
        match (self.network, self.port) {
            (_, None) => f.write_str(&network),
            (IpNet::V4(_), Some(port)) => write!(f, "{network}:{port}"),
            (IpNet::V6(_), Some(port)) => write!(f, "[{network}]:{port}"),
        }
    }
}

impl Serialize for EgressRule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is no [`EgressRule`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EgressRuleError {
    /// It has another form.
    #[error(
        "{text:?} is not IP, CIDR, IP:PORT or CIDR:PORT (IPv6 with a port in brackets); a host is named by --allow-domain"
    )]
    Form {
        /// As given.
        text: String,
    },
    /// The address has bits behind the prefix.
    #[error("{text:?} has bits set behind its prefix; the network is {network}")]
    HostBits {
        /// As given.
        text: String,
        /// What is probably meant.
        network: IpNet,
    },
    /// Nothing allows these addresses.
    #[error("{text:?} can never be reached from a VM: {}", never(*.class))]
    Never {
        /// As given.
        text: String,
        /// What all of it is.
        class: AddressClass,
    },
}

/// Why, and what there is instead.
fn never(class: AddressClass) -> &'static str {
    match class {
        AddressClass::Loopback => {
            "loopback is the VM's own; services of this host are reached by --allow-host as host.agent-vm.internal"
        }
        AddressClass::Metadata => "metadata services hand out credentials",
        _ => "no connection can be made to it",
    }
}

/// What let a flow pass, or denied it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// The preset: a public address.
    Public,
    /// A listed host.
    Domain(HostPattern),
    /// A host that has a credential.
    CredentialHost(HostPattern),
    /// A host of the built-in list.
    Builtin(HostPattern),
    /// A rule about hosts.
    Listed(RuleName),
    /// What the person said about these hosts while the VM ran.
    Asked(HostPattern),
    /// A granted address.
    Egress(EgressRule),
    /// The user's own network.
    Lan,
    /// The host's loopback services.
    Host,
    /// An address the user gave for the name.
    Resolve,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::Domain(pattern) => write!(f, "allow-domain {pattern}"),
            Self::CredentialHost(pattern) => write!(f, "credential {pattern}"),
            Self::Builtin(pattern) => write!(f, "builtin {pattern}"),
            Self::Listed(name) => write!(f, "{name}"),
            Self::Asked(pattern) => write!(f, "asked {pattern}"),
            Self::Egress(rule) => write!(f, "allow-egress {rule}"),
            Self::Lan => f.write_str("allow-lan"),
            Self::Host => f.write_str("allow-host"),
            Self::Resolve => f.write_str("resolve"),
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_addresses_or_networks_with_or_without_a_port() {
        for (text, shown) in [
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/8:443", "10.0.0.0/8:443"),
            ("10.1.2.3:22", "10.1.2.3:22"),
            ("fd00::1", "fd00::1"),
            ("[fd00::1]", "fd00::1"),
            ("[fd00::1]:443", "[fd00::1]:443"),
            ("fd00::/8", "fd00::/8"),
            ("[fd00::/8]:443", "[fd00::/8]:443"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            let rule = EgressRule::parse(text).unwrap();
            assert_eq!(rule.to_string(), shown, "{text}");
            assert_eq!(EgressRule::parse(shown), Ok(rule), "{text}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "example.org",
            "example.org:443",
            "10.0.0.1:0",
            "10.0.0.1:x",
            "10.0.0.1:",
            "10.0.0.1:70000",
            "10.0.0.0/33",
            "10.0.0",
            "[fd00::1",
            "[fd00::1]443",
            "10.0.0.1 ",
            "fe80::1%eth0",
        ] {
            let refused = EgressRule::parse(text);
            assert!(
                matches!(refused, Err(EgressRuleError::Form { .. })),
                "{text:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn bits_behind_the_prefix_are_told_with_the_network() {
        let error = EgressRule::parse("10.1.2.3/8:443").unwrap_err();
        assert!(error.to_string().ends_with("the network is 10.0.0.0/8"));
    }

    #[test]
    fn what_can_never_be_reached_is_refused_with_the_way_there_is() {
        for (text, told) in [
            ("127.0.0.1:8080", "--allow-host"),
            ("127.0.0.0/8", "--allow-host"),
            ("::1", "--allow-host"),
            ("::ffff:127.0.0.1", "--allow-host"),
            ("169.254.169.254", "hand out credentials"),
            ("fd00:ec2::254", "hand out credentials"),
            ("0.0.0.0", "no connection"),
            ("224.0.0.0/4", "no connection"),
            ("255.255.255.255", "no connection"),
        ] {
            let error = EgressRule::parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn presets_are_read_as_they_are_written() {
        for preset in [
            Preset::Public,
            Preset::Allowlist,
            Preset::Ask,
            Preset::Offline,
        ] {
            assert_eq!(preset.to_string().parse(), Ok(preset));
        }
        assert_eq!("none".parse::<Preset>(), Err(PresetError));
    }
}
