#![forbid(unsafe_code)]
//! User-space network: the guest's frames become flows, and nothing else leaves.
//!
//! [`Gateway`] is the other end of the guest's network card. TCP connections are terminated here by smoltcp and handed
//! to a [`FlowHandler`] as byte streams; DNS is answered here; address resolution and pings to the gateway are answered
//! here; everything else is refused and reported. IPv4 and IPv6 are treated alike.
//!
//! It is built for one thread: one smoltcp interface per flow, no channel, no lock, and the guest's consumer runs on
//! the same runtime ([`tokio::task::LocalSet`]).

mod checksum;
mod config;
mod datagram_flow;
mod device;
mod dns;
mod flow;
mod fuzz;
mod fuzz_frames;
mod gateway;
mod guest_datagrams;
mod half_open;
mod handler;
mod link;
mod neighbour;
mod packet;
mod rate_limit;
mod relay;
mod reply;
mod stream;
mod switch;
mod timers;
mod virtio_header;

pub use config::{
    BACKLOG_BUDGET, DATAGRAM_BUDGET, DATAGRAM_IDLE, DATAGRAM_OPENS, DATAGRAM_UNANSWERED,
    DEFAULT_MTU, FLOW_BUFFER, FLOW_BURST, FLOW_FLOOR, GatewayConfig, KEEP_ALIVE, LINGER,
    LinkAddresses, MAX_DATAGRAM_FLOWS, MAX_DNS_CONNECTIONS, MAX_DNS_QUERIES,
    MAX_FLOW_DATAGRAM_BYTES, MAX_FLOW_DATAGRAMS, MAX_FLOWS, MAX_HALF_OPEN, MAX_OVERRIDDEN_NAMES,
    MAX_POOLED, MAX_QUEUED_FRAMES, MAX_STAND_INS, POOL_BUDGET, READ_BATCH, READ_BATCH_BYTES,
    REST_AFTER, REST_FLOOR, SILENCE_LIMIT, SILENT_REFUSAL, STAND_IN_NETWORK, SYNTHETIC_NETWORK,
};
pub use dns::fuzz::{fuzz_dns_query, fuzz_dns_reply};
pub use dns::host_resolver::{HostResolver, SearchRule};
pub use dns::resolver::{Answer, DnsFailure, Family, MAX_ANSWER_ADDRESSES, Question, Resolver};
pub use fuzz::fuzz_frame;
pub use fuzz_frames::fuzz_frames;
pub use gateway::{Gateway, GatewayError};
pub use guest_datagrams::{GuestDatagrams, relay_datagrams};
pub use handler::{
    DatagramKind, DatagramRequest, Denied, DenyReason, FlowHandler, FlowRefusal, FlowRequest,
    LocalBoxFuture, NameTreatment, OpenedDatagrams, OpenedFlow, OpeningDatagrams, Transport,
};
pub use link::LinkCounters;
pub use relay::{RelayEnd, Relayed, relay};
pub use stream::GuestStream;

#[cfg(test)]
mod tests;
