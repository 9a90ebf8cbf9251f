//! Descriptors, environment and ownership of children, against a real `/bin/sh`.

use std::io::{Read, Write};

use rustix::pipe::PipeFlags;

use super::*;

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap()
}

fn output_of(command: ChildCommand) -> String {
    let (read_end, write_end) = pipe();
    let mut child = command.stdout(ChildStdio::Fd(write_end)).spawn().unwrap();
    let mut text = String::new();
    std::fs::File::from(read_end)
        .read_to_string(&mut text)
        .unwrap();
    child.wait().unwrap();
    text
}

#[test]
fn starts_with_an_empty_environment() {
    assert_eq!(output_of(ChildCommand::new("/usr/bin/env")), "");
}

#[test]
fn passes_only_named_variables() {
    let command = ChildCommand::new("/usr/bin/env")
        .env("ONE", "1")
        .env("TWO", "2");
    let mut lines: Vec<String> = output_of(command).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["ONE=1", "TWO=2"]);
}

fn listed_descriptors(command: ChildCommand) -> Vec<RawFd> {
    let listed = output_of(command.arg("/proc/self/fd"));
    listed.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn passes_only_named_descriptors() {
    // What the test runner itself left inheritable is in both listings.
    let inherited = listed_descriptors(ChildCommand::new("/bin/ls"));
    let (kept_read, _kept_write) = pipe();
    let (_hidden_read, _hidden_write) = pipe();
    let mut command = ChildCommand::new("/bin/ls");
    let number = command.pass_fd(kept_read).unwrap();
    let fds = listed_descriptors(command);
    assert_eq!(fds.len(), inherited.len() + 1, "{inherited:?} {fds:?}");
    assert!(fds.contains(&number), "{fds:?}");
}

#[test]
fn passed_descriptor_keeps_its_number_and_content() {
    let (read_end, write_end) = pipe();
    std::fs::File::from(write_end).write_all(b"hello").unwrap();
    let mut command = ChildCommand::new("/bin/sh").arg("-c");
    let number = command.pass_fd(read_end).unwrap();
    assert_eq!(output_of(command.arg(format!("cat <&{number}"))), "hello");
}

#[test]
fn descriptors_are_close_on_exec_again_after_start() {
    let (read_end, _write_end) = pipe();
    let copy = read_end.try_clone().unwrap();
    let mut command = ChildCommand::new("/bin/true");
    command.pass_fd(read_end).unwrap();
    command.spawn().unwrap().wait().unwrap();
    assert_eq!(rustix::io::fcntl_getfd(&copy).unwrap(), FdFlags::CLOEXEC);
}

#[test]
fn refuses_a_relative_program() {
    let error = ChildCommand::new("sh").spawn().unwrap_err();
    assert!(matches!(error, SpawnError::NotAbsolute { .. }));
}

#[test]
fn reports_a_missing_program() {
    let error = ChildCommand::new("/no/such/program").spawn().unwrap_err();
    assert!(
        matches!(&error, SpawnError::Execute { source, .. } if source.kind() == io::ErrorKind::NotFound)
    );
}

#[test]
fn wait_timeout_returns_none_while_running_and_kill_ends_it() {
    use std::os::unix::process::ExitStatusExt;
    let mut child = ChildCommand::new("/bin/sleep").arg("60").spawn().unwrap();
    assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(
        child
            .wait_timeout(Duration::ZERO)
            .unwrap()
            .unwrap()
            .signal(),
        Some(9)
    );
}

#[test]
fn drop_kills_and_reaps() {
    let child = ChildCommand::new("/bin/sleep").arg("60").spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.pid()).unwrap()).unwrap();
    assert!(rustix::process::test_kill_process(pid).is_ok());
    drop(child);
    assert_eq!(
        rustix::process::test_kill_process(pid),
        Err(rustix::io::Errno::SRCH)
    );
}

#[test]
fn pidfd_becomes_readable_at_the_end() {
    let child = ChildCommand::new("/bin/true").spawn().unwrap();
    let pidfd = child.pidfd();
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let ready = rustix::event::poll(&mut fds, Some(&timespec(Duration::from_secs(10)))).unwrap();
    assert_eq!(ready, 1);
}
