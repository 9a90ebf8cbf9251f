//! What a session must not change unnoticed: files that make programs of the host, or agents of later sessions, do something.
//!
//! They are fingerprinted beside the boot and again when the machine is gone; what differs is told. Of a repository, what
//! git runs on the host is besides read-only in the guest ([`protected_paths`]). The guest writes the project, so it is
//! read as hostile: beneath its root, through no link, no more than the limits here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_vm_egress::{AuditEvent, AuditSink, Kind, Source};
use serde::Serialize;

mod fingerprint;
mod protected;
mod watched;

pub(crate) use protected::protected_paths;

use fingerprint::{Scan, scan};

/// How long a launch waits for fingerprints that are not ready when its program could start. They take milliseconds.
const PATIENCE: Duration = Duration::from_millis(250);
/// Most changes that are told.
const MAX_TOLD: usize = 64;

/// How the session's files are watched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntegritySettings {
    /// Files of the host that hold logins, absolute.
    pub login_files: Vec<PathBuf>,
    /// What the guest may do to the repository's hooks and configuration.
    pub git: GitAccess,
}

/// What the guest may do to what git runs on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GitAccess {
    /// Read it.
    #[default]
    ReadOnly,
    /// Change it: `--git-writable`.
    Writable,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// There was none before.
    New,
    /// Its content, mode or type is another.
    Changed,
    /// It is gone.
    Removed,
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Removed => "removed",
        })
    }
}

/// A file that a session changed, or that somebody else did meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Relative to the project, or absolute. The guest may have chosen it: to be escaped.
    pub path: PathBuf,
    /// What became of it.
    pub kind: ChangeKind,
}

/// What a session left otherwise than it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntegrityReport {
    /// Sorted, the first 64.
    pub changes: Vec<Change>,
    /// Changes that are left out of that.
    pub more: usize,
    /// What could not be looked at, for people.
    pub gaps: Vec<&'static str>,
}

impl IntegrityReport {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.gaps.is_empty()
    }
}

/// The files of one session.
#[derive(Debug)]
pub(crate) struct Watch {
    project: PathBuf,
    login_files: Vec<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Being fingerprinted.
    Scanning(JoinHandle<Scan>),
    /// As the program found it.
    Ready { before: Scan, session: String },
    /// No program was started, or what it found is not known.
    Nothing { gap: Option<&'static str> },
}

/// The program was started before the fingerprints were made.
const TOO_LATE: &str = "the files were still being read when the program began";

impl Watch {
    /// Begins to look at the files, on a thread of its own.
    pub(crate) fn begin(project: &Path, settings: &IntegritySettings) -> Self {
        let (root, logins) = (project.to_owned(), settings.login_files.clone());
        let thread = std::thread::Builder::new().name("integrity".to_owned());
        let state = match thread.spawn(move || scan(&root, &logins)) {
            Ok(scanning) => State::Scanning(scanning),
            Err(_no_thread) => State::Nothing {
                gap: Some("no thread could be started"),
            },
        };
        Self {
            project: project.to_owned(),
            login_files: settings.login_files.clone(),
            state: Mutex::new(state),
        }
    }

    /// The program of this session is about to start: what is there now is what it finds.
    pub(crate) fn settle(&self, session: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = State::Nothing {
            gap: Some(TOO_LATE),
        };
        let State::Scanning(scanning) = std::mem::replace(&mut *state, nothing) else {
            return;
        };
        let began = Instant::now();
        while !scanning.is_finished() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        if scanning.is_finished()
            && let Ok(before) = scanning.join()
        {
            let session = session.to_owned();
            *state = State::Ready { before, session };
        }
    }

    /// What differs now that the machine is gone, and the session's id; nothing when no program was started.
    pub(crate) fn finish(&self) -> Option<(IntegrityReport, String)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Nothing { gap: None }) {
            State::Scanning(_) | State::Nothing { gap: None } => None,
            State::Nothing { gap: Some(gap) } => {
                let gaps = vec![gap];
                let report = IntegrityReport {
                    gaps,
                    ..IntegrityReport::default()
                };
                Some((report, String::new()))
            }
            State::Ready { before, session } => {
                let after = scan(&self.project, &self.login_files);
                Some((compare(before, after), session))
            }
        }
    }
}

fn compare(before: Scan, after: Scan) -> IntegrityReport {
    let mut kinds: BTreeMap<PathBuf, ChangeKind> = BTreeMap::new();
    for (path, seen) in &before.seen {
        match after.seen.get(path) {
            Some(now) if now == seen => {}
            Some(_) => drop(kinds.insert(path.clone(), ChangeKind::Changed)),
            None => drop(kinds.insert(path.clone(), ChangeKind::Removed)),
        }
    }
    for path in after.seen.into_keys() {
        if !before.seen.contains_key(&path) {
            kinds.insert(path, ChangeKind::New);
        }
    }
    let more = kinds.len().saturating_sub(MAX_TOLD);
    let changes = kinds.into_iter().take(MAX_TOLD);
    let mut gaps = before.gaps;
    gaps.extend(after.gaps);
    IntegrityReport {
        changes: changes.map(|(path, kind)| Change { path, kind }).collect(),
        more,
        gaps: gaps.into_iter().collect(),
    }
}

/// Writes one line for each change to the audit log.
pub(crate) fn record(report: &IntegrityReport, log: &Path, (session, project): (&str, &str)) {
    if report.changes.is_empty() {
        return;
    }
    let recorded = AuditSink::open(log).and_then(|sink| {
        report.changes.iter().try_for_each(|change| {
            let mut event = AuditEvent::new(Source { session, project }, Kind::Integrity);
            event.path = Some(agent_vm_egress::bounded_path(
                &change.path.to_string_lossy(),
            ));
            event.change = Some(match change.kind {
                ChangeKind::New => "new",
                ChangeKind::Changed => "changed",
                ChangeKind::Removed => "removed",
            });
            sink.record(&event)
        })
    });
    if let Err(error) = recorded {
        tracing::warn!(%error, "changes of watched files are not in the audit log");
    }
}

#[cfg(test)]
mod tests;
