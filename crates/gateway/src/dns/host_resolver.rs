//! The default resolver: asks the host's own name servers, as the host's programs would.
//!
//! The host's hosts file comes first, then what was learnt lately, then the servers in the host's order; a question that
//! is being asked already is not asked again. A server that takes longer than [`HEDGE`] is not waited for alone: the
//! next is asked too. Who answers first is taken, but "no" of a later server never overtakes an earlier one that may
//! still say yes, because servers of a private network are listed before public ones. Servers that do not answer are
//! remembered ([`ServerOrder`]).
//!
//! Domains that lead to servers of their own (split DNS) are systemd-resolved's business, reached by its stub, which is
//! then the server that the host's settings name.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::WeakShared;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use hickory_proto::rr::RecordType;
use tokio::time::{Instant, sleep, sleep_until};

use super::cache::Cache;
use super::host_files::{Change, HostFiles, HostNames};
use super::name_server::{Outcome, ask};
use super::pace::{Pace, SERVER_PACE};
use super::resolv_conf::ResolvConf;
use super::resolver::{Answer, DnsFailure, Existence, Question, Resolver};
use super::server_order::ServerOrder;
use super::server_reply::unfollowed;
use crate::handler::LocalBoxFuture;

/// Resolves through the host's name servers and its hosts file. One serves one guest.
pub struct HostResolver {
    inner: Rc<Inner>,
}

impl std::fmt::Debug for HostResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostResolver").finish_non_exhaustive()
    }
}

/// How the host completes short names, for the guest's own resolver (resolv.conf(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchRule {
    /// Domains that are tried in turn: lower case, no final dot, at most 16.
    pub domains: Vec<String>,
    /// Names with fewer dots are tried in the domains first; at most 15.
    pub ndots: u8,
}

impl HostResolver {
    /// From files like `/etc/resolv.conf` and `/etc/hosts`, looked at again while questions come; one that is missing is
    /// as good as empty. Call it within a tokio runtime.
    #[must_use]
    pub fn watching(resolv_conf: &Path, hosts: &Path) -> Self {
        Self::with_files(HostFiles::watched(resolv_conf, hosts))
    }

    /// From the text of such files, with name servers given by address and port if there are any.
    #[must_use]
    pub fn fixed(resolv_conf: &str, hosts: &str, servers: &[SocketAddr]) -> Self {
        let mut names = HostNames::parse(resolv_conf, hosts);
        if !servers.is_empty() {
            let mut settings = ResolvConf::clone(&names.settings);
            settings.servers = servers.to_vec();
            names.settings = Rc::new(settings);
        }
        Self::with_files(HostFiles::fixed(names))
    }

    fn with_files(files: HostFiles) -> Self {
        Self {
            inner: Rc::new(Inner {
                files: RefCell::new(files),
                cache: RefCell::default(),
                order: RefCell::default(),
                pace: RefCell::new(Pace::new(SERVER_PACE)),
                in_flight: Cell::new(0),
                asking: RefCell::default(),
            }),
        }
    }

    /// How the host completes short names now.
    #[must_use]
    pub fn search_rule(&self) -> SearchRule {
        let settings = Rc::clone(&self.inner.files.borrow().names.settings);
        SearchRule {
            domains: settings.search.clone(),
            ndots: settings.ndots,
        }
    }
}

impl Resolver for HostResolver {
    fn resolve(&self, question: &Question) -> LocalBoxFuture<'static, Result<Answer, DnsFailure>> {
        let (inner, question) = (Rc::clone(&self.inner), question.clone());
        Box::pin(async move {
            match inner.known(&question) {
                Some(known) => known,
                None => Inner::ask_once(&inner, question).await,
            }
        })
    }
}

struct Inner {
    files: RefCell<HostFiles>,
    cache: RefCell<Cache>,
    order: RefCell<ServerOrder>,
    pace: RefCell<Pace>,
    in_flight: Cell<usize>,
    /// Questions in flight, for those who ask the same.
    asking: RefCell<HashMap<Question, WeakShared<Asking>>>,
}

/// A question being asked.
type Asking = LocalBoxFuture<'static, Result<Answer, DnsFailure>>;

impl Inner {
    /// What needs no server.
    fn known(&self, question: &Question) -> Option<Result<Answer, DnsFailure>> {
        let now = Instant::now();
        let names = self.names(now);
        if let Some(answer) = names.hosts.answer(question) {
            return Some(Ok(answer));
        }
        if names.settings.no_aaaa && question.kind == RecordType::AAAA {
            return Some(Ok(Answer::empty(Existence::Exists)));
        }
        self.cache.borrow_mut().find(question, now)
    }

    /// Joins those who wait for the same question, or asks it.
    async fn ask_once(inner: &Rc<Self>, question: Question) -> Result<Answer, DnsFailure> {
        let waiting = inner.asking.borrow().get(&question).cloned();
        if let Some(asked) = waiting.and_then(|asked| asked.upgrade()) {
            return asked.await;
        }
        let place = Place::take(inner).ok_or(DnsFailure::Refused)?;
        let asked: Asking = Box::pin(place.ask(question.clone()));
        let asked = asked.shared();
        if let Some(weak) = asked.downgrade() {
            let mut asking = inner.asking.borrow_mut();
            // Those nobody has waited for to the end are still listed.
            asking.retain(|_, other| other.upgrade().is_some());
            asking.insert(question, weak);
        }
        asked.await
    }

    async fn ask(&self, question: &Question) -> Result<Answer, DnsFailure> {
        let settings = Rc::clone(&self.files.borrow().names.settings);
        let wait = self.pace.borrow_mut().next(Instant::now());
        sleep(wait.ok_or(DnsFailure::Refused)?).await;
        let result = self.look_up(question, &settings).await;
        // What the servers of an earlier network said counts no longer.
        if Rc::ptr_eq(&settings, &self.files.borrow().names.settings) {
            let mut cache = self.cache.borrow_mut();
            cache.store(question, &result, Instant::now());
        }
        result
    }

    fn names(&self, now: Instant) -> HostNames {
        let mut files = self.files.borrow_mut();
        if files.refresh(now) == Change::New {
            self.cache.borrow_mut().clear();
            *self.order.borrow_mut() = ServerOrder::default();
        }
        files.names.clone()
    }

    /// Asks the servers, and again where they do not follow aliases themselves.
    async fn look_up(
        &self,
        question: &Question,
        settings: &ResolvConf,
    ) -> Result<Answer, DnsFailure> {
        let mut answer = self.ask_servers(question, settings).await?;
        for _ in 0..MAX_FOLLOWED {
            let Some(next) = unfollowed(question, &answer) else {
                return Ok(answer);
            };
            let rest = self.ask_servers(&next, settings).await?;
            answer.records.extend(rest.records);
            answer.soa = rest.soa;
            answer.existence = rest.existence;
            answer.authentic &= rest.authentic;
        }
        Err(DnsFailure::ServerFailure)
    }

    async fn ask_servers(
        &self,
        question: &Question,
        settings: &ResolvConf,
    ) -> Result<Answer, DnsFailure> {
        let servers = self.order.borrow_mut().next(settings, Instant::now());
        let mut race = Race {
            turns: (0..settings.attempts)
                .flat_map(|_| 0..servers.len())
                .collect(),
            asked: Vec::new(),
            no: None,
        };
        let mut asking = FuturesUnordered::new();
        loop {
            if race.no.is_none() && asking.is_empty() && race.turns.is_empty() {
                return Err(DnsFailure::ServerFailure);
            }
            let next_start = race.next_start();
            tokio::select! {
                biased;
                Some((at, outcome)) = asking.next(), if !asking.is_empty() => {
                    race.finished(at);
                    self.note(&servers, at, &outcome, &race.asked);
                    if let Some(answer) = race.judge(at, outcome, question) {
                        return Ok(answer);
                    }
                }
                () = sleep_until(next_start), if race.may_start() => {
                    let at = race.turns.remove(0);
                    race.asked.push((at, Instant::now()));
                    let server = servers[at];
                    asking.push(async move { (at, ask(server, question, settings).await) });
                }
            }
        }
    }

    /// Remembers what the outcome says about the servers.
    fn note(
        &self,
        servers: &[SocketAddr],
        at: usize,
        outcome: &Outcome,
        still_asked: &[(usize, Instant)],
    ) {
        let now = Instant::now();
        let mut order = self.order.borrow_mut();
        match outcome {
            Outcome::Silent => order.late(servers[at], now),
            Outcome::Gone => order.gone(servers[at], now),
            Outcome::Failed => order.answered(servers[at]),
            Outcome::Answered(_) => {
                order.answered(servers[at]);
                for (slower, since) in still_asked {
                    if *slower != at && now >= *since + HEDGE {
                        order.late(servers[*slower], now);
                    }
                }
            }
        }
    }
}

/// One question to several servers, by their place in the order.
#[derive(Debug)]
struct Race {
    /// Whom to ask next.
    turns: Vec<usize>,
    /// Who is being asked, since when.
    asked: Vec<(usize, Instant)>,
    /// A negative answer that waits for those before its server.
    no: Option<(usize, Answer)>,
}

impl Race {
    fn may_start(&self) -> bool {
        self.no.is_none() && !self.turns.is_empty() && self.asked.len() < MAX_RACE
    }

    /// When the next is asked: at once if nobody is.
    fn next_start(&self) -> Instant {
        let last = self.asked.iter().map(|(_, since)| *since).max();
        last.map_or_else(Instant::now, |last| last + HEDGE)
    }

    fn finished(&mut self, at: usize) {
        let oldest = self.asked.iter().position(|(asked, _)| *asked == at);
        if let Some(oldest) = oldest {
            self.asked.remove(oldest);
        }
    }

    /// The answer to give, once it is certain.
    fn judge(&mut self, at: usize, outcome: Outcome, question: &Question) -> Option<Answer> {
        if let Outcome::Answered(answer) = outcome {
            if answer.existence == Existence::Exists
                && (answer.has_data(question.kind) || unfollowed(question, &answer).is_some())
            {
                return Some(answer);
            }
            if self.no.as_ref().is_none_or(|(earlier, _)| at < *earlier) {
                self.no = Some((at, answer));
            }
        }
        let (said_by, _) = self.no.as_ref()?;
        let waits = self.asked.iter().any(|(asked, _)| asked < said_by);
        if waits {
            return None;
        }
        self.no.take().map(|(_, answer)| answer)
    }
}

/// A place among the questions in flight, given back on drop.
struct Place(Rc<Inner>);

impl Place {
    fn take(inner: &Rc<Inner>) -> Option<Self> {
        let count = &inner.in_flight;
        if count.get() >= MAX_IN_FLIGHT {
            return None;
        }
        count.set(count.get() + 1);
        Some(Self(Rc::clone(inner)))
    }

    async fn ask(self, question: Question) -> Result<Answer, DnsFailure> {
        self.0.ask(&question).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let count = &self.0.in_flight;
        count.set(count.get() - 1);
    }
}

/// How long a server is waited for alone.
const HEDGE: Duration = Duration::from_millis(400);

/// Servers asked at one time for one question.
const MAX_RACE: usize = 2;

/// Questions in flight at one time: each takes up to [`MAX_RACE`] sockets.
const MAX_IN_FLIGHT: usize = 256;

/// How often a server that does not follow aliases is asked on.
const MAX_FOLLOWED: usize = 8;

#[cfg(test)]
mod tests;
