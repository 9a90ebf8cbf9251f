//! One line per decision, private, bounded, and a sink that fails closed.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::*;

const S1: Source<'_> = Source {
    session: "s1",
    project: "p",
};
const S2: Source<'_> = Source {
    session: "s2",
    project: "p",
};

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
    let mut event = AuditEvent::new(S1, Kind::Request);
    event.method = Some("GET\n{\"verdict\":\"allow\"}");
    event.path = Some(bounded_path("/a\u{2028}\r\n\"}\u{1b}[2J?secret=1"));
    event.verdict = Some(Verdict::Deny);
    event.reason = Some(DenyReason::AuthorityMismatch);
    sink.record(&event).unwrap();
    let lines = lines(&path);
    assert_eq!(lines.len(), 1);
    let bytes = fs_err::read(&path).unwrap();
    assert!(bytes.iter().all(|byte| matches!(byte, b'\n' | b' '..=b'~')));
    assert_eq!(lines[0]["reason"], "authority-mismatch");
    assert_eq!(lines[0]["verdict"], "deny");
    assert!(!fs_err::read_to_string(&path).unwrap().contains("secret"));
}

#[test]
fn the_log_is_private_and_appended_to() {
    let (_dir, path, first) = sink();
    first.record(&AuditEvent::new(S1, Kind::Connect)).unwrap();
    let second = AuditSink::open(&path).unwrap();
    second.record(&AuditEvent::new(S2, Kind::Connect)).unwrap();
    assert_eq!(lines(&path).len(), 2);
    let mode = fs_err::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_lost_line_breaks_the_sink_for_good() {
    let sink = AuditSink::open(Path::new("/dev/full")).unwrap();
    assert!(!sink.is_broken());
    let lost = sink.record(&AuditEvent::new(S1, Kind::Connect));
    assert!(matches!(lost, Err(AuditError::Write { .. })));
    assert!(sink.is_broken());
    let after = sink.record(&AuditEvent::new(S1, Kind::Connect));
    assert!(matches!(after, Err(AuditError::Broken)));
}

#[test]
fn a_session_that_wrote_its_part_is_cut_off_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let limits = Limits {
        file: 1000,
        session: 1000,
    };
    let sink = AuditSink::with_limits(&path, limits).unwrap();
    let event = AuditEvent::new(S1, Kind::Connect);
    let lost = (0..100).find_map(|_| sink.record(&event).err());
    assert!(matches!(lost, Some(AuditError::Full)) && sink.is_broken());
    let next = AuditSink::with_limits(&path, limits).unwrap();
    next.record(&AuditEvent::new(S2, Kind::Connect)).unwrap();
}

#[test]
fn names_are_recorded_once_in_a_while_each_with_its_verdict() {
    let (_dir, path, sink) = sink();
    let denied = DeniedName {
        name: "a.test".into(),
        address: None,
        reason: DenyReason::NotListed,
    };
    for _ in 0..10 {
        sink.record_question(S1, "b.test\n\u{9b}2J");
        sink.record_denied_name(S1, denied.clone(), 0);
    }
    let private = DeniedName {
        address: Some("10.0.0.1".parse().unwrap()),
        ..denied
    };
    sink.record_denied_name(S1, private, 5);
    let lines = lines(&path);
    let of = |line: usize, field: &str| lines[line][field].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (of(0, "kind"), of(0, "verdict")),
        ("dns".into(), "allow".into())
    );
    assert_eq!(
        (of(1, "host"), of(1, "reason")),
        ("a.test".into(), "not-listed".into())
    );
    assert_eq!(of(2, "address"), "10.0.0.1");
    assert_eq!((lines.len(), &lines[2]["suppressed"]), (3, &14.into()));
    assert!(fs_err::read(&path).unwrap().is_ascii());
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
        sink.record_packet(S1, packet, 0);
    }
    packet.port = Some(443);
    sink.record_packet(S1, packet, 0);
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
