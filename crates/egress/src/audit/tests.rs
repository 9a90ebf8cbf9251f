//! One line per decision, private, bounded, and a sink that fails closed.

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
fn a_scan_is_counted_and_not_recorded_packet_by_packet() {
    let mut history = PacketHistory::default();
    let packet = |port| DeniedPacket {
        protocol: PacketProtocol::Udp,
        address: "1.1.1.1".parse().unwrap(),
        port: Some(port),
        reason: DenyReason::Protocol,
    };
    let now = Instant::now();
    let admitted = (0..1000).filter(|port| history.admit(packet(*port), now).is_some());
    assert_eq!(admitted.count(), PACKETS_PER_WINDOW as usize);
    let later = now + PACKET_WINDOW;
    assert_eq!(
        history.admit(packet(2000), later),
        Some(1000 - u64::from(PACKETS_PER_WINDOW))
    );
    assert_eq!(history.admit(packet(2001), later), Some(0));
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
