//! Logins of the host, renewed by the launcher.
//!
//! Theory of operation. A [`HostLogin`] is one login in one file of the host. Before each use the file is looked at
//! (its size, times and inode); when it is another one it is read again, so that what the host's own client renewed is
//! used at once. Renewing is single-flight over all launchers of the host and the clients that lock: under a lock of our
//! own for the file (flock, in the state directory) and the client's lock the file is read again, and only if it still
//! holds the token that is no longer good the provider is asked. The new document keeps every byte but the renewed values
//! and takes the old one's place by renaming. Providers replace refresh tokens, so the answer is in a journal before the
//! file is touched, and a launcher that was killed in between is made good by the next one ([`HostLogin::recover`]).
//!
//! Must hold: nothing is sent before the place of the new file and the journal are made; an answer is written only over
//! the refresh token it was given for; every wait is bounded; no error and no record but the journal holds a token.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use agent_vm_secret::Secret;
use agent_vm_state::{FileLock, LockError};
use parking_lot::Mutex;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::host_environment::{ReadError, read_text};
use crate::refresh_endpoint::{ClientValue, LoginFields, RefreshEndpoint};

use self::backoff::{Backoff, Wait, Waiting};
use self::client_lock::HeldLock;
use self::grant::{Granted, Refused};
use self::host_file::{Replacement, Stamp};
use self::journal::Journal;

mod answer;
mod backoff;
mod client_lock;
mod document;
mod grant;
mod host_file;
mod journal;
mod login;

pub use answer::guest_answer;
pub use grant::{GrantAnswer, GrantRequest, Issuer, IssuerUnreachable};
pub use login::Login;

/// With less than this left, an access token is renewed while it is still used.
pub const MARGIN: Duration = Duration::from_secs(300);
/// A file that was written less than this ago is not renewed because of a rejection, or of a short life: whoever wrote
/// it got what there is to be had.
pub const SETTLED: Duration = Duration::from_secs(60);
/// How long other launchers may hold the login's lock: one renewal.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
/// How often a taken lock is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// One login in a file of the host.
#[derive(Debug)]
pub struct HostLogin {
    /// As the client knows it, for the client's locks.
    named: PathBuf,
    /// Links followed.
    file: PathBuf,
    endpoint: &'static RefreshEndpoint,
    fields: &'static LoginFields,
    /// Beginning of the names of what is kept for the file, and for this login in it.
    records: (PathBuf, PathBuf),
    seen: Mutex<Option<Seen>>,
    /// What was granted for a login whose file has no place for an access token, and the refresh token it was got with.
    unwritten: Mutex<Option<(Secret, Login)>>,
}

/// What was read, and the file it was read from.
#[derive(Debug, Clone)]
struct Seen {
    stamp: Option<Stamp>,
    login: Login,
}

/// Why a login is renewed.
#[derive(Debug, Clone)]
pub enum Why {
    /// Its access token ends within this time.
    Ending(Duration),
    /// An upstream did not take this access token.
    Rejected(Secret),
}

/// Where a renewal stands; tests stop one there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Everything is ready to ask the provider.
    BeforeAsking,
    /// The provider has answered, nothing is written.
    Answered,
    /// The answer is in the journal.
    Journalled,
    /// The file is replaced, the journal still there.
    Written,
}

/// What a renewal needs beside the login.
pub struct Renewing<'a> {
    /// Who asks the provider.
    pub issuer: &'a dyn Issuer,
    /// Called at each step; does nothing but in tests.
    pub reached: &'a dyn Fn(Step),
}

impl HostLogin {
    /// The login in `file`, with records below `state`. Nothing is read yet.
    ///
    /// # Errors
    /// When the file is not there, or the directory for records cannot be made.
    pub fn open(
        file: &Path,
        (endpoint, fields): (&'static RefreshEndpoint, &'static LoginFields),
        state: &Path,
    ) -> io::Result<Self> {
        let (named, file) = (file.to_owned(), fs_err::canonicalize(file)?);
        let directory = state.join("logins");
        make_private(&directory)?;
        // A file may hold several logins: each has records of its own, all are written under one lock.
        let of_file = directory.join(journal::key(&file, &[]));
        let of_login = directory.join(journal::key(&file, fields.refresh));
        Ok(Self {
            named,
            file,
            endpoint,
            fields,
            records: (of_file, of_login),
            seen: Mutex::default(),
            unwritten: Mutex::default(),
        })
    }

    /// The login's file, links followed.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The client that the login belongs to (RFC 6749 §2.2), when it is the same for everybody; public.
    #[must_use]
    pub fn client_id(&self) -> Option<&'static str> {
        match self.endpoint.client_id {
            ClientValue::Fixed(id) => Some(id),
            // The guest is not given it.
            ClientValue::InFile(_) => None,
        }
    }

    /// The login as the file has it now; one `stat` when it is unchanged.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn current(&self) -> Result<Login, RenewError> {
        let stamp = Stamp::of(&self.file);
        let known = self.seen.lock().clone();
        let login = match known.filter(|known| stamp.is_some() && known.stamp == stamp) {
            Some(known) => known.login,
            None => {
                let login = Login::read(&self.read()?, self.fields);
                let seen = Seen {
                    stamp,
                    login: login.clone(),
                };
                *self.seen.lock() = Some(seen);
                login
            }
        };
        if self.fields.access.is_some() {
            return Ok(login);
        }
        let unwritten = self.unwritten.lock();
        let known = unwritten
            .as_ref()
            .filter(|(refresh, _)| same(login.refresh.as_ref(), refresh));
        Ok(known.map_or(login, |(_, login)| login.clone()))
    }

    /// Whether the file was written so recently that there is nothing newer to be had.
    #[must_use]
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        let written = fs_err::metadata(&self.file).and_then(|found| found.modified());
        written.is_ok_and(|written| now.duration_since(written).is_ok_and(|age| age < SETTLED))
    }

    /// Finishes what a launcher that was killed had begun, if there is anything and nobody works on it.
    ///
    /// # Errors
    /// When the records or the file cannot be read or written.
    pub fn recover(&self) -> Result<(), RenewError> {
        if self.journal().left_behind().is_none() {
            return Ok(());
        }
        let lock = FileLock::try_exclusive(&self.of_file("lock"));
        let Some(_lock) = lock.map_err(|source| RenewError::Lock { source })? else {
            return Ok(());
        };
        self.make_good()
    }

    /// Renews the login unless it was renewed meanwhile; gives the login there is then. Blocks, for at most two minutes.
    ///
    /// # Errors
    /// When it could not be renewed. The file is then as it was.
    pub fn renew(&self, why: &Why, renewing: &Renewing<'_>) -> Result<Login, RenewError> {
        let _lock = self.lock()?;
        self.make_good()?;
        if let Some(good) = self.good_enough(why)? {
            return Ok(good);
        }
        let _client = self.client_lock()?;
        // The client may have renewed it while it held its lock.
        if let Some(good) = self.good_enough(why)? {
            return Ok(good);
        }
        self.ask(renewing)
    }

    /// The login when there is no need to ask; an error when there is no use in it.
    fn good_enough(&self, why: &Why) -> Result<Option<Login>, RenewError> {
        let (login, now) = (self.current()?, SystemTime::now());
        let good = match why {
            Why::Ending(margin) => {
                login.lasts(now, *margin)
                    || (self.is_fresh(now) && login.lasts(now, Duration::ZERO))
            }
            Why::Rejected(used) => {
                let same = same(login.access.as_ref(), used);
                if same && self.is_fresh(now) {
                    return Err(RenewError::Settled);
                }
                !same && login.lasts(now, Duration::ZERO)
            }
        };
        if good {
            return Ok(Some(login));
        }
        let refresh = login.refresh.as_ref().ok_or(RenewError::NoRefreshToken)?;
        match self.backoff().waiting(refresh, now) {
            Some(waiting) => Err(waiting.into()),
            None => Ok(None),
        }
    }

    /// Asks the provider and writes what it grants. Who calls this holds the locks.
    fn ask(&self, renewing: &Renewing<'_>) -> Result<Login, RenewError> {
        let document = self.read()?;
        let refresh = Login::read(&document, self.fields).refresh;
        let refresh = refresh.ok_or(RenewError::NoRefreshToken)?;
        let request = GrantRequest::new(&document, self.endpoint, self.fields, &refresh);
        let request = request.ok_or(RenewError::NoRefreshToken)?;
        let unwritable = |source| RenewError::Write {
            path: self.file.clone(),
            source,
        };
        let replacement = Replacement::prepare(&self.file).map_err(unwritable)?;
        let journal = self.journal();
        journal.begin(&refresh).map_err(unwritable)?;
        (renewing.reached)(Step::BeforeAsking);
        let answered = renewing.issuer.ask(request);
        let now = SystemTime::now();
        (renewing.reached)(Step::Answered);
        let (answer, granted) = match self.judged(answered, &refresh, now) {
            Ok(granted) => granted,
            Err(error) => {
                let _ = journal.end();
                return Err(error);
            }
        };
        // One of the two on disk is enough; when the file is not written, the next renewal tries again.
        let journalled = journal.answered(&refresh, &answer, now);
        (renewing.reached)(Step::Journalled);
        self.write(&refresh, &granted, now, replacement)?;
        (renewing.reached)(Step::Written);
        if let Err(error) = journalled {
            tracing::warn!(%error, "the journal of a login was not written");
        }
        journal.end().map_err(unwritable)?;
        self.backoff().succeeded();
        self.current()
    }

    /// What was granted, or the failure, which is noted.
    fn judged(
        &self,
        answered: Result<GrantAnswer, IssuerUnreachable>,
        refresh: &Secret,
        now: SystemTime,
    ) -> Result<(GrantAnswer, Granted), RenewError> {
        let (problem, wait) = match answered {
            Ok(answer) => match answer.granted() {
                Ok(granted) => return Ok((answer, granted)),
                Err(Refused::Over(problem)) => (problem, Wait::Over),
                Err(Refused::Later(problem)) => (problem, Wait::Later(answer.retry_after)),
            },
            Err(unreachable) => (unreachable.problem, Wait::Later(None)),
        };
        Err(self.backoff().failed(refresh, &problem, wait, now).into())
    }

    /// Puts what was granted for `refresh` into the file, unless it holds another refresh token by now.
    fn write(
        &self,
        refresh: &Secret,
        granted: &Granted,
        at: SystemTime,
        replacement: Replacement,
    ) -> Result<(), RenewError> {
        let failed = |source| RenewError::Write {
            path: self.file.clone(),
            source,
        };
        let _client = HeldLock::for_writing(self.fields.lock, &self.named).map_err(failed)?;
        let document = self.read()?;
        let held = Login::read(&document, self.fields).refresh;
        if !same(held.as_ref(), refresh) {
            tracing::info!("the host's login changed while it was renewed; what is there stays");
            return Ok(());
        }
        if self.fields.access.is_none() {
            let login = granted.as_login(refresh, at);
            let next = granted.refresh.as_ref().unwrap_or(refresh);
            *self.unwritten.lock() = Some((next.clone(), login));
            if granted.refresh.is_none() {
                return Ok(());
            }
        }
        let changed = login::renewed(&document, self.fields, granted, at);
        let changed = changed.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        replacement.place(changed.as_bytes()).map_err(failed)
    }

    /// Writes what a killed launcher was granted; drops what is of no use. Who calls this holds the login's lock.
    fn make_good(&self) -> Result<(), RenewError> {
        let journal = self.journal();
        let Some(record) = journal.left_behind() else {
            return Ok(());
        };
        let refresh = Login::read(&self.read()?, self.fields).refresh;
        let answer = refresh
            .as_ref()
            .and_then(|refresh| record.answer_to(refresh));
        if let (Some(refresh), Some((answer, at))) = (&refresh, answer)
            && let Ok(granted) = answer.granted()
        {
            let _client = self.client_lock()?;
            let replacement = Replacement::prepare(&self.file);
            let replacement = replacement.map_err(|source| RenewError::Write {
                path: self.file.clone(),
                source,
            })?;
            self.write(refresh, &granted, at, replacement)?;
        }
        journal.end().map_err(|source| RenewError::Write {
            path: self.file.clone(),
            source,
        })
    }

    fn read(&self) -> Result<Zeroizing<String>, RenewError> {
        let text = read_text(&self.file).map_err(|source| RenewError::Read { source })?;
        text.ok_or_else(|| RenewError::Gone {
            path: self.file.clone(),
        })
    }

    fn lock(&self) -> Result<FileLock, RenewError> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            let lock = FileLock::try_exclusive(&self.of_file("lock"));
            if let Some(lock) = lock.map_err(|source| RenewError::Lock { source })? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(RenewError::Busy);
            }
            std::thread::sleep(LOCK_RETRY);
        }
    }

    fn client_lock(&self) -> Result<HeldLock, RenewError> {
        HeldLock::for_renewing(self.fields.lock, &self.named, &self.of_file("held"))
            .map_err(|source| RenewError::ClientLock { source })
    }

    fn journal(&self) -> Journal {
        Journal::at(self.records.1.with_extension("journal"))
    }

    fn backoff(&self) -> Backoff {
        Backoff::at(self.records.1.with_extension("failed"))
    }

    fn of_file(&self, ending: &str) -> PathBuf {
        self.records.0.with_extension(ending)
    }
}

fn same(held: Option<&Secret>, token: &Secret) -> bool {
    held.map(Secret::expose) == Some(token.expose())
}

/// Makes a directory that only its owner can look into.
fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory)
}

/// Why a login was not renewed.
#[derive(Debug, Error)]
pub enum RenewError {
    /// The login's file cannot be read.
    #[error("cannot read the login")]
    Read {
        /// Which file, and why.
        #[source]
        source: ReadError,
    },
    /// There is no login any more.
    #[error("{} is gone", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// The login's lock cannot be used.
    #[error("cannot lock the login")]
    Lock {
        /// Why.
        #[source]
        source: LockError,
    },
    /// Another launcher renews it for too long.
    #[error("another agent-vm has been renewing the login for a minute")]
    Busy,
    /// The client that owns the file holds its lock, or its lock cannot be made.
    #[error("cannot take the client's lock")]
    ClientLock {
        /// Why; `TimedOut` when the client holds it.
        #[source]
        source: io::Error,
    },
    /// The file cannot be replaced.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing to renew it with.
    #[error("the login has no refresh token")]
    NoRefreshToken,
    /// It is too new to be renewed because of a rejection.
    #[error("the login was renewed a moment ago")]
    Settled,
    /// The provider did not renew it.
    #[error("{problem}")]
    Refused {
        /// What happened, for people; without secrets.
        problem: String,
        /// Before this the provider is not asked again.
        until: SystemTime,
        /// Whether only a new login on the host helps.
        over: bool,
    },
}

impl From<Waiting> for RenewError {
    fn from(waiting: Waiting) -> Self {
        Self::Refused {
            problem: waiting.problem,
            until: waiting.until,
            over: waiting.over,
        }
    }
}
