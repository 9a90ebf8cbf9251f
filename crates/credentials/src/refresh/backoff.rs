//! How long a token endpoint is left alone after it gave no login; kept in a file, so that all launchers of the host do.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use agent_vm_secret::Secret;
use serde::{Deserialize, Serialize};

use super::host_file::write_private;
use super::journal::hash;

/// After the first failure; doubled by each further one.
const FIRST: Duration = Duration::from_secs(5);
/// The longest by itself.
const LONGEST: Duration = Duration::from_secs(300);
/// The longest that a provider asks for and gets, and how long a login that is over is not tried.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);
/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 4096;

/// The failures of one login.
#[derive(Debug)]
pub(super) struct Backoff {
    path: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Failures {
    /// Hash of the refresh token that failed.
    sent: String,
    count: u32,
    /// Seconds since 1970.
    until: u64,
    problem: String,
    over: bool,
}

/// Until when a login is not renewed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) until: SystemTime,
    pub(super) problem: String,
    /// Whether only a new login helps.
    pub(super) over: bool,
}

impl Backoff {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Whether `refresh` is to be left alone at `now`.
    pub(super) fn waiting(&self, refresh: &Secret, now: SystemTime) -> Option<Waiting> {
        let failures = self.read(refresh)?;
        let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(failures.until))?;
        // A clock that was set back must not stop a login for longer than ever meant.
        let sane = until <= now + LONGEST_ASKED;
        (until > now && sane).then_some(Waiting {
            until,
            problem: failures.problem,
            over: failures.over,
        })
    }

    /// Notes a failure of `refresh`.
    pub(super) fn failed(
        &self,
        refresh: &Secret,
        problem: &str,
        wait: Wait,
        now: SystemTime,
    ) -> Waiting {
        let count = self.read(refresh).map_or(0, |failures| failures.count);
        let doubled = FIRST.saturating_mul(1 << count.min(10)).min(LONGEST);
        let length = match wait {
            Wait::Over => LONGEST_ASKED,
            Wait::Later(asked) => asked.unwrap_or_default().clamp(doubled, LONGEST_ASKED),
        };
        let waiting = Waiting {
            until: now + length,
            problem: problem.to_owned(),
            over: wait == Wait::Over,
        };
        let since = waiting.until.duration_since(SystemTime::UNIX_EPOCH);
        let failures = Failures {
            sent: hash(refresh),
            count: count.saturating_add(1),
            until: since.unwrap_or_default().as_secs(),
            problem: problem.to_owned(),
            over: waiting.over,
        };
        if let Ok(text) = serde_json::to_vec(&failures) {
            // Without the file other launchers find out by themselves.
            let _ = write_private(&self.path, &text);
        }
        waiting
    }

    /// Notes that all is well.
    pub(super) fn succeeded(&self) {
        let _ = fs_err::remove_file(&self.path);
    }

    fn read(&self, refresh: &Secret) -> Option<Failures> {
        let found = fs_err::symlink_metadata(&self.path).ok()?;
        if !found.is_file() || found.len() > MAX_BYTES {
            return None;
        }
        let failures: Failures = serde_json::from_slice(&fs_err::read(&self.path).ok()?).ok()?;
        (failures.sent == hash(refresh)).then_some(failures)
    }
}

/// What a failure was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The login is over.
    Over,
    /// It may work later; the provider may have said when.
    Later(Option<Duration>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    #[test]
    fn waits_longer_after_each_failure_and_at_most_as_long_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let backoff = Backoff::at(dir.path().join("x.failed"));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (one, other) = (token("one"), token("other"));
        let mut waited = Vec::new();
        for _ in 0..9 {
            let waiting = backoff.failed(&one, "it answered 500", Wait::Later(None), now);
            assert_eq!(backoff.waiting(&one, now).as_ref(), Some(&waiting));
            waited.push(waiting.until.duration_since(now).unwrap().as_secs());
        }
        assert_eq!(waited, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(backoff.waiting(&other, now), None, "another login");
        assert_eq!(backoff.waiting(&one, now + Duration::from_secs(301)), None);
        let asked = Some(Duration::from_secs(1_000_000));
        let waiting = backoff.failed(&other, "it answered 429", Wait::Later(asked), now);
        assert_eq!(waiting.until, now + LONGEST_ASKED);
        backoff.succeeded();
        assert_eq!(backoff.waiting(&other, now), None);
    }

    #[test]
    fn a_clock_that_was_set_back_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let backoff = Backoff::at(dir.path().join("x.failed"));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        backoff.failed(&token("one"), "x", Wait::Over, now);
        let earlier = now - Duration::from_secs(100_000);
        assert_eq!(backoff.waiting(&token("one"), earlier), None);
    }
}
