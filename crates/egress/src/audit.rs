//! The audit log: one JSON line per decision, in a file only its owner can read.
//!
//! Lines hold names, verdicts and sizes; never queries, headers, bodies or secrets. Every text that a guest chose is
//! bounded and written as printable ASCII, so one decision is always one line and no reader's terminal obeys it. When a
//! line cannot be written, or the session has written as much as it may, the sink is broken for good and egress stops:
//! nothing leaves that is not recorded.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use agent_vm_policy::{DenyReason, Rule};
use serde::Serialize;
use thiserror::Error;
use time::OffsetDateTime;

use self::history::History;
use self::log_file::{Limits, LogFile};

pub(crate) mod ascii;
mod history;
mod log_file;

pub use log_file::{MAX_FILE_BYTES, MAX_FILES, MAX_SESSION_BYTES, audit_files};

/// The longest path or name that is recorded, in characters; longer ones end in `…`.
pub const MAX_PATH_CHARACTERS: usize = 1024;

/// Appends decisions to the log.
#[derive(Debug)]
pub struct AuditSink {
    log: RefCell<LogFile>,
    broken: Cell<bool>,
    packets: RefCell<History<DeniedPacket>>,
    asked: RefCell<History<String>>,
    denied_names: RefCell<History<DeniedName>>,
}

impl AuditSink {
    /// Opens the log at `path` for appending; makes it with mode 0600.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        Self::with_limits(path, Limits::default())
    }

    fn with_limits(path: &Path, limits: Limits) -> Result<Self, AuditError> {
        Ok(Self {
            log: RefCell::new(LogFile::open(path, limits)?),
            broken: Cell::new(false),
            packets: RefCell::default(),
            asked: RefCell::default(),
            denied_names: RefCell::default(),
        })
    }

    /// Whether a line was lost. Nothing may be allowed from then on.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Appends one decision.
    ///
    /// # Errors
    /// When it cannot be written whole; from then on always.
    pub fn record(&self, event: &AuditEvent<'_>) -> Result<(), AuditError> {
        let written = self.append(event);
        if let Err(error) = &written
            && !self.broken.replace(true)
        {
            tracing::error!(%error, "the audit log is broken, egress stops");
        }
        written
    }

    fn append(&self, event: &AuditEvent<'_>) -> Result<(), AuditError> {
        if self.broken.get() {
            return Err(AuditError::Broken);
        }
        let mut line = Vec::with_capacity(512);
        ascii::write(&mut line, event).map_err(|source| AuditError::Encode { source })?;
        line.push(b'\n');
        self.log.borrow_mut().append(&line)
    }

    /// Appends a denied packet unless an equal one, or too many others, were recorded a moment ago; `unseen` are
    /// those that did not even come here.
    pub(crate) fn record_packet(&self, source: Source<'_>, packet: DeniedPacket, unseen: u64) {
        let admitted = self
            .packets
            .borrow_mut()
            .admit(packet, unseen, Instant::now());
        let Some(suppressed) = admitted else {
            return;
        };
        let mut event = AuditEvent::new(source, Kind::Packet);
        event.protocol = Some(packet.protocol.name());
        event.address = Some(packet.address);
        event.port = packet.port;
        event.verdict = Some(Verdict::Deny);
        event.reason = Some(packet.reason);
        event.suppressed = (suppressed > 0).then_some(suppressed);
        let _broken_is_remembered = self.record(&event);
    }

    /// Appends that the guest asked for a name that exists for it, unless it did a moment ago.
    pub(crate) fn record_question(&self, source: Source<'_>, name: &str) {
        let name = bounded(name);
        let admitted = self
            .asked
            .borrow_mut()
            .admit(name.clone(), 0, Instant::now());
        let Some(suppressed) = admitted else {
            return;
        };
        let mut event = AuditEvent::new(source, Kind::Dns);
        event.host = Some(&name);
        event.verdict = Some(Verdict::Allow);
        event.suppressed = (suppressed > 0).then_some(suppressed);
        let _broken_is_remembered = self.record(&event);
    }

    /// Appends a name that the guest was not told an address of, unless it was a moment ago.
    pub(crate) fn record_denied_name(&self, source: Source<'_>, denied: DeniedName, unseen: u64) {
        let admitted = self
            .denied_names
            .borrow_mut()
            .admit(denied.clone(), unseen, Instant::now());
        let Some(suppressed) = admitted else {
            return;
        };
        let mut event = AuditEvent::new(source, Kind::Dns);
        event.host = Some(&denied.name);
        event.address = denied.address;
        event.verdict = Some(Verdict::Deny);
        event.reason = Some(denied.reason);
        event.suppressed = (suppressed > 0).then_some(suppressed);
        let _broken_is_remembered = self.record(&event);
    }
}

/// A name that does not exist for the guest, or an address that it is not told for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeniedName {
    /// The name, bounded.
    pub(crate) name: String,
    /// The address; without one the name itself is denied.
    pub(crate) address: Option<IpAddr>,
    /// Why.
    pub(crate) reason: DenyReason,
}

/// Whose decisions are recorded.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The session's id.
    pub session: &'a str,
    /// The project's id.
    pub project: &'a str,
}

/// What is not TCP and was denied by the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeniedPacket {
    /// Its protocol.
    pub protocol: PacketProtocol,
    /// Where it was going.
    pub address: IpAddr,
    /// Where it was going, when the protocol has ports.
    pub port: Option<u16>,
    /// Why it was denied.
    pub reason: DenyReason,
}

/// Protocol of a denied packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketProtocol {
    /// TCP that never became a flow.
    Tcp,
    /// UDP, QUIC among it.
    Udp,
    /// ICMP for IPv4 or IPv6.
    Icmp,
    /// Anything else.
    Other,
}

impl PacketProtocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Other => "other",
        }
    }
}

/// What was decided about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A connection.
    Connect,
    /// One HTTP request of an intercepted connection.
    Request,
    /// A packet that belongs to no connection.
    Packet,
    /// A name that was asked for, or an address that is not told for one.
    Dns,
    /// A watched file that is not what it was when the session began.
    Integrity,
    /// What had to be refused at the beginning of the session, and was.
    Canary,
    /// The launcher itself renewed a login of the host.
    Refresh,
    /// A question to the person, or the answer; the host of an answer may be a pattern.
    Ask,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The connection was passed on as it is.
    Tunnel,
    /// The request was passed on.
    Allow,
    /// Nothing was passed on.
    Deny,
    /// It was allowed, but could not be carried out.
    Failed,
    /// It is held until the person says something.
    Ask,
}

/// One line of the log. Absent fields are left out.
#[derive(Debug, Clone, Serialize)]
pub struct AuditEvent<'a> {
    /// RFC 3339, UTC, milliseconds.
    pub time: String,
    /// The session's id.
    pub session: &'a str,
    /// The project's id.
    pub project: &'a str,
    /// What was decided about.
    pub kind: Kind,
    /// Host name: the TLS server name, the name our DNS answered, or the name that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a str>,
    /// The address that was dialled or asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Protocol of a packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'static str>,
    /// HTTP method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    /// Path without query, bounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What became of the file at `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<&'static str>,
    /// What was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Why it was denied or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<DenyReason>,
    /// The host's proxy that it went through, without login; the address is then the one that was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<&'a str>,
    /// What let the connection or request pass, or denied it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a Rule>,
    /// Name of the credential that was attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<&'a str>,
    /// HTTP status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Denied packets that were not recorded since the last one that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<u64>,
    /// Bytes from the guest: of a request's body, or of a connection.
    pub bytes_up: u64,
    /// Bytes to the guest.
    pub bytes_down: u64,
    /// Milliseconds from the beginning to the end.
    pub ms: u64,
}

impl<'a> AuditEvent<'a> {
    /// An event that happens now.
    #[must_use]
    pub fn new(source: Source<'a>, kind: Kind) -> Self {
        Self {
            time: Self::now(),
            session: source.session,
            project: source.project,
            kind,
            host: None,
            address: None,
            port: None,
            protocol: None,
            method: None,
            path: None,
            change: None,
            verdict: None,
            reason: None,
            proxy: None,
            rule: None,
            credential: None,
            status: None,
            suppressed: None,
            bytes_up: 0,
            bytes_down: 0,
            ms: 0,
        }
    }

    /// The time of an event that happens now.
    pub(crate) fn now() -> String {
        rfc3339(OffsetDateTime::now_utc())
    }
}

/// The path as it is recorded: at most [`MAX_PATH_CHARACTERS`], nothing after a `?`.
#[must_use]
pub fn bounded_path(path: &str) -> String {
    bounded(path.split('?').next().unwrap_or_default())
}

/// At most [`MAX_PATH_CHARACTERS`] of a text.
pub(crate) fn bounded(text: &str) -> String {
    match text.char_indices().nth(MAX_PATH_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn rfc3339(at: OffsetDateTime) -> String {
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

/// Why a decision was not recorded.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The file cannot be opened.
    #[error("cannot open the audit log")]
    Open {
        /// Why, with the path.
        #[source]
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the audit log")]
    Write {
        /// Why, with the path.
        #[source]
        source: std::io::Error,
    },
    /// The event cannot be encoded.
    #[error("cannot encode an audit event")]
    Encode {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The session has written [`MAX_SESSION_BYTES`].
    #[error("the session has filled its part of the audit log")]
    Full,
    /// An earlier line was lost.
    #[error("the audit log is broken")]
    Broken,
}

#[cfg(test)]
mod tests;
