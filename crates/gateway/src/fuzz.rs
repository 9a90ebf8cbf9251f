//! Entry points for fuzzing: one for each parser of what somebody else wrote.

use crate::config::GatewayConfig;
use crate::dns::fuzz::fuzz_dns_query;
use crate::handler::DatagramKind;
use crate::neighbour::{answer_arp, answer_discovery};
use crate::packet::{Inbound, classify};
use crate::reply::{self, Unreachable};

/// Sorts a frame and makes every reply it can have.
pub fn fuzz_frame(bytes: &[u8]) {
    let config = GatewayConfig::default();
    match classify(bytes, &config.addresses) {
        Inbound::Arp(packet) => drop(answer_arp(packet, &config.addresses)),
        Inbound::Discovery(packet) => drop(answer_discovery(packet, &config)),
        Inbound::Echo(packet) => drop(reply::echo_reply(packet)),
        Inbound::Tcp(segment) => drop(reply::reset(&segment)),
        Inbound::Refused(refused) => {
            let Some(quote) = refused.quote else { return };
            for from in [
                config.addresses.gateway_v4.into(),
                config.addresses.gateway_v6.into(),
            ] {
                drop(reply::unreachable(quote, from, Unreachable::Port));
            }
        }
        Inbound::Datagram(datagram) => {
            let guest = match datagram.key.ends.remote {
                std::net::SocketAddr::V4(_) => config.addresses.guest_v4.into(),
                std::net::SocketAddr::V6(_) => config.addresses.guest_v6.into(),
            };
            let quote = reply::sent_datagram(&datagram.key, guest);
            assert!(quote.is_some(), "every datagram can be quoted");
            assert!(datagram.key.kind == DatagramKind::Udp || datagram.payload.len() >= 8);
        }
        Inbound::Dns(datagram) => fuzz_dns_query(datagram.query),
        Inbound::Noise | Inbound::Malformed => {}
    }
}
