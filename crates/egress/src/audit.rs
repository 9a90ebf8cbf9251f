//! The audit log: one JSON line per decision, in a file only its owner can read.
//!
//! Lines hold names, verdicts and sizes; never queries, headers, bodies or secrets. Every text that a guest chose is
//! bounded and escaped by the JSON writer, so one decision is always one line. When a line cannot be written, or the
//! log is full, the sink is broken for good and egress stops: nothing leaves that is not recorded.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_vm_policy::{DenyReason, Rule};
use fs_err::os::unix::fs::OpenOptionsExt as _;
use serde::Serialize;
use thiserror::Error;
use time::OffsetDateTime;

/// The largest log of one session in bytes; a session that fills it is cut off.
pub const MAX_LOG_BYTES: u64 = 256 * 1024 * 1024;
/// The longest path that is recorded, in characters; longer ones end in `…`.
pub const MAX_PATH_CHARACTERS: usize = 1024;
/// How long an equal denied packet is not recorded again.
const PACKET_SILENCE: Duration = Duration::from_secs(10);
/// How many denied packets are remembered for that.
const REMEMBERED_PACKETS: usize = 256;
/// How many denied packets are recorded in [`PACKET_WINDOW`]; a guest that scans must not fill the log.
const PACKETS_PER_WINDOW: u32 = 64;
/// The time in which denied packets are counted.
const PACKET_WINDOW: Duration = Duration::from_secs(1);

/// Appends decisions to the session's log.
#[derive(Debug)]
pub struct AuditSink {
    file: RefCell<fs_err::File>,
    written: Cell<u64>,
    broken: Cell<bool>,
    packets: RefCell<PacketHistory>,
}

/// What keeps denied packets from flooding the log.
#[derive(Debug, Default)]
struct PacketHistory {
    recent: VecDeque<(DeniedPacket, Instant)>,
    window: Option<Instant>,
    in_window: u32,
    suppressed: u64,
}

impl PacketHistory {
    /// Whether this packet is recorded; if so, with how many that were not since the last one.
    fn admit(&mut self, packet: DeniedPacket, now: Instant) -> Option<u64> {
        self.recent
            .retain(|(_, at)| now.duration_since(*at) < PACKET_SILENCE);
        if self
            .window
            .is_none_or(|begun| now.duration_since(begun) >= PACKET_WINDOW)
        {
            self.window = Some(now);
            self.in_window = 0;
        }
        let known = self.recent.iter().any(|(known, _)| *known == packet);
        if known || self.in_window >= PACKETS_PER_WINDOW {
            self.suppressed += 1;
            return None;
        }
        if self.recent.len() == REMEMBERED_PACKETS {
            self.recent.pop_front();
        }
        self.recent.push_back((packet, now));
        self.in_window += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl AuditSink {
    /// Opens `path` for appending; makes it with mode 0600.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let open = || {
            let mut options = fs_err::OpenOptions::new();
            let file = options.append(true).create(true).mode(0o600).open(path)?;
            let written = file.metadata()?.len();
            Ok((file, written))
        };
        let (file, written) = open().map_err(|source| AuditError::Open { source })?;
        Ok(Self {
            file: RefCell::new(file),
            written: Cell::new(written),
            broken: Cell::new(false),
            packets: RefCell::default(),
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
        serde_json::to_writer(&mut line, event).map_err(|source| AuditError::Encode { source })?;
        line.push(b'\n');
        let written = self.written.get() + line.len() as u64;
        if written > MAX_LOG_BYTES {
            return Err(AuditError::Full);
        }
        self.file
            .borrow_mut()
            .write_all(&line)
            .map_err(|source| AuditError::Write { source })?;
        self.written.set(written);
        Ok(())
    }

    /// Appends a denied packet unless an equal one, or too many others, were recorded a moment ago.
    pub(crate) fn record_packet(&self, session: &str, packet: DeniedPacket) {
        let admitted = self.packets.borrow_mut().admit(packet, Instant::now());
        let Some(suppressed) = admitted else {
            return;
        };
        let mut event = AuditEvent::new(session, Kind::Packet);
        event.protocol = Some(packet.protocol.name());
        event.address = Some(packet.address);
        event.port = packet.port;
        event.verdict = Some(Verdict::Deny);
        event.reason = Some(packet.reason);
        event.suppressed = (suppressed > 0).then_some(suppressed);
        let _broken_is_remembered = self.record(&event);
    }
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
    fn name(self) -> &'static str {
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
}

/// One line of the log. Absent fields are left out.
#[derive(Debug, Clone, Serialize)]
pub struct AuditEvent<'a> {
    /// RFC 3339, UTC, milliseconds.
    pub time: String,
    /// The session's id.
    pub session: &'a str,
    /// What was decided about.
    pub kind: Kind,
    /// Host name: the TLS server name, or the name our DNS answered.
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
    /// What was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Why it was denied or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<DenyReason>,
    /// What let the connection pass.
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
    pub fn new(session: &'a str, kind: Kind) -> Self {
        Self {
            time: Self::now(),
            session,
            kind,
            host: None,
            address: None,
            port: None,
            protocol: None,
            method: None,
            path: None,
            verdict: None,
            reason: None,
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
    let path = path.split('?').next().unwrap_or_default();
    match path.char_indices().nth(MAX_PATH_CHARACTERS) {
        Some((end, _)) => format!("{}…", &path[..end]),
        None => path.to_owned(),
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
    /// The log has reached [`MAX_LOG_BYTES`].
    #[error("the audit log is full")]
    Full,
    /// An earlier line was lost.
    #[error("the audit log is broken")]
    Broken,
}

#[cfg(test)]
mod tests;
