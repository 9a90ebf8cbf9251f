//! Questions to the person: connections and requests that are held until somebody says whether a host may be reached.
//!
//! Theory of operation. What the policy denies as [`DenyReason::Unanswered`] is held: a question about its host becomes
//! pending, or is so already, and whoever waits for it waits until it is answered or its time is over. An answer changes
//! the policy that is enforced, removes the questions it answers and wakes everybody; each then asks the policy again. A
//! question whose time is over has lapsed: what it was about is denied at once from then on, until an answer.
//!
//! A guest can ask as much as it likes: questions, waiters and lapsed ones are bounded, and what finds no room is denied.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use agent_vm_policy::{Answer, DenyReason, HostName, HostPattern, Policy, Rule};
use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

use crate::audit::{AuditEvent, Kind, Verdict};
use crate::egress::{Egress, Shared};

/// How long a question waits for its answer, unless it is said otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Most questions at a time.
pub const MAX_PENDING: usize = 32;
/// Most connections and requests that wait at a time; fewer than the gateway opens at once.
pub const MAX_WAITING: usize = 256;
/// Most questions that are remembered as not answered; the oldest may be asked again.
pub const MAX_LAPSED: usize = 1024;

/// Something a person is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The host.
    pub host: HostName,
    /// The port it was asked for at first.
    pub port: u16,
    /// Method and path of the request, when a rule asks about requests.
    pub request: Option<String>,
    /// The rule that asks; without one the policy does.
    pub rule: Option<String>,
}

impl Question {
    fn is_same(&self, other: &Self) -> bool {
        self.host == other.host && self.rule == other.rule
    }
}

/// A question that waits for its answer.
#[derive(Debug, Clone)]
pub struct PendingQuestion {
    /// What is asked.
    pub question: Question,
    /// How long it will still wait.
    pub left: Duration,
}

/// An answer has no effect.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{hosts} stays denied: {reason}")]
pub struct StaysDenied {
    /// What was allowed in vain.
    pub hosts: HostPattern,
    /// What denies it.
    pub reason: DenyReason,
}

/// Questions of one VM.
pub(crate) struct Asks {
    patience: Cell<Duration>,
    state: RefCell<State>,
    /// Told whenever questions were answered.
    answered: Notify,
    news: RefCell<Option<mpsc::Sender<Question>>>,
}

impl Default for Asks {
    fn default() -> Self {
        Self {
            patience: Cell::new(PATIENCE),
            state: RefCell::default(),
            answered: Notify::new(),
            news: RefCell::default(),
        }
    }
}

#[derive(Default)]
struct State {
    pending: Vec<Pending>,
    lapsed: VecDeque<Question>,
    waiting: usize,
}

struct Pending {
    question: Question,
    deadline: Instant,
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Somebody said something: the policy knows.
    Answered,
    /// Nobody did.
    Unanswered,
}

impl Asks {
    /// Whether the question is pending; makes it so when there is room. The second says whether it is new.
    fn put(&self, question: &Question) -> Option<(Instant, bool)> {
        let mut state = self.state.borrow_mut();
        let same = |known: &Question| known.is_same(question);
        if state.lapsed.iter().any(same) {
            return None;
        }
        if let Some(known) = state.pending.iter().find(|known| same(&known.question)) {
            return Some((known.deadline, false));
        }
        let now = Instant::now();
        state.sweep(now);
        if state.pending.len() == MAX_PENDING {
            return None;
        }
        let deadline = now + self.patience.get();
        let question = question.clone();
        state.pending.push(Pending { question, deadline });
        Some((deadline, true))
    }

    fn is_pending(&self, question: &Question) -> bool {
        let state = self.state.borrow();
        let mut pending = state.pending.iter();
        pending.any(|known| known.question.is_same(question))
    }

    /// Removes the questions that an answer is about.
    fn settle(&self, hosts: &HostPattern) -> usize {
        let mut state = self.state.borrow_mut();
        let before = state.pending.len();
        let open = |question: &Question| !hosts.matches(&question.host);
        state.pending.retain(|known| open(&known.question));
        state.lapsed.retain(open);
        before - state.pending.len()
    }
}

impl State {
    /// Lets questions lapse for which nobody waits any more.
    fn sweep(&mut self, now: Instant) {
        let over: Vec<usize> = (0..self.pending.len())
            .filter(|index| self.pending[*index].deadline <= now)
            .collect();
        for index in over.into_iter().rev() {
            let known = self.pending.swap_remove(index);
            self.lapse(known.question);
        }
    }

    fn lapse(&mut self, question: Question) {
        if self.lapsed.len() == MAX_LAPSED {
            self.lapsed.pop_front();
        }
        self.lapsed.push_back(question);
    }
}

/// One that waits.
struct Waiting<'a>(&'a Asks);

impl<'a> Waiting<'a> {
    fn begin(asks: &'a Asks) -> Option<Self> {
        let mut state = asks.state.borrow_mut();
        if state.waiting == MAX_WAITING {
            return None;
        }
        state.waiting += 1;
        Some(Self(asks))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.borrow_mut().waiting -= 1;
    }
}

impl Shared {
    /// Asks the person and waits. Gives up at once when the question has lapsed, or there is no room for it.
    pub(crate) async fn ask(&self, question: Question, address: IpAddr) -> Asked {
        let asks = &self.asks;
        let Some(_waiting) = Waiting::begin(asks) else {
            return Asked::Unanswered;
        };
        let Some((deadline, new)) = asks.put(&question) else {
            return Asked::Unanswered;
        };
        if new {
            self.record_question(&question, address, Verdict::Ask);
            if let Some(news) = &*asks.news.borrow() {
                // Who does not read them can still list them.
                let _full_or_gone = news.try_send(question.clone());
            }
        }
        loop {
            let told = asks.answered.notified();
            if !asks.is_pending(&question) {
                return Asked::Answered;
            }
            if timeout_at(deadline, told).await.is_ok() {
                continue;
            }
            let lapsing = asks.is_pending(&question);
            asks.state.borrow_mut().sweep(Instant::now());
            if lapsing {
                self.record_question(&question, address, Verdict::Deny);
            }
            return Asked::Unanswered;
        }
    }

    fn record_question(&self, question: &Question, address: IpAddr, verdict: Verdict) {
        let mut event = AuditEvent::new(self.source(), Kind::Ask);
        event.host = Some(question.host.as_str());
        event.address = Some(address);
        event.port = Some(question.port);
        event.verdict = Some(verdict);
        event.reason = (verdict == Verdict::Deny).then_some(DenyReason::Unanswered);
        let _broken_is_remembered = self.audit.record(&event);
    }
}

impl Egress {
    /// How long questions wait from now on; [`PATIENCE`] unless it is said.
    pub fn set_patience(&self, patience: Duration) {
        self.shared().asks.patience.set(patience);
    }

    /// New questions as they come up; only the last receiver is told.
    #[must_use]
    pub fn questions(&self) -> mpsc::Receiver<Question> {
        let (sender, receiver) = mpsc::channel(MAX_PENDING);
        *self.shared().asks.news.borrow_mut() = Some(sender);
        receiver
    }

    /// What waits for an answer now, the oldest first.
    #[must_use]
    pub fn pending(&self) -> Vec<PendingQuestion> {
        let now = Instant::now();
        let mut state = self.shared().asks.state.borrow_mut();
        state.sweep(now);
        state.pending.sort_by_key(|known| known.deadline);
        let shown = |known: &Pending| PendingQuestion {
            question: known.question.clone(),
            left: known.deadline.saturating_duration_since(now),
        };
        state.pending.iter().map(shown).collect()
    }

    /// What nobody answered in time and is denied since, the oldest first.
    #[must_use]
    pub fn lapsed(&self) -> Vec<Question> {
        let mut state = self.shared().asks.state.borrow_mut();
        state.sweep(Instant::now());
        state.lapsed.iter().cloned().collect()
    }

    /// Changes the policy that is enforced by what the person said about hosts; gives how many questions that answered.
    /// Connections that are open stay; requests on them are judged by the new policy.
    ///
    /// # Errors
    /// When hosts are allowed that something else denies; nothing is changed then.
    pub fn answer(&self, hosts: &HostPattern, answer: Answer) -> Result<usize, StaysDenied> {
        let shared = self.shared();
        let policy = Policy::clone(&shared.policy()).answered(hosts.clone(), answer);
        if answer == Answer::Allow {
            may_be_reached(&policy, hosts)?;
        }
        let (text, rule) = (hosts.to_string(), Rule::Asked(hosts.clone()));
        let mut event = AuditEvent::new(shared.source(), Kind::Ask);
        event.host = Some(&text);
        event.rule = Some(&rule);
        event.verdict = Some(match answer {
            Answer::Allow => Verdict::Allow,
            Answer::Deny => Verdict::Deny,
        });
        event.reason = (answer == Answer::Deny).then_some(DenyReason::AnsweredNo);
        // What cannot be recorded does not come into force; the egress has stopped then anyway.
        if shared.audit.record(&event).is_err() {
            return Err(StaysDenied {
                hosts: hosts.clone(),
                reason: DenyReason::AuditUnavailable,
            });
        }
        shared.set_policy(Rc::new(policy));
        let settled = shared.asks.settle(hosts);
        shared.asks.answered.notify_waiters();
        Ok(settled)
    }
}

/// Whether a host of the pattern exists under `policy`.
fn may_be_reached(policy: &Policy, hosts: &HostPattern) -> Result<(), StaysDenied> {
    let host = match hosts {
        HostPattern::Exact(host) => Ok(host.clone()),
        HostPattern::Below(name) => HostName::parse(&format!("any.{name}")),
    };
    // A name too long to have one below it covers nothing.
    let decided = host.map_or(Err(DenyReason::NotListed), |host| policy.decide_name(&host));
    decided.map_err(|reason| StaysDenied {
        hosts: hosts.clone(),
        reason,
    })
}
