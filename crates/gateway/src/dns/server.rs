//! Our DNS server: from a question to the bytes of its answer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::message::{Asked, Parsed, Question, Reply, read_query};
use super::name_table::NameTable;
use super::resolver::{DnsFailure, Family, MAX_ANSWER_ADDRESSES, Resolver};
use crate::config::{GatewayConfig, MAX_OVERRIDDEN_NAMES, SYNTHETIC_NETWORK};
use crate::handler::{Denied, DenyReason, FlowHandler, Transport};
use crate::stream::GuestStream;

/// Answers the guest's questions and remembers what it was told.
pub(crate) struct DnsServer {
    resolver: Rc<dyn Resolver>,
    handler: Rc<dyn FlowHandler>,
    overridden: HashMap<String, Ipv4Addr>,
    names: RefCell<NameTable>,
    denied: RefCell<Vec<Denied>>,
}

impl DnsServer {
    pub(crate) fn new(
        config: &GatewayConfig,
        resolver: Rc<dyn Resolver>,
        handler: Rc<dyn FlowHandler>,
    ) -> Self {
        let [a, b] = SYNTHETIC_NETWORK;
        let names = config.overridden_names.iter().take(MAX_OVERRIDDEN_NAMES);
        let overridden = names
            .zip(1_u16..)
            .map(|(name, number)| {
                let [c, d] = number.to_be_bytes();
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                (name, Ipv4Addr::new(a, b, c, d))
            })
            .collect();
        Self {
            resolver,
            handler,
            overridden,
            names: RefCell::default(),
            denied: RefCell::default(),
        }
    }

    /// Names the guest was told `address` for, newest first.
    pub(crate) fn names(&self, address: IpAddr) -> Vec<String> {
        if let IpAddr::V4(v4) = address
            && v4.octets().starts_with(&SYNTHETIC_NETWORK)
        {
            // Fixed for the whole session: known even if the guest never asked in this one.
            let synthetic = self.overridden.iter().find(|(_, known)| **known == v4);
            return synthetic
                .map(|(name, _)| name.clone())
                .into_iter()
                .collect();
        }
        self.names.borrow().names(address, Instant::now())
    }

    /// Denials noticed while answering, to be reported under the gateway's rate limit.
    pub(crate) fn take_denied(&self) -> Vec<Denied> {
        std::mem::take(&mut *self.denied.borrow_mut())
    }

    /// The answer to a question that came in a datagram.
    pub(crate) async fn answer_datagram(&self, query: &[u8]) -> Option<Vec<u8>> {
        match read_query(query) {
            Parsed::Question(question) => {
                let reply = self.reply(&question).await;
                question.answer(&reply, question.datagram_limit())
            }
            Parsed::Answered(bytes) => Some(bytes),
            Parsed::Ignored => None,
        }
    }

    /// Answers questions on a TCP connection, one after the other, until it ends or is idle (RFC 7766).
    pub(crate) async fn serve(&self, mut stream: GuestStream) {
        loop {
            let exchange = self.exchange(&mut stream);
            if !matches!(timeout(STREAM_IDLE, exchange).await, Ok(Some(()))) {
                break;
            }
        }
        let _ = stream.shutdown().await;
    }

    async fn exchange(&self, stream: &mut GuestStream) -> Option<()> {
        let len = stream.read_u16().await.ok()?;
        let mut query = vec![0; usize::from(len)];
        stream.read_exact(&mut query).await.ok()?;
        let answer = match read_query(&query) {
            Parsed::Question(question) => {
                let reply = self.reply(&question).await;
                question.answer(&reply, usize::from(u16::MAX))?
            }
            Parsed::Answered(bytes) => bytes,
            Parsed::Ignored => return None,
        };
        let mut framed = u16::try_from(answer.len()).ok()?.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        stream.write_all(&framed).await.ok()
    }

    async fn reply(&self, question: &Question) -> Reply {
        let name = &question.name[..];
        let Asked::Addresses(family) = question.asked else {
            return Reply::Addresses {
                addresses: Vec::new(),
                ttl: Duration::ZERO,
            };
        };
        if let Some(address) = self.overridden.get(name) {
            let addresses = match family {
                Family::V4 => vec![IpAddr::V4(*address)],
                Family::V6 => Vec::new(),
            };
            let ttl = OVERRIDE_TTL;
            return Reply::Addresses { addresses, ttl };
        }
        let asked = timeout(ANSWER_LIMIT, self.resolver.resolve(name, family)).await;
        match asked.unwrap_or(Err(DnsFailure::ServerFailure)) {
            Ok(answer) => Reply::Addresses {
                addresses: self.filter(name, family, answer.addresses, answer.ttl),
                ttl: answer.ttl,
            },
            Err(failure) => Reply::Failure(failure),
        }
    }

    /// Takes out what may not be told, and remembers the rest.
    fn filter(
        &self,
        name: &str,
        family: Family,
        addresses: Vec<IpAddr>,
        ttl: Duration,
    ) -> Vec<IpAddr> {
        let now = Instant::now();
        let mut kept = Vec::new();
        for address in addresses.into_iter().take(MAX_ANSWER_ADDRESSES) {
            let wanted = match family {
                Family::V4 => address.is_ipv4(),
                Family::V6 => address.is_ipv6(),
            };
            if !wanted {
                continue;
            }
            let synthetic = matches!(address.to_canonical(), IpAddr::V4(v4) if v4.octets().starts_with(&SYNTHETIC_NETWORK));
            if !synthetic && self.handler.address_allowed(name, address.to_canonical()) {
                self.names.borrow_mut().record(name, address, ttl, now);
                kept.push(address);
                continue;
            }
            let mut denied = self.denied.borrow_mut();
            if denied.len() < MAX_PENDING_DENIALS {
                denied.push(Denied {
                    protocol: Transport::Udp,
                    destination: address,
                    port: None,
                    name: Some(name.to_owned()),
                    reason: DenyReason::Rebinding,
                    suppressed: 0,
                });
            }
        }
        kept
    }
}

/// Time to live of an overridden name: its address never changes.
const OVERRIDE_TTL: Duration = Duration::from_secs(3_600);

/// Longest time one question may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// A TCP connection without a question for this long is closed.
const STREAM_IDLE: Duration = Duration::from_secs(20);

/// Denials that wait to be reported.
const MAX_PENDING_DENIALS: usize = 64;
