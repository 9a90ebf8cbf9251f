//! What the embedder decides about the link, and every limit the gateway keeps.
//!
//! The limits bound what a hostile guest can make the launcher hold; each is a number of items or of bytes.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Addresses of both ends of the link. The guest may use no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkAddresses {
    /// Ethernet address of the gateway.
    pub gateway_mac: [u8; 6],
    /// Ethernet address of the guest's card; frames from any other are spoofed.
    pub guest_mac: [u8; 6],
    /// IPv4 address of the gateway: router and DNS server.
    pub gateway_v4: Ipv4Addr,
    /// IPv4 address of the guest.
    pub guest_v4: Ipv4Addr,
    /// IPv4 prefix length of the link.
    pub prefix_v4: u8,
    /// IPv6 address of the gateway: router and DNS server.
    pub gateway_v6: Ipv6Addr,
    /// IPv6 address of the guest.
    pub guest_v6: Ipv6Addr,
    /// IPv6 prefix length of the link.
    pub prefix_v6: u8,
}

impl Default for LinkAddresses {
    /// `10.118.0.0/30` and `fd76:6d00::/64`, the gateway `.1`, the guest `.2`.
    fn default() -> Self {
        Self {
            gateway_mac: [0x02, 0x76, 0x6d, 0x00, 0x00, 0x01],
            guest_mac: [0x02, 0x76, 0x6d, 0x00, 0x00, 0x02],
            gateway_v4: Ipv4Addr::new(10, 118, 0, 1),
            guest_v4: Ipv4Addr::new(10, 118, 0, 2),
            prefix_v4: 30,
            gateway_v6: Ipv6Addr::new(0xfd76, 0x6d00, 0, 0, 0, 0, 0, 1),
            guest_v6: Ipv6Addr::new(0xfd76, 0x6d00, 0, 0, 0, 0, 0, 2),
            prefix_v6: 64,
        }
    }
}

impl LinkAddresses {
    /// The gateway's IPv6 link-local address, made from its Ethernet address (RFC 4291 appendix A).
    #[must_use]
    pub fn gateway_link_local(&self) -> Ipv6Addr {
        link_local(self.gateway_mac)
    }

    /// The guest's IPv6 link-local address, made from its Ethernet address (RFC 4291 appendix A).
    #[must_use]
    pub fn guest_link_local(&self) -> Ipv6Addr {
        link_local(self.guest_mac)
    }
}

fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

/// Everything the gateway needs to know before its first frame.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Addresses of the link.
    pub addresses: LinkAddresses,
    /// Largest IP packet on the link, in bytes; the guest's card has the same. At least 1 280 (RFC 8200).
    pub mtu: u16,
    /// Names the user overrides (`--resolve`): answered with an address of [`SYNTHETIC_NETWORK`], so that the
    /// flow arrives with that name whatever the name means outside.
    pub overridden_names: Vec<String>,
    /// Whether connections and datagrams to the gateway's own addresses are asked of the handler, as those to any other
    /// address are; else they are refused. DNS is answered here in any case.
    pub gateway_ports_offered: bool,
    /// Whether the far end of a stream socket takes TCP frames larger than its MTU; on other links the virtio header says
    /// what such a frame is, and they are always sent.
    pub large_frames: bool,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            addresses: LinkAddresses::default(),
            mtu: DEFAULT_MTU,
            overridden_names: Vec::new(),
            gateway_ports_offered: false,
            large_frames: false,
        }
    }
}

/// MTU of the guest's card: the largest multiple of 16 that fits an IP packet of 64 KiB.
pub const DEFAULT_MTU: u16 = 65_520;

/// First two bytes of the addresses given to overridden names: 198.18.0.0/16 (RFC 2544, never routed).
pub const SYNTHETIC_NETWORK: [u8; 2] = [198, 18];

/// First two bytes of the addresses of names that are connected to by name, because no name server answers them:
/// 198.19.0.0/16 (RFC 2544, never routed).
pub const STAND_IN_NETWORK: [u8; 2] = [198, 19];

/// Names that can have such an address; each keeps it, so questions for more fail.
pub const MAX_STAND_INS: usize = 4_096;

/// Overridden names that can have an address: the rest are refused at the start.
pub const MAX_OVERRIDDEN_NAMES: usize = 4_096;

/// Connections the guest may have opened that the handler has not answered yet.
pub const MAX_HALF_OPEN: usize = 1_024;

/// Established connections at one time.
pub const MAX_FLOWS: usize = 16_384;

/// Receive and send buffer of one flow, in bytes, each. Only pages that were used take memory.
pub const FLOW_BUFFER: usize = 512 * 1024;

/// What every flow may hold in each direction whatever the others hold, in bytes.
pub const FLOW_FLOOR: usize = 16 * 1024;

/// What all flows together may hold above [`FLOW_FLOOR`], in bytes.
pub const BACKLOG_BUDGET: usize = 512 * 1024 * 1024;

/// Unused stacks kept for the next flow.
pub const MAX_POOLED: usize = 256;

/// What the buffers of all unused stacks hold at most, in bytes.
pub const POOL_BUDGET: usize = 4 * 1024 * 1024;

/// A connection in which nothing happened for so long gives the memory of its buffers back.
pub const REST_AFTER: Duration = Duration::from_secs(5);

/// What the buffers of an idle connection may keep, in bytes.
pub const REST_FLOOR: usize = 8 * 1024;

/// Frames waiting for the link when it is full, replies included. Flows stop sending at the first.
pub const MAX_QUEUED_FRAMES: usize = 256;

/// Frames read before flows get to answer.
pub const READ_BATCH: usize = 64;

/// Bytes read before flows get to answer: no more than the processor's caches hold until they are passed on.
pub const READ_BATCH_BYTES: usize = 512 * 1024;

/// Frames one flow may send before the next flow has its turn.
pub const FLOW_BURST: usize = 8;

/// Flows of datagrams at one time.
pub const MAX_DATAGRAM_FLOWS: usize = 1_024;

/// Flows of datagrams that may begin at once, and a second from then on.
pub const DATAGRAM_OPENS: (u64, u64) = (512, 256);

/// Datagrams that wait in one flow for its far end.
pub const MAX_FLOW_DATAGRAMS: usize = 64;

/// Bytes that wait in one flow for its far end.
pub const MAX_FLOW_DATAGRAM_BYTES: usize = 256 * 1024;

/// Bytes that wait in all flows of datagrams together.
pub const DATAGRAM_BUDGET: usize = 16 * 1024 * 1024;

/// A flow of datagrams that was never answered ends so long after its last one.
pub const DATAGRAM_UNANSWERED: Duration = Duration::from_secs(30);

/// A flow of datagrams ends so long after its last one (RFC 4787 REQ-5: at least two minutes).
pub const DATAGRAM_IDLE: Duration = Duration::from_secs(180);

/// DNS questions being answered at one time; more are refused.
pub const MAX_DNS_QUERIES: usize = 256;

/// Connections to our DNS server over TCP at one time.
pub const MAX_DNS_CONNECTIONS: usize = 32;

/// A silent guest connection is probed this often.
pub const KEEP_ALIVE: Duration = Duration::from_secs(120);

/// A guest connection that answers nothing for this long is gone.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(600);

/// A connection that our side has finished and dropped waits this long for the guest's FIN (as Linux's
/// `tcp_fin_timeout`).
pub const LINGER: Duration = Duration::from_secs(60);

/// After a dial that timed out, SYNs of the same connection are ignored this long: the guest sees a timeout.
pub const SILENT_REFUSAL: Duration = Duration::from_secs(130);
