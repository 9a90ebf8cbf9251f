//! Why something was denied. The codes are an interface: they appear in the `x-agent-vm-deny` header and in the audit
//! log, so they never change their meaning.

use std::fmt;

use serde::Serialize;

use crate::address::AddressClass;

/// Why a flow or a request was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// The destination is not on the public Internet.
    Address(AddressClass),
    /// The destination is an address of this machine.
    HostAddress,
    /// A rule denies the destination.
    Rule,
    /// Only listed hosts may be reached, and this is none.
    NotListed,
    /// The person has not said that this may be reached.
    Unanswered,
    /// The person said that this may not be reached.
    AnsweredNo,
    /// Rules are about paths of this host, and servers may disagree about what this one names.
    PathUnclear,
    /// Rules judge the requests to this host, and this is no HTTP.
    NotHttp,
    /// Nothing of the network may be reached.
    Offline,
    /// A protocol other than TCP, DNS to our server and echo requests to the gateway.
    Protocol,
    /// DNS to another server than ours.
    ForeignDnsServer,
    /// The TLS ClientHello is malformed, too long or too slow.
    ClientHello,
    /// The guest broke off the TLS handshake: it does not trust the certificate, or speaks no TLS version of ours.
    GuestTls,
    /// TLS without a server name to an address of an intercepted host.
    ServerNameMissing,
    /// The TLS server name is not one that our DNS answered with this address.
    ServerNameMismatch,
    /// The request's authority is not the connection's server name.
    AuthorityMismatch,
    /// The request cannot be parsed, or its head is too large.
    RequestInvalid,
    /// CONNECT inside an intercepted connection.
    ConnectMethod,
    /// A placeholder outside the header its credential names.
    PlaceholderOutsideCredential,
    /// A placeholder sent to a host its credential is not bound to.
    PlaceholderOtherHost,
    /// A placeholder sent without TLS.
    PlaceholderInClear,
    /// A credential that is not the VM's own, sent to a host that a credential is bound to.
    ForeignCredential,
    /// The credential's secret cannot be had at the moment.
    CredentialUnavailable,
    /// A token endpoint was asked for something else than renewing this session's login.
    TokenGrant,
    /// The upstream's certificate is not valid for the name.
    UpstreamCertificate,
    /// The upstream cannot be reached, or breaks the protocol.
    UpstreamFailed,
    /// The host's proxy did not make the connection.
    ProxyRefused,
    /// Decisions cannot be recorded, so nothing may leave.
    AuditUnavailable,
}

impl DenyReason {
    /// Stable kebab-case code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Address(class) => address_code(class),
            Self::HostAddress => "address-of-host",
            Self::Rule => "rule",
            Self::NotListed => "not-listed",
            Self::Unanswered => "unanswered",
            Self::AnsweredNo => "answered-no",
            Self::PathUnclear => "path-unclear",
            Self::NotHttp => "not-http",
            Self::Offline => "offline",
            Self::Protocol => "protocol",
            Self::ForeignDnsServer => "foreign-dns-server",
            Self::ClientHello => "client-hello",
            Self::GuestTls => "guest-tls",
            Self::ServerNameMissing => "sni-missing",
            Self::ServerNameMismatch => "sni-mismatch",
            Self::AuthorityMismatch => "authority-mismatch",
            Self::RequestInvalid => "request-invalid",
            Self::ConnectMethod => "connect-method",
            Self::PlaceholderOutsideCredential => "placeholder-outside-credential",
            Self::PlaceholderOtherHost => "placeholder-other-host",
            Self::PlaceholderInClear => "placeholder-in-clear",
            Self::ForeignCredential => "foreign-credential",
            Self::CredentialUnavailable => "credential-unavailable",
            Self::TokenGrant => "token-grant",
            Self::UpstreamCertificate => "upstream-certificate",
            Self::UpstreamFailed => "upstream-failed",
            Self::ProxyRefused => "proxy-refused",
            Self::AuditUnavailable => "audit-unavailable",
        }
    }
}

fn address_code(class: AddressClass) -> &'static str {
    match class {
        AddressClass::Global => "address",
        AddressClass::Unspecified => "address-unspecified",
        AddressClass::Loopback => "address-loopback",
        AddressClass::Private => "address-private",
        AddressClass::Shared => "address-shared",
        AddressClass::LinkLocal => "address-link-local",
        AddressClass::Metadata => "address-metadata",
        AddressClass::Multicast => "address-multicast",
        AddressClass::Broadcast => "address-broadcast",
        AddressClass::Documentation => "address-documentation",
        AddressClass::Transition => "address-transition",
        AddressClass::Reserved => "address-reserved",
    }
}

/// A sentence for the person in the guest.
impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address(AddressClass::Metadata) => {
                "the address is a cloud metadata service, which hands out credentials"
            }
            Self::Address(_) => "the address is not on the public Internet",
            Self::HostAddress => "the address belongs to the host machine",
            Self::Rule => "a rule denies this destination",
            Self::NotListed => "the host is not on the list of allowed hosts",
            Self::Unanswered => {
                "the host's user was asked whether this may be reached and did not say yes"
            }
            Self::AnsweredNo => "the host's user said that this may not be reached",
            Self::PathUnclear => {
                "rules judge paths of this host, and this one can be read in more than one way"
            }
            Self::NotHttp => {
                "rules judge the requests to this host, so only HTTP may be spoken to it"
            }
            Self::Offline => "this VM is offline",
            Self::Protocol => "this protocol may not leave the VM",
            Self::ForeignDnsServer => "only the VM's own DNS server may be asked",
            Self::ClientHello => "the TLS ClientHello is malformed, too long or too slow",
            Self::GuestTls => "the program in the VM did not accept the certificate of the egress",
            Self::ServerNameMissing => "TLS to this host needs a server name",
            Self::ServerNameMismatch => "the TLS server name was not resolved to this address",
            Self::AuthorityMismatch => "the request names another host than the TLS connection",
            Self::RequestInvalid => "the request cannot be parsed or its head is too large",
            Self::ConnectMethod => "CONNECT is not allowed here",
            Self::PlaceholderOutsideCredential => {
                "the request carries a credential placeholder outside the header it belongs in"
            }
            Self::PlaceholderOtherHost => {
                "the request carries the placeholder of a credential that is not for this host"
            }
            Self::PlaceholderInClear => "the request carries a credential placeholder without TLS",
            Self::ForeignCredential => {
                "the request carries a credential that is not the one agent-vm holds for this host"
            }
            Self::CredentialUnavailable => "the credential cannot be had at the moment",
            Self::TokenGrant => {
                "only the login of this session can be renewed here; log in on the host"
            }
            Self::UpstreamCertificate => "the certificate of the upstream server is not valid",
            Self::UpstreamFailed => "the upstream server cannot be reached or breaks the protocol",
            Self::ProxyRefused => "the host's proxy did not make the connection",
            Self::AuditUnavailable => "decisions cannot be recorded, so nothing may leave",
        })
    }
}

impl Serialize for DenyReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_kebab_case_and_distinct() {
        let classes = [
            AddressClass::Global,
            AddressClass::Unspecified,
            AddressClass::Loopback,
            AddressClass::Private,
            AddressClass::Shared,
            AddressClass::LinkLocal,
            AddressClass::Metadata,
            AddressClass::Multicast,
            AddressClass::Broadcast,
            AddressClass::Documentation,
            AddressClass::Transition,
            AddressClass::Reserved,
        ];
        let others = [
            DenyReason::HostAddress,
            DenyReason::Rule,
            DenyReason::NotListed,
            DenyReason::Unanswered,
            DenyReason::AnsweredNo,
            DenyReason::PathUnclear,
            DenyReason::NotHttp,
            DenyReason::Offline,
            DenyReason::Protocol,
            DenyReason::ForeignDnsServer,
            DenyReason::ClientHello,
            DenyReason::GuestTls,
            DenyReason::ServerNameMissing,
            DenyReason::ServerNameMismatch,
            DenyReason::AuthorityMismatch,
            DenyReason::RequestInvalid,
            DenyReason::ConnectMethod,
            DenyReason::PlaceholderOutsideCredential,
            DenyReason::PlaceholderOtherHost,
            DenyReason::PlaceholderInClear,
            DenyReason::ForeignCredential,
            DenyReason::CredentialUnavailable,
            DenyReason::TokenGrant,
            DenyReason::UpstreamCertificate,
            DenyReason::UpstreamFailed,
            DenyReason::ProxyRefused,
            DenyReason::AuditUnavailable,
        ];
        let codes: Vec<_> = classes
            .map(DenyReason::Address)
            .iter()
            .chain(&others)
            .map(|r| r.code())
            .collect();
        let distinct: std::collections::BTreeSet<_> = codes.iter().collect();
        assert_eq!(distinct.len(), codes.len());
        for code in codes {
            assert!(
                code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{code}"
            );
        }
    }
}
