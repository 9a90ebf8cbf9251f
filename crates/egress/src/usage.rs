//! Counts the tokens that models used, from their providers' answers.
//!
//! Theory of operation. A request whose path is a model endpoint's is asked to be answered without compression; of its
//! answer, a [`Tap`] looks at every byte that passes to the guest, and keeps the numbers of the objects `usage` and
//! `usageMetadata` and the model's name. Memory is bounded whatever the answer's length: the scanner knows where in a
//! document it is and holds nothing else. The bytes themselves are neither changed nor delayed, and what cannot be read is
//! counted as such. Of a WebSocket the server's text messages are read in the same way; compression is not negotiated there.
//!
//! One line of JSON for each answer goes to a file of the session. It is accounting, not enforcement: a file that cannot be
//! written costs a warning.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use agent_vm_policy::HostName;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use serde::Serialize;

use crate::audit::{AuditEvent, ascii, bounded};

mod count;
mod events;
mod frames;
mod scanner;
mod tapped;

pub use count::TokenCount;
pub(crate) use tapped::Tapped;

use count::Tally;
use events::EventLines;
use frames::Frames;
use scanner::Scanner;

/// The most that one session writes, in bytes: some 30 000 answers.
const MAX_SESSION_BYTES: u64 = 8 * 1024 * 1024;

const WEBSOCKET_EXTENSIONS: HeaderName = HeaderName::from_static("sec-websocket-extensions");

/// How the paths of model endpoints end; what comes before is the provider's own matter.
const ENDPOINTS: &[&str] = &[
    // Anthropic and what speaks its language.
    "/v1/messages",
    // OpenAI and what speaks its language; Copilot has no version in its paths.
    "/chat/completions",
    "/responses",
    "/v1/completions",
    "/v1/embeddings",
    // Gemini, Vertex and Code Assist: MODEL:METHOD.
    ":generateContent",
    ":streamGenerateContent",
];

/// Whether a path is a model endpoint's.
fn is_model_endpoint(path: &str) -> bool {
    ENDPOINTS.iter().any(|end| path.ends_with(end))
}

/// Asks for an answer that can be read.
fn ask_readable(headers: &mut HeaderMap) {
    if headers.contains_key(header::ACCEPT_ENCODING) {
        let identity = HeaderValue::from_static("identity");
        headers.insert(header::ACCEPT_ENCODING, identity);
    }
    headers.remove(WEBSOCKET_EXTENSIONS);
}

/// One answer of a model, as it is stored.
#[derive(Debug, Clone, Serialize)]
struct UsageLine<'a> {
    /// RFC 3339, UTC, milliseconds.
    time: String,
    session: &'a str,
    project: &'a str,
    host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(flatten)]
    tokens: TokenCount,
    /// The answer could not be read; its tokens are not known.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unread: bool,
}

/// Where one session's numbers go.
#[derive(Debug)]
pub struct UsageLog {
    session: String,
    project: String,
    path: PathBuf,
    file: RefCell<Option<fs_err::File>>,
    written: Cell<u64>,
    broken: Cell<bool>,
}

impl UsageLog {
    /// A log of `session` in `directory`; both are made when there is something to write.
    #[must_use]
    pub fn new(directory: &Path, session: &str, project: &str) -> Self {
        Self {
            session: session.to_owned(),
            project: project.to_owned(),
            path: directory.join(format!("{session}.jsonl")),
            file: RefCell::default(),
            written: Cell::default(),
            broken: Cell::default(),
        }
    }

    fn record(&self, host: &str, tally: &Tally, unread: bool) {
        let line = UsageLine {
            time: AuditEvent::now(),
            session: &self.session,
            project: &self.project,
            host,
            model: tally.model.as_deref(),
            tokens: tally.tokens(),
            unread,
        };
        if self.broken.get() {
            return;
        }
        let written = self.write(&line);
        if let Err(error) = written {
            self.broken.set(true);
            tracing::warn!(%error, "the tokens that models use are not counted any more");
        }
    }

    fn write(&self, line: &UsageLine<'_>) -> std::io::Result<()> {
        let mut text = Vec::with_capacity(256);
        ascii::write(&mut text, line)?;
        text.push(b'\n');
        let written = self.written.get() + text.len() as u64;
        if written > MAX_SESSION_BYTES {
            return Err(std::io::ErrorKind::QuotaExceeded.into());
        }
        let mut file = self.file.borrow_mut();
        if file.is_none() {
            *file = Some(self.open()?);
        }
        if let Some(file) = file.as_mut() {
            file.write_all(&text)?;
        }
        self.written.set(written);
        Ok(())
    }

    fn open(&self) -> std::io::Result<fs_err::File> {
        if let Some(directory) = self.path.parent() {
            fs_err::create_dir_all(directory)?;
        }
        fs_err::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
    }
}

/// Looks at one answer while it passes. What it found is written when it is dropped: an answer that breaks off was used too.
pub(crate) struct Tap {
    log: Rc<UsageLog>,
    host: String,
    tally: Tally,
    form: Form,
}

/// What an answer is.
enum Form {
    /// JSON, one document or several, one after the other.
    Document(Scanner),
    /// Server-sent events, each with a document.
    Events(EventLines),
    /// A WebSocket, each message a document. Recorded message by message, because its answers share a connection.
    Frames(Frames),
    /// Compressed all the same, or something else.
    Unreadable,
}

/// A request to a model, whose answer is counted.
pub(crate) struct Counted {
    log: Rc<UsageLog>,
    host: String,
    path: String,
}

impl Counted {
    /// A request, when models are counted and it is to one; its header fields then ask for an answer that can be read.
    pub(crate) fn request(
        log: Option<&Rc<UsageLog>>,
        host: Option<&HostName>,
        head: &mut Parts,
    ) -> Option<Self> {
        let (log, host) = log.zip(host)?;
        let path = head.uri.path().to_owned();
        if !is_model_endpoint(&path) {
            return None;
        }
        ask_readable(&mut head.headers);
        Some(Self {
            log: Rc::clone(log),
            host: host.to_string(),
            path,
        })
    }

    /// The tap for an answer with these header fields.
    pub(crate) fn answer(self, headers: &HeaderMap) -> Tap {
        let place = (self.host.as_str(), self.path.as_str());
        Tap::for_answer(self.log, place, headers)
    }

    /// The tap for what the server says over the WebSocket it agreed to with these header fields.
    pub(crate) fn websocket(self, headers: &HeaderMap) -> Tap {
        let place = (self.host.as_str(), self.path.as_str());
        Tap::for_websocket(self.log, place, headers)
    }
}

impl Tap {
    /// For an answer with these header fields to a request for `path`.
    fn for_answer(log: Rc<UsageLog>, (host, path): (&str, &str), headers: &HeaderMap) -> Self {
        let encoded = headers
            .get(header::CONTENT_ENCODING)
            .is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
        let kind = headers.get(header::CONTENT_TYPE);
        let kind = kind.map_or(&b""[..], HeaderValue::as_bytes);
        let is = |name: &[u8]| {
            kind.get(..name.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        let form = if encoded {
            Form::Unreadable
        } else if is(b"text/event-stream") {
            Form::Events(EventLines::default())
        } else if is(b"application/json") || is(b"application/x-ndjson") {
            Form::Document(Scanner::default())
        } else {
            Form::Unreadable
        };
        Self::new(log, host, path, form)
    }

    /// For what a server says over a WebSocket.
    fn for_websocket(log: Rc<UsageLog>, (host, path): (&str, &str), headers: &HeaderMap) -> Self {
        let form = if headers.contains_key(WEBSOCKET_EXTENSIONS) {
            Form::Unreadable
        } else {
            Form::Frames(Frames::default())
        };
        Self::new(log, host, path, form)
    }

    fn new(log: Rc<UsageLog>, host: &str, path: &str, form: Form) -> Self {
        Self {
            log,
            host: host.to_owned(),
            tally: Tally::of(model_in(path)),
            form,
        }
    }

    /// Looks at bytes on their way.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        match &mut self.form {
            Form::Document(scanner) => scanner.push(bytes, &mut self.tally),
            Form::Events(events) => events.push(bytes, &mut self.tally),
            Form::Frames(frames) => {
                let (log, host) = (&self.log, &self.host);
                frames.push(bytes, &mut self.tally, &mut |tally| {
                    if !tally.is_empty() {
                        log.record(host, tally, false);
                        tally.clear_tokens();
                    }
                });
            }
            Form::Unreadable => {}
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let unread = match self.form {
            // Messages were recorded one by one.
            Form::Frames(_) => return,
            Form::Unreadable => true,
            Form::Document(_) | Form::Events(_) => false,
        };
        if unread || !self.tally.is_empty() {
            self.log.record(&self.host, &self.tally, unread);
        }
    }
}

/// The model that a path of Gemini's kind names: `…/models/NAME:METHOD`.
fn model_in(path: &str) -> Option<String> {
    let (before, _method) = path.rsplit_once(':')?;
    let (_, name) = before.rsplit_once("/models/")?;
    Some(bounded(name))
}

#[cfg(test)]
mod tests;
