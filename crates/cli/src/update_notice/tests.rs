use std::net::TcpListener;
use std::time::Instant;

use super::*;

/// A registry that takes connections and never says a word.
fn silent() -> (TcpListener, Reference) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let reference = format!("{}/app:1", listener.local_addr().unwrap());
    (listener, reference.parse().unwrap())
}

fn question(reference: &Reference, delay: Duration) -> (UpdateQuestion, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let question = UpdateQuestion {
        store: Store::open(directory.path()).unwrap(),
        reference: reference.clone(),
        options: PullOptions::default(),
        delay,
    };
    (question, directory)
}

#[test]
fn the_end_of_a_launch_does_not_wait_for_a_registry_that_does_not_answer() {
    let (listener, reference) = silent();
    let (question, _directory) = question(&reference, Duration::ZERO);
    let asking = question.ask();
    // It has connected, so it waits for the answer now.
    let deadline = Instant::now() + Duration::from_secs(20);
    let connection = loop {
        match listener.accept() {
            Ok(connection) => break connection,
            Err(_) => assert!(Instant::now() < deadline, "it never asked"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let begun = Instant::now();
    drop(asking);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    drop(connection);
}

#[test]
fn nothing_is_asked_before_the_program_had_its_time() {
    let (listener, reference) = silent();
    let (question, _directory) = question(&reference, Duration::from_secs(3600));
    let asking = question.ask();
    std::thread::sleep(Duration::from_millis(300));
    drop(asking);
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
}

#[test]
fn a_question_that_is_not_asked_asks_nobody() {
    let (listener, reference) = silent();
    drop(question(&reference, Duration::ZERO));
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
}
