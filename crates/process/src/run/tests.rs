//! Limits and isolation of captured commands, against a real `/bin/sh`.

use super::*;

fn sh(script: &str) -> CommandSpec {
    CommandSpec::new("/bin/sh")
        .args(["-c", script])
        .env("PATH", "/usr/bin:/bin")
}

#[test]
fn captures_output_and_status() {
    let captured = run_captured(&sh("echo out; echo err >&2; exit 3")).unwrap();
    assert_eq!(captured.status.code(), Some(3));
    assert_eq!(captured.stdout, b"out\n");
    assert_eq!(captured.stderr, b"err\n");
}

#[test]
fn environment_holds_only_what_was_named() {
    let captured = run_captured(&CommandSpec::new("/usr/bin/env").env("ONLY", "this")).unwrap();
    assert_eq!(captured.stdout, b"ONLY=this\n");
}

#[test]
fn feeds_input_larger_than_a_pipe() {
    let mut spec = sh("wc -c");
    spec.stdin = vec![b'x'; 300_000];
    let captured = run_captured(&spec).unwrap();
    assert_eq!(String::from_utf8(captured.stdout).unwrap().trim(), "300000");
}

#[test]
fn command_that_ignores_its_input_still_succeeds() {
    let mut spec = sh("exit 0");
    spec.stdin = vec![b'x'; 300_000];
    assert!(run_captured(&spec).unwrap().status.success());
}

#[test]
fn kills_the_whole_group_after_its_time() {
    let marker = tempfile::tempdir().unwrap();
    let file = marker.path().join("late");
    let mut spec = sh(&format!("(sleep 1; touch {}) & sleep 60", file.display()));
    spec.timeout = Duration::from_millis(100);
    let begun = Instant::now();
    assert!(matches!(
        run_captured(&spec),
        Err(RunError::TimedOut { .. })
    ));
    assert!(begun.elapsed() < Duration::from_secs(20));
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!file.exists(), "a grandchild survived");
}

#[test]
fn refuses_more_output_than_allowed() {
    let mut spec = sh("yes");
    spec.max_output = 1000;
    assert!(matches!(
        run_captured(&spec),
        Err(RunError::TooMuchOutput { limit: 1000, .. })
    ));
}

#[test]
fn accepts_exactly_the_allowed_output() {
    let mut spec = sh("printf 12345678");
    spec.max_output = 8;
    assert_eq!(run_captured(&spec).unwrap().stdout, b"12345678");
}

#[test]
fn cuts_standard_error_instead_of_failing() {
    let captured = run_captured(&sh("yes | head -c 100000 >&2; echo ok")).unwrap();
    assert_eq!(captured.stderr.len(), MAX_STDERR);
    assert_eq!(captured.stdout, b"ok\n");
}

#[test]
fn background_process_holding_the_pipe_does_not_block_the_result() {
    let captured = run_captured(&sh("sleep 60 & echo done")).unwrap();
    assert_eq!(captured.stdout, b"done\n");
}

#[test]
fn runs_outside_the_callers_directory() {
    assert_eq!(run_captured(&sh("pwd")).unwrap().stdout, b"/\n");
}

#[test]
fn refuses_a_relative_program_and_reports_a_missing_one() {
    assert!(matches!(
        run_captured(&CommandSpec::new("sh")),
        Err(RunError::NotAbsolute { .. })
    ));
    assert!(matches!(
        run_captured(&CommandSpec::new("/no/such")),
        Err(RunError::Start { .. })
    ));
}

#[test]
fn debug_output_shows_no_content() {
    let mut spec = sh("echo $TOKEN").env("TOKEN", "s3cret");
    spec.stdin = b"s3cret".to_vec();
    let captured = run_captured(&spec).unwrap();
    assert_eq!(captured.stdout, b"s3cret\n");
    assert!(!format!("{spec:?} {captured:?}").contains("s3cret"));
}
