//! Entry points for fuzzing: one for each parser of what somebody else wrote.

use crate::config::GatewayConfig;
use crate::dns::message::{OwnQuestion, Parsed, Reply, read_query};
use crate::dns::resolver::Family;
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

/// Reads a DNS question from the guest and answers it.
///
/// # Panics
/// When an answer is longer than its limit.
pub fn fuzz_dns_query(bytes: &[u8]) {
    if let Parsed::Question(question) = read_query(bytes) {
        let reply = Reply::Addresses {
            addresses: vec![[192, 0, 2, 1].into(); 32],
            ttl: std::time::Duration::from_secs(1),
        };
        if let Some(answer) = question.answer(&reply, question.datagram_limit()) {
            assert!(answer.len() <= question.datagram_limit());
        }
    }
}

/// Reads a reply of a host resolver.
pub fn fuzz_dns_reply(bytes: &[u8]) {
    for family in [Family::V4, Family::V6] {
        if let Some(question) = OwnQuestion::new("a.test", family, 0x1234) {
            drop(question.read_reply(bytes));
        }
    }
}
