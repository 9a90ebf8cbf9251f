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

use agent_vm_policy::DenyReason;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use serde::Serialize;
use thiserror::Error;
use time::OffsetDateTime;

/// The largest log of one session in bytes; a session that fills it is cut off.
pub const MAX_LOG_BYTES: u64 = 1024 * 1024 * 1024;
/// The longest path that is recorded, in characters; longer ones end in `…`.
pub const MAX_PATH_CHARACTERS: usize = 1024;
/// How long an equal denied packet is not recorded again.
const PACKET_SILENCE: Duration = Duration::from_secs(10);
/// How many denied packets are remembered for that.
const REMEMBERED_PACKETS: usize = 256;

/// Appends decisions to the session's log.
#[derive(Debug)]
pub struct AuditSink {
    file: RefCell<fs_err::File>,
    written: Cell<u64>,
    broken: Cell<bool>,
    recent_packets: RefCell<VecDeque<(DeniedPacket, Instant)>>,
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
            recent_packets: RefCell::default(),
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

    /// Appends a denied packet unless an equal one was recorded a moment ago.
    pub(crate) fn record_packet(&self, session: &str, packet: DeniedPacket) {
        let now = Instant::now();
        let mut recent = self.recent_packets.borrow_mut();
        recent.retain(|(_, at)| now.duration_since(*at) < PACKET_SILENCE);
        if recent.iter().any(|(known, _)| *known == packet) {
            return;
        }
        if recent.len() == REMEMBERED_PACKETS {
            recent.pop_front();
        }
        recent.push_back((packet, now));
        let mut event = AuditEvent::new(session, Kind::Packet);
        event.protocol = Some(packet.protocol.name());
        event.address = Some(packet.address);
        event.port = packet.port;
        event.verdict = Some(Verdict::Deny);
        event.reason = Some(packet.reason);
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
    /// Name of the credential that was attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<&'a str>,
    /// HTTP status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
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
            credential: None,
            status: None,
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
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::Value;

    use super::*;

    fn sink() -> (tempfile::TempDir, std::path::PathBuf, AuditSink) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let sink = AuditSink::open(&path).unwrap();
        (dir, path, sink)
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs_err::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn one_decision_is_one_line_whatever_the_guest_wrote() {
        let (_dir, path, sink) = sink();
        let mut event = AuditEvent::new("s1", Kind::Request);
        event.method = Some("GET\n{\"verdict\":\"allow\"}");
        event.path = Some(bounded_path("/a\u{2028}\r\n\"}\u{1b}[2J?secret=1"));
        event.verdict = Some(Verdict::Deny);
        event.reason = Some(DenyReason::AuthorityMismatch);
        sink.record(&event).unwrap();
        let lines = lines(&path);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["reason"], "authority-mismatch");
        assert_eq!(lines[0]["verdict"], "deny");
        assert!(!fs_err::read_to_string(&path).unwrap().contains("secret"));
    }

    #[test]
    fn the_log_is_private_and_appended_to() {
        let (_dir, path, first) = sink();
        first.record(&AuditEvent::new("s1", Kind::Connect)).unwrap();
        let second = AuditSink::open(&path).unwrap();
        second
            .record(&AuditEvent::new("s2", Kind::Connect))
            .unwrap();
        assert_eq!(lines(&path).len(), 2);
        let mode = fs_err::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_lost_line_breaks_the_sink_for_good() {
        let sink = AuditSink::open(Path::new("/dev/full")).unwrap();
        assert!(!sink.is_broken());
        let lost = sink.record(&AuditEvent::new("s1", Kind::Connect));
        assert!(matches!(lost, Err(AuditError::Write { .. })));
        assert!(sink.is_broken());
        let after = sink.record(&AuditEvent::new("s1", Kind::Connect));
        assert!(matches!(after, Err(AuditError::Broken)));
    }

    #[test]
    fn a_full_log_breaks_the_sink() {
        let (_dir, _path, sink) = sink();
        sink.written.set(MAX_LOG_BYTES);
        let lost = sink.record(&AuditEvent::new("s1", Kind::Connect));
        assert!(matches!(lost, Err(AuditError::Full)) && sink.is_broken());
    }

    #[test]
    fn equal_denied_packets_are_recorded_once_in_a_while() {
        let (_dir, path, sink) = sink();
        let mut packet = DeniedPacket {
            protocol: PacketProtocol::Udp,
            address: "1.1.1.1".parse().unwrap(),
            port: Some(53),
            reason: DenyReason::ForeignDnsServer,
        };
        for _ in 0..100 {
            sink.record_packet("s1", packet);
        }
        packet.port = Some(443);
        sink.record_packet("s1", packet);
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (&lines[0]["protocol"], &lines[0]["port"]),
            (&"udp".into(), &53.into())
        );
        assert_eq!(lines[0]["reason"], "foreign-dns-server");
    }

    #[test]
    fn paths_are_bounded() {
        let path = bounded_path(&"é".repeat(5000));
        assert_eq!(path.chars().count(), MAX_PATH_CHARACTERS + 1);
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_795_239_294_007_000_000).unwrap();
        assert_eq!(rfc3339(at), "2026-11-21T05:34:54.007Z");
    }
}
