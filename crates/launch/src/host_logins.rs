//! Joins the host's logins and the egress: gives it the token that is good now, renews logins in time, and answers a
//! guest that wants to renew one. The two do not know each other.
//!
//! Theory of operation. For each request the login's file is looked at, so that what the host's own client renewed is
//! used at once. A token that ends soon is renewed while it is still used; one that has ended, or that an upstream
//! rejected, before the request goes on. Renewing runs on a thread of its own with an event loop of its own: neither a
//! guest that goes away nor the launch's end may lose a provider's answer, which may replace the refresh token. The
//! runtime waits for that thread when the launch ends. Per login at most one renewal runs; who needs it awaits it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use agent_vm_credentials::{
    Credential, GrantAnswer, GrantRequest, HostLogin, Issuer, IssuerUnreachable, Login, MARGIN,
    RefreshFacts, RenewError, Renewing, Why, guest_answer,
};
use agent_vm_egress::{
    AuditEvent, AuditSink, IssuerClient, IssuerRequest, Kind, LocalBoxFuture, SecretSource,
    SecretUnavailable, Source, TokenAnswerer, TokenEndpoint, Verdict,
};
use agent_vm_policy::{DenyReason, HostName, HostPattern};
use agent_vm_secret::{Placeholder, Secret};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_blocking, spawn_local};
use zeroize::Zeroizing;

/// News for the person that wait to be shown; more are lost.
const MAX_NOTICES: usize = 16;
/// How long a login is left alone after a failure that is this host's own.
const LOCAL_PAUSE: Duration = Duration::from_secs(5);
/// How long a client may take to write its file, when it does so in place.
const HALF_WRITTEN: Duration = Duration::from_millis(100);

/// The tokens of one launch.
pub(crate) struct HostSecrets {
    /// By name; the tokens that never change.
    fixed: BTreeMap<String, Secret>,
    logins: Vec<Rc<LiveLogin>>,
}

/// What all logins of a launch share.
pub(crate) struct Surroundings {
    /// Session and project, for the audit log.
    pub(crate) source: (String, String),
    pub(crate) client: IssuerClient,
    pub(crate) audit: AuditSink,
    notices: mpsc::Sender<String>,
}

/// One login that is renewed.
struct LiveLogin {
    /// Names of the credentials that are the access and the refresh token.
    names: (String, String),
    facts: RefreshFacts,
    placeholder: Placeholder,
    login: Arc<HostLogin>,
    shared: Rc<Surroundings>,
    running: RefCell<Option<watch::Receiver<Option<Outcome>>>>,
    /// No renewal before this; and the refresh token it is about.
    paused: RefCell<Option<(SystemTime, Failure, Option<Secret>)>>,
    /// Whether the person was told of the failure.
    told: Cell<bool>,
}

type Outcome = Result<Login, Failure>;

/// Why a login was not renewed.
#[derive(Debug, Clone)]
struct Failure {
    problem: String,
    /// Whether only a new login on the host helps, so that the token there is is as good as any.
    over: bool,
}

impl Surroundings {
    /// What logins need, and the end at which their news come out.
    pub(crate) fn new(
        source: (String, String),
        client: IssuerClient,
        audit: AuditSink,
    ) -> (Rc<Self>, mpsc::Receiver<String>) {
        let (notices, news) = mpsc::channel(MAX_NOTICES);
        let shared = Self {
            source,
            client,
            audit,
            notices,
        };
        (Rc::new(shared), news)
    }
}

impl HostSecrets {
    /// The tokens of `credentials`. Finishes what a killed launcher had begun.
    pub(crate) fn new(
        credentials: &[Credential],
        state: &std::path::Path,
        shared: &Rc<Surroundings>,
    ) -> Self {
        let mut secrets = Self {
            fixed: BTreeMap::new(),
            logins: Vec::new(),
        };
        for credential in credentials {
            let opened = credential.refresh.as_ref().map(|facts| {
                let what = (facts.endpoint, facts.fields);
                HostLogin::open(&facts.file, what, state).map(|login| (facts, login))
            });
            match opened {
                Some(Ok((facts, login))) => {
                    if let Err(error) = login.recover() {
                        tracing::warn!(%error, "a login is not made good");
                    }
                    let name = refresh_name(credential, facts, credentials);
                    secrets.logins.push(Rc::new(LiveLogin {
                        names: (credential.name.clone(), name),
                        facts: facts.clone(),
                        placeholder: credential.placeholder.clone(),
                        login: Arc::new(login),
                        shared: Rc::clone(shared),
                        running: RefCell::default(),
                        paused: RefCell::default(),
                        told: Cell::new(false),
                    }));
                }
                other => {
                    if let Some(Err(error)) = other {
                        tracing::warn!(%error, "a login is not renewed");
                    }
                    if let Some(secret) = &credential.secret {
                        let secret = secret.clone();
                        secrets.fixed.insert(credential.name.clone(), secret);
                    }
                }
            }
        }
        secrets
    }

    /// Where these logins are renewed by a guest.
    pub(crate) fn endpoints(&self) -> Vec<TokenEndpoint> {
        let endpoint = |login: &Rc<LiveLogin>| {
            Some(TokenEndpoint {
                credential: login.names.1.clone(),
                host: HostName::parse(login.facts.endpoint.host).ok()?,
                path: login.facts.endpoint.path.to_owned(),
                client_id: login.login.client_id().map(str::to_owned),
            })
        };
        self.logins.iter().filter_map(endpoint).collect()
    }

    fn named(&self, credential: &str) -> Option<&Rc<LiveLogin>> {
        self.logins.iter().find(|login| login.names.0 == credential)
    }

    async fn find(&self, credential: &str) -> Option<Secret> {
        match self.named(credential) {
            Some(login) => login.token().await,
            None => self.fixed.get(credential).cloned(),
        }
    }
}

/// The hosts that are intercepted for a credential: those it goes to, and where it is renewed.
pub(crate) fn intercepted_for(credential: &Credential) -> impl Iterator<Item = HostPattern> + '_ {
    let renewed_at = credential.refresh.as_ref().and_then(|facts| {
        let host = HostName::parse(facts.endpoint.host).ok()?;
        Some(HostPattern::Exact(host))
    });
    credential.hosts.iter().cloned().chain(renewed_at)
}

/// The name of the credential that is a login's refresh token.
fn refresh_name(access: &Credential, facts: &RefreshFacts, all: &[Credential]) -> String {
    let is = |known: &&Credential| known.placeholder == facts.refresh_placeholder;
    match all.iter().find(is) {
        Some(refresh) => refresh.name.clone(),
        None => format!("{}-refresh", access.name),
    }
}

fn unavailable(credential: &str) -> SecretUnavailable {
    SecretUnavailable {
        credential: credential.to_owned(),
    }
}

impl SecretSource for HostSecrets {
    fn secret<'a>(
        &'a self,
        credential: &'a str,
    ) -> LocalBoxFuture<'a, Result<Secret, SecretUnavailable>> {
        Box::pin(async move {
            self.find(credential)
                .await
                .ok_or_else(|| unavailable(credential))
        })
    }

    fn rejected<'a>(&'a self, credential: &'a str, used: &'a Secret) -> LocalBoxFuture<'a, bool> {
        Box::pin(async move {
            match self.named(credential) {
                Some(login) => login.replaced(used).await,
                None => false,
            }
        })
    }
}

impl TokenAnswerer for HostSecrets {
    fn renewed<'a>(
        &'a self,
        credential: &'a str,
    ) -> LocalBoxFuture<'a, Result<Vec<u8>, SecretUnavailable>> {
        Box::pin(async move {
            let login = self.logins.iter().find(|login| login.names.1 == credential);
            let login = login.ok_or_else(|| unavailable(credential))?;
            let document = login.answer().await;
            document.ok_or_else(|| unavailable(credential))
        })
    }
}

impl LiveLogin {
    /// The access token for a request.
    async fn token(self: &Rc<Self>) -> Option<Secret> {
        let (login, now) = (self.current().await?, SystemTime::now());
        if !login.lasts(now, MARGIN) && login.refresh.is_some() {
            if !login.lasts(now, Duration::ZERO) {
                return match self.renew(Why::Ending(MARGIN)).await {
                    Ok(renewed) => renewed.access,
                    // The upstream tells the guest that the login is over.
                    Err(failure) if failure.over => login.access,
                    Err(_) => None,
                };
            }
            if !self.login.is_fresh(now) {
                // Meanwhile the old one is good.
                let _running = self.begin(Why::Ending(MARGIN));
            }
        }
        login.access
    }

    /// Whether there is another access token than `used`, which an upstream did not take.
    async fn replaced(self: &Rc<Self>, used: &Secret) -> bool {
        let other = |login: &Login| {
            let access = login.access.as_ref();
            access.is_some_and(|access| access.expose() != used.expose())
        };
        let known = self.current().await;
        if known
            .is_some_and(|login| other(&login) && login.lasts(SystemTime::now(), Duration::ZERO))
        {
            return true;
        }
        let renewed = self.renew(Why::Rejected(used.clone())).await;
        renewed.is_ok_and(|login| other(&login))
    }

    /// The answer to a guest that wants to renew the login.
    async fn answer(self: &Rc<Self>) -> Option<Vec<u8>> {
        let now = SystemTime::now();
        let login = match self.current().await? {
            login if login.lasts(now, MARGIN) => login,
            login => match self.renew(Why::Ending(MARGIN)).await {
                Ok(renewed) => renewed,
                Err(_) if login.lasts(now, Duration::ZERO) => login,
                Err(_) => return None,
            },
        };
        Some(guest_answer(
            &self.facts,
            &self.placeholder,
            &login,
            SystemTime::now(),
        ))
    }

    /// The login as the file has it. One without any token may be a file that is being written.
    async fn current(&self) -> Option<Login> {
        let readable = |login: &Login| login.access.is_some() || login.refresh.is_some();
        if let Ok(login) = self.login.current()
            && readable(&login)
        {
            return Some(login);
        }
        tokio::time::sleep(HALF_WRITTEN).await;
        self.login.current().ok().filter(readable)
    }

    async fn renew(self: &Rc<Self>, why: Why) -> Outcome {
        let mut running = self.begin(why);
        let ended = running.wait_for(Option::is_some).await;
        let outcome = ended.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| {
            Err(Failure {
                problem: "the launch ends".to_owned(),
                over: false,
            })
        })
    }

    /// Starts a renewal unless one runs, or has to wait.
    fn begin(self: &Rc<Self>, why: Why) -> watch::Receiver<Option<Outcome>> {
        if let Some(running) = &*self.running.borrow() {
            return running.clone();
        }
        if let Some(failure) = self.paused() {
            return watch::channel(Some(Err(failure))).1;
        }
        let (done, running) = watch::channel(None);
        *self.running.borrow_mut() = Some(running.clone());
        let (login, client) = (Arc::clone(&self.login), self.shared.client.clone());
        let work = spawn_blocking(move || {
            let asking = Asking {
                client,
                asked: Mutex::default(),
            };
            let renewing = Renewing {
                issuer: &asking,
                reached: &|_| {},
            };
            let outcome = login.renew(&why, &renewing);
            let asked = asking
                .asked
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            (outcome, asked)
        });
        let this = Rc::clone(self);
        drop(spawn_local(async move {
            let outcome = match work.await {
                Ok((outcome, asked)) => this.finish(outcome, asked),
                Err(_panicked) => Err(Failure {
                    problem: "the renewal broke off".to_owned(),
                    over: false,
                }),
            };
            *this.running.borrow_mut() = None;
            done.send_replace(Some(outcome));
        }));
        running
    }

    fn paused(&self) -> Option<Failure> {
        let paused = self.paused.borrow();
        let (until, failure, about) = paused.as_ref()?;
        let refresh = self.login.current().ok().and_then(|login| login.refresh);
        let same = refresh.as_ref().map(Secret::expose) == about.as_ref().map(Secret::expose);
        (same && SystemTime::now() < *until).then(|| failure.clone())
    }

    /// Records what was asked and tells the person of a failure.
    fn finish(&self, outcome: Result<Login, RenewError>, asked: Option<Asked>) -> Outcome {
        if let Some(asked) = asked {
            self.record(&asked);
        }
        let error = match outcome {
            Ok(login) => {
                *self.paused.borrow_mut() = None;
                self.told.set(false);
                return Ok(login);
            }
            Err(error) => error,
        };
        let failure = Failure {
            problem: explained(&error),
            over: matches!(
                error,
                RenewError::Refused { over: true, .. } | RenewError::NoRefreshToken
            ),
        };
        let until = match error {
            RenewError::Refused { until, .. } => until,
            // What was renewed a moment ago is no failure.
            RenewError::Settled => return Err(failure),
            _ => SystemTime::now() + LOCAL_PAUSE,
        };
        let about = self.login.current().ok().and_then(|login| login.refresh);
        *self.paused.borrow_mut() = Some((until, failure.clone(), about));
        if !self.told.replace(true) {
            let notice = self.notice(&failure);
            tracing::warn!("{notice}");
            let _lost_when_many = self.shared.notices.try_send(notice);
        }
        Err(failure)
    }

    fn notice(&self, failure: &Failure) -> String {
        let (file, problem) = (self.facts.file.display(), &failure.problem);
        let help = if failure.over {
            "log in on the host again"
        } else {
            "it is tried again; the login on the host is untouched"
        };
        format!("the login in {file} was not renewed: {problem}; {help}")
    }

    fn record(&self, asked: &Asked) {
        let (session, project) = &self.shared.source;
        let mut event = AuditEvent::new(Source { session, project }, Kind::Refresh);
        event.host = Some(self.facts.endpoint.host);
        event.address = asked.address;
        event.port = Some(443);
        event.method = Some("POST");
        event.path = Some(self.facts.endpoint.path.to_owned());
        event.credential = Some(&self.names.1);
        event.status = asked.status;
        event.verdict = Some(Verdict::Allow);
        if asked.status.is_none() {
            event.verdict = Some(Verdict::Failed);
            event.reason = Some(DenyReason::UpstreamFailed);
        }
        event.ms = u64::try_from(asked.took.as_millis()).unwrap_or(u64::MAX);
        let _broken_is_remembered = self.shared.audit.record(&event);
    }
}

/// An error with its reasons.
fn explained(error: &dyn std::error::Error) -> String {
    let reasons = std::iter::successors(Some(error), |error| error.source());
    let reasons: Vec<_> = reasons.map(ToString::to_string).collect();
    reasons.join(": ")
}

/// What was asked of a provider, for the audit log.
struct Asked {
    address: Option<IpAddr>,
    status: Option<u16>,
    took: Duration,
}

/// Asks with the egress's client, on the thread it is on.
struct Asking {
    client: IssuerClient,
    asked: Mutex<Option<Asked>>,
}

impl Issuer for Asking {
    fn ask(&self, request: GrantRequest) -> Result<GrantAnswer, IssuerUnreachable> {
        let begun = Instant::now();
        let answered = self.send(request);
        let asked = Asked {
            address: answered.as_ref().ok().map(|(_, address)| *address),
            status: answered.as_ref().ok().map(|(answer, _)| answer.status),
            took: begun.elapsed(),
        };
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        answered.map(|(answer, _)| answer)
    }
}

impl Asking {
    fn send(&self, request: GrantRequest) -> Result<(GrantAnswer, IpAddr), IssuerUnreachable> {
        let unreachable = |error: &dyn std::error::Error| IssuerUnreachable {
            problem: explained(error),
        };
        let host = HostName::parse(request.host).map_err(|error| unreachable(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| unreachable(&error))?;
        let asked = self.client.ask(IssuerRequest {
            host,
            path: request.path.to_owned(),
            content_type: request.content_type,
            body: request.body.to_vec(),
        });
        let answer = LocalSet::new().block_on(&runtime, asked);
        let answer = answer.map_err(|error| unreachable(&error))?;
        let address = answer.address;
        let answer = GrantAnswer {
            status: answer.status,
            retry_after: answer.retry_after,
            body: Zeroizing::new(answer.body),
        };
        Ok((answer, address))
    }
}

#[cfg(test)]
mod tests;
