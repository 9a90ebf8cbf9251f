//! The seam between the gateway and what decides about its flows.
//!
//! The gateway knows no policy: it asks a [`FlowHandler`] for every connection *before* it answers the guest's SYN,
//! so that a refused port looks refused and a dead one looks dead. All of it lives on one thread.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;

use crate::guest_datagrams::GuestDatagrams;
use crate::stream::GuestStream;

/// A future that never leaves its thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A connection the guest asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRequest {
    /// Names our DNS server answered with `address`, the most recently answered first; empty when the guest
    /// did not ask us. Lower case, no final dot.
    pub names: Vec<String>,
    /// Where the guest wants to go. For an overridden name an address of
    /// [`SYNTHETIC_NETWORK`](crate::SYNTHETIC_NETWORK).
    pub address: IpAddr,
    /// TCP port there.
    pub port: u16,
    /// The guest's own port.
    pub source_port: u16,
}

/// Datagrams the guest begins to send to one address and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatagramRequest {
    /// What they are.
    pub kind: DatagramKind,
    /// As in [`FlowRequest::names`].
    pub names: Vec<String>,
    /// As in [`FlowRequest::address`].
    pub address: IpAddr,
    /// UDP port there; 0 for [`DatagramKind::Echo`].
    pub port: u16,
    /// The guest's own port, or the identifier of its echo requests.
    pub source_port: u16,
}

/// Kinds of datagrams that are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DatagramKind {
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo requests and replies.
    Echo,
}

/// A decision about datagrams that is under way.
pub type OpeningDatagrams = LocalBoxFuture<'static, Result<Box<dyn OpenedDatagrams>, FlowRefusal>>;

/// Why a connection is not made; the guest sees the difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlowRefusal {
    /// The far end refused: the guest gets a RST.
    #[error("connection refused")]
    Refused,
    /// No route to the far end: the guest gets ICMP host unreachable.
    #[error("host unreachable")]
    Unreachable,
    /// The far end does not answer: neither does the gateway.
    #[error("connection timed out")]
    TimedOut,
    /// Policy forbids it: the guest gets a RST at once.
    #[error("denied by policy")]
    Denied,
}

/// Decides about flows. One handler serves one guest.
pub trait FlowHandler {
    /// Decides about one connection and dials its far end. The guest waits meanwhile; if it gives up, the future is
    /// dropped.
    ///
    /// # Errors
    /// A [`FlowRefusal`] tells how the guest is refused.
    fn open(
        self: Rc<Self>,
        request: FlowRequest,
    ) -> LocalBoxFuture<'static, Result<Box<dyn OpenedFlow>, FlowRefusal>>;

    /// Decides about datagrams to one address and port; the first ones wait meanwhile. `None` means that none are
    /// carried: the guest is refused by ICMP and the gateway reports it.
    fn open_datagrams(self: Rc<Self>, request: DatagramRequest) -> Option<OpeningDatagrams> {
        let _carries_none = request;
        None
    }

    /// Whether `address` may be told to the guest as an answer for `name` (rebinding filter). `address` is canonical:
    /// an IPv4-mapped one comes as IPv4.
    fn address_allowed(&self, name: &str, address: IpAddr) -> bool;

    /// What the guest may be told about `name`, asked before the name is. It is in lower case without a final dot, of a
    /// service (`_https._tcp.a.test`) the host's; empty for the root. It need not be a name that a host can have. Called
    /// once for each question; what is denied here is not reported by [`FlowHandler::denied`].
    fn name_treatment(&self, name: &str) -> NameTreatment {
        let _ = name;
        NameTreatment::Plain
    }

    /// Whether connections to `name` (as in [`FlowHandler::name_treatment`]) are made by that name, whatever its address: then
    /// the guest is told an address of [`STAND_IN_NETWORK`](crate::STAND_IN_NETWORK) where the host's name servers do not
    /// answer, and flows to it come with the name.
    fn connects_by_name(&self, name: &str) -> bool {
        let _by_address = name;
        false
    }

    /// Something was denied without being asked about; for the audit log. Calls are rate-limited by the gateway.
    fn denied(&self, denied: Denied);
}

/// What our DNS server may say about a name, from the weakest to the strongest treatment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameTreatment {
    /// Everything that passes the rebinding filter.
    Plain,
    /// As [`NameTreatment::Plain`], without what would lead its connections past the egress: keys for an encrypted
    /// ClientHello, address hints, HTTP/3 (RFC 9460).
    Intercepted,
    /// That it does not exist.
    Denied,
}

/// A flow whose far end is connected.
pub trait OpenedFlow {
    /// Carries the flow to its end. Dropping the stream before its shutdown resets the guest's connection.
    fn serve(self: Box<Self>, guest: GuestStream) -> LocalBoxFuture<'static, ()>;
}

/// Datagrams whose far end is there.
pub trait OpenedDatagrams {
    /// Carries them until there are no more; see [`relay_datagrams`](crate::relay_datagrams).
    fn serve(self: Box<Self>, guest: GuestDatagrams) -> LocalBoxFuture<'static, ()>;
}

/// Something the guest sent that the gateway itself does not carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Its transport.
    pub protocol: Transport,
    /// Where it was to go.
    pub destination: IpAddr,
    /// The port there, where the transport has ports.
    pub port: Option<u16>,
    /// The DNS name it is about, for [`DenyReason::Rebinding`].
    pub name: Option<String>,
    /// Why.
    pub reason: DenyReason,
    /// Denials since the last report that were left out by the rate limit.
    pub suppressed: u64,
}

/// Transport protocol of a denied packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
    /// Any other, by its IANA number.
    Other(u8),
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Other(number) => write!(f, "ip-{number}"),
        }
    }
}

/// Why the gateway did not carry a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// DNS to another server than the gateway.
    OtherDnsServer,
    /// UDP to port 443: refused so that clients fall back to TCP.
    Quic,
    /// UDP that is not DNS.
    Udp,
    /// An ICMP message to something other than the gateway.
    Icmp,
    /// An IP protocol that is not carried.
    Protocol,
    /// An IP fragment.
    Fragment,
    /// A source address that is not the guest's.
    SpoofedSource,
    /// A port of the gateway itself that nothing serves.
    GatewayPort,
    /// An address that no connection can have: multicast, broadcast, unspecified, link-local.
    Destination,
    /// Too many flows at once.
    Limit,
    /// A DNS answer pointed a name at an address that is not allowed, or such an address was asked for its name.
    Rebinding,
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherDnsServer => "other DNS server",
            Self::Quic => "QUIC is not carried",
            Self::Udp => "UDP is not carried",
            Self::Icmp => "ICMP is not carried",
            Self::Protocol => "protocol is not carried",
            Self::Fragment => "IP fragment",
            Self::SpoofedSource => "source address is not the guest's",
            Self::GatewayPort => "no such service at the gateway",
            Self::Destination => "address cannot be connected to",
            Self::Limit => "too many connections",
            Self::Rebinding => "name resolves to an address that is not allowed",
        })
    }
}
