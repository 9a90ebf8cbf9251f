//! Our DNS server: from a question to the bytes of its answer.
//!
//! The name is judged before it is asked, the addresses before they are told.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::filter::sift;
use super::message::{Parsed, read_query, refusal};
use super::name_table::NameTable;
use super::pace::{GUEST_PACE, Pace};
use super::resolver::{Answer, DnsFailure, MAX_ANSWER_ADDRESSES, Question, Resolver, judged_name};
use super::reverse::network_of;
use super::special;
use super::stand_in::{self, StandIns};
use crate::config::{GatewayConfig, MAX_OVERRIDDEN_NAMES, SYNTHETIC_NETWORK};
use crate::handler::{Denied, DenyReason, FlowHandler, NameTreatment, Transport};
use crate::stream::GuestStream;

/// Answers the guest's questions and remembers what it was told.
pub(crate) struct DnsServer {
    resolver: Rc<dyn Resolver>,
    handler: Rc<dyn FlowHandler>,
    overridden: HashMap<String, Ipv4Addr>,
    names: RefCell<NameTable>,
    stand_ins: RefCell<StandIns>,
    denied: RefCell<Vec<Denied>>,
    pace: RefCell<Pace>,
    /// Bytes of an answer that fit one packet of the link.
    datagram: usize,
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
            stand_ins: RefCell::default(),
            denied: RefCell::default(),
            pace: RefCell::new(Pace::new(GUEST_PACE)),
            datagram: usize::from(config.mtu).saturating_sub(UDP_HEADERS),
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
        if stand_in::is_stand_in(address) {
            let stand_ins = self.stand_ins.borrow();
            return stand_ins
                .name(address)
                .map(str::to_owned)
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
            Parsed::Question(query) => {
                let reply = self.reply(&query.question).await;
                query.answer(&reply, query.datagram_limit(self.datagram))
            }
            Parsed::Answered(bytes) => Some(bytes),
            Parsed::Ignored => None,
        }
    }

    /// What a question in a datagram is told when too many are being answered already.
    pub(crate) fn refuse_datagram(&self, query: &[u8]) -> Option<Vec<u8>> {
        let allowed = self.pace.borrow_mut().next(Instant::now()).is_some();
        allowed.then(|| refusal(query))?
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
            Parsed::Question(query) => {
                let reply = self.reply(&query.question).await;
                query.answer(&reply, usize::from(u16::MAX))?
            }
            Parsed::Answered(bytes) => bytes,
            Parsed::Ignored => return None,
        };
        let mut framed = u16::try_from(answer.len()).ok()?.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        stream.write_all(&framed).await.ok()
    }

    async fn reply(&self, question: &Question) -> Result<Answer, DnsFailure> {
        if self.pace.borrow_mut().next(Instant::now()).is_none() {
            return Err(DnsFailure::Refused);
        }
        if let Some(answer) = special::answer(question) {
            return Ok(answer);
        }
        let name = judged_name(question);
        let treatment = self.handler.name_treatment(&name);
        if treatment == NameTreatment::Denied {
            return Ok(Answer::no_such_name());
        }
        if let Some(address) = self.overridden.get(&name) {
            return Ok(Answer::of_addresses(
                question,
                [IpAddr::V4(*address)],
                OVERRIDE_TTL,
            ));
        }
        if let Some((address, _)) = network_of(&question.name)
            && !self.may_be_told(&name, address)
        {
            self.deny(address, &name);
            return Ok(Answer::no_such_name());
        }
        let mut answer = if stand_in::concerns(question) && self.handler.connects_by_name(&name) {
            match self.ask_or_stand_in(question, &name).await? {
                Told::ByServers(answer) => answer,
                Told::ByUs(answer) => return Ok(answer),
            }
        } else {
            self.ask(question, ANSWER_LIMIT).await?
        };
        self.filter(&mut answer, treatment, &name);
        Ok(answer)
    }

    async fn ask(&self, question: &Question, limit: Duration) -> Result<Answer, DnsFailure> {
        let asked = timeout(limit, self.resolver.resolve(question)).await;
        asked.unwrap_or(Err(DnsFailure::ServerFailure))
    }

    /// What the name servers say of a name that is connected to by name; a stand-in when they say nothing.
    async fn ask_or_stand_in(&self, question: &Question, name: &str) -> Result<Told, DnsFailure> {
        let known = self
            .stand_ins
            .borrow()
            .known(question, name, Instant::now());
        if let Some(known) = known {
            return Ok(Told::ByUs(known));
        }
        match self.ask(question, stand_in::PATIENCE).await {
            Err(DnsFailure::ServerFailure) => {
                let now = Instant::now();
                let bound = self.stand_ins.borrow_mut().bind(question, name, now);
                bound.map(Told::ByUs).ok_or(DnsFailure::ServerFailure)
            }
            asked => asked.map(Told::ByServers),
        }
    }

    /// Takes out what may not be told, and remembers the rest.
    fn filter(&self, answer: &mut Answer, treatment: NameTreatment, name: &str) {
        let now = Instant::now();
        let mut told = 0;
        sift(answer, treatment, |address, ttl| {
            if told >= MAX_ANSWER_ADDRESSES {
                return false;
            }
            if !self.may_be_told(name, address) {
                self.deny(address, name);
                return false;
            }
            told += 1;
            let ttl = Duration::from_secs(ttl.into());
            self.names.borrow_mut().record(name, address, ttl, now);
            true
        });
    }

    fn may_be_told(&self, name: &str, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let overridden =
            matches!(address, IpAddr::V4(v4) if v4.octets().starts_with(&SYNTHETIC_NETWORK));
        let synthetic = overridden || stand_in::is_stand_in(address);
        !synthetic && self.handler.address_allowed(name, address)
    }

    fn deny(&self, destination: IpAddr, name: &str) {
        let mut denied = self.denied.borrow_mut();
        if denied.len() < MAX_PENDING_DENIALS {
            denied.push(Denied {
                protocol: Transport::Udp,
                destination,
                port: None,
                name: Some(name.to_owned()),
                reason: DenyReason::Rebinding,
                suppressed: 0,
            });
        }
    }
}

/// Who answered.
enum Told {
    ByServers(Answer),
    ByUs(Answer),
}

/// Time to live of an overridden name: its address never changes.
const OVERRIDE_TTL: Duration = Duration::from_secs(3_600);

/// Longest time one question may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// A TCP connection without a question for this long is closed.
const STREAM_IDLE: Duration = Duration::from_secs(20);

/// Denials that wait to be reported.
const MAX_PENDING_DENIALS: usize = 64;

/// Headers of IPv6 and UDP, in bytes.
const UDP_HEADERS: usize = 48;
