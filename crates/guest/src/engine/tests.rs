//! The engine over a socket pair, with real programs of the machine the tests run on.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use agent_vm_protocol::*;

use super::*;

struct Native;

impl Machine for Native {
    fn set_clock(&mut self, _unix_ns: u64) -> io::Result<()> {
        Ok(())
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn reap(&mut self) -> Vec<(Pid, WaitStatus)> {
        Vec::new()
    }

    fn note(&mut self, _text: &str) {}
}

/// The host's end: blocking, with the messages kept in order.
struct Host {
    stream: UnixStream,
    decoder: Decoder<GuestMessage>,
    inbox: std::collections::VecDeque<GuestMessage>,
    engine: Option<JoinHandle<End>>,
}

const ID: ExecId = ExecId(7);

impl Host {
    fn start() -> Self {
        let (host, guest) = UnixStream::pair().unwrap();
        host.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let control = Control::new(OwnedFd::from(guest)).unwrap();
        let engine = std::thread::spawn(move || Engine::new(control, Native, 1024).run().0);
        Self {
            stream: host,
            decoder: Decoder::new(),
            inbox: Default::default(),
            engine: Some(engine),
        }
    }

    fn send(&mut self, message: &HostMessage) {
        let mut wire = Vec::new();
        encode(message, &mut wire).unwrap();
        io::Write::write_all(&mut self.stream, &wire).unwrap();
    }

    fn next(&mut self) -> GuestMessage {
        let mut buffer = vec![0; 65536];
        while self.inbox.is_empty() {
            let count = io::Read::read(&mut self.stream, &mut buffer).unwrap();
            assert_ne!(count, 0, "the engine went away");
            let mut input = &buffer[..count];
            while let Some(message) = self.decoder.next(&mut input).unwrap() {
                self.inbox.push_back(message);
            }
        }
        self.inbox.pop_front().unwrap()
    }

    fn sh(&mut self, script: &str) {
        self.exec(&["/bin/sh", "-c", script], None);
    }

    fn exec(&mut self, argv: &[&str], tty: Option<Tty>) {
        let exec = exec(argv, tty);
        self.send(&HostMessage::Exec(Box::new(exec)));
    }

    fn started(&mut self) -> u32 {
        match self.next() {
            GuestMessage::Started { pid, .. } => pid,
            other => panic!("{other:?}"),
        }
    }

    fn failure(&mut self) -> ExecFailure {
        match self.next() {
            GuestMessage::ExecFailed { failure, .. } => failure,
            other => panic!("{other:?}"),
        }
    }

    /// Everything until the end of the program, with credit given for all output.
    fn finish(&mut self) -> (String, String, ExitStatus) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match self.next() {
                GuestMessage::Output { id, stream, data } => {
                    let bytes = u32::try_from(data.len()).unwrap();
                    self.send(&HostMessage::OutputCredit { id, stream, bytes });
                    if stream == OutputStream::Stdout {
                        &mut out
                    } else {
                        &mut err
                    }
                    .extend(data);
                }
                GuestMessage::Exited { status, .. } => {
                    let text = |bytes| String::from_utf8(bytes).unwrap();
                    return (text(out), text(err), status);
                }
                _ => {}
            }
        }
    }

    fn end(mut self) -> End {
        let engine = self.engine.take().unwrap();
        drop(self);
        engine.join().unwrap()
    }
}

fn exec(argv: &[&str], tty: Option<Tty>) -> Exec {
    let user = User::Ids {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        groups: Vec::new(),
    };
    let env = vec![
        (b"PATH".to_vec(), b"/usr/bin:/bin".to_vec()),
        (b"EXACT".to_vec(), b" a=b \xff".to_vec()),
    ];
    let argv = argv
        .iter()
        .map(|argument| argument.as_bytes().to_vec())
        .collect();
    Exec {
        id: ID,
        argv,
        env,
        cwd: GuestPath::root(),
        user,
        tty,
    }
}

fn tty() -> Option<Tty> {
    Some(Tty {
        size: WindowSize {
            rows: 33,
            cols: 111,
        },
        term: b"xterm-test".to_vec(),
    })
}

#[test]
fn stdout_stderr_and_the_exit_code_stay_separate() {
    let mut host = Host::start();
    host.sh("echo out; echo err >&2; exit 42");
    host.started();
    assert_eq!(
        host.finish(),
        ("out\n".into(), "err\n".into(), ExitStatus::Code(42))
    );
}

#[test]
fn stdin_and_its_end_are_passed_on() {
    let mut host = Host::start();
    host.exec(&["cat"], None);
    host.started();
    host.send(&HostMessage::Stdin {
        id: ID,
        data: b"hello".to_vec(),
    });
    host.send(&HostMessage::StdinEof { id: ID });
    assert_eq!(
        host.finish(),
        ("hello".into(), String::new(), ExitStatus::Code(0))
    );
}

#[test]
fn the_environment_is_exact() {
    let mut host = Host::start();
    host.exec(&["sh", "-c", r#"tr '\0' '\n' < /proc/self/environ | grep -a -c = ; printf %s "$EXACT" | od -An -tx1"#], None);
    host.started();
    let (out, _, _) = host.finish();
    assert!(out.contains("20 61 3d 62 20 ff"), "{out}");
}

#[test]
fn a_signal_death_is_told_as_such() {
    let mut host = Host::start();
    host.sh("kill -TERM $$");
    host.started();
    assert_eq!(host.finish().2, ExitStatus::Signal(15));
}

#[test]
fn a_signal_reaches_the_whole_group() {
    let mut host = Host::start();
    host.sh("trap 'echo got; exit 3' INT; echo ready; while :; do sleep 0.05; done");
    host.started();
    assert!(matches!(host.next(), GuestMessage::Output { .. }));
    host.send(&HostMessage::Signal { id: ID, signal: 2 });
    let (out, _, status) = host.finish();
    assert_eq!((out.as_str(), status), ("got\n", ExitStatus::Code(3)));
}

#[test]
fn what_cannot_be_started_is_classified() {
    use ExecFailureKind::{Directory, Invalid, NotExecutable, NotFound, User as NoUser};
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, mode: u32, content: &[u8]| {
        let path = directory.path().join(name);
        fs_err::write(&path, content).unwrap();
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, permissions).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut host = Host::start();
    for (program, kind) in [
        ("no-such-program-at-all", NotFound),
        ("/no/such/file", NotFound),
        ("/etc", NotExecutable),
        (&file("plain", 0o644, b"#!/bin/sh\n"), NotExecutable),
        (
            &file("garbage", 0o755, b"\x00\x01\x02garbage"),
            NotExecutable,
        ),
        ("", Invalid),
        ("with\0nul", Invalid),
    ] {
        host.exec(&[program], None);
        assert_eq!(host.failure().kind, kind, "{program:?}");
    }
    let mut wrong = exec(&["/bin/true"], None);
    wrong.cwd = GuestPath::new("/no such/каталог").unwrap();
    host.send(&HostMessage::Exec(Box::new(wrong)));
    let failure = host.failure();
    assert_eq!(failure.kind, Directory);
    assert!(
        failure.message.contains("/no such/каталог"),
        "{}",
        failure.message
    );
    let mut wrong = exec(&["/bin/true"], None);
    wrong.user = User::Spec("no-such-user".into());
    host.send(&HostMessage::Exec(Box::new(wrong)));
    assert_eq!(host.failure().kind, NoUser);
}

#[test]
fn a_terminal_has_size_name_and_job_control() {
    let mut host = Host::start();
    host.exec(&["sh", "-c", "stty size; echo $TERM; test -t 0 && test -t 2 && echo all; ps -o tpgid= -p $$ >/dev/null; exit 5"], tty());
    host.started();
    let (out, _, status) = host.finish();
    assert_eq!(
        (out.as_str(), status),
        ("33 111\r\nxterm-test\r\nall\r\n", ExitStatus::Code(5))
    );
}

#[test]
fn a_resize_reaches_the_program_as_sigwinch() {
    let mut host = Host::start();
    host.exec(
        &[
            "sh",
            "-c",
            "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done",
        ],
        tty(),
    );
    host.started();
    assert!(matches!(host.next(), GuestMessage::Output { .. }));
    host.send(&HostMessage::Resize {
        id: ID,
        size: WindowSize { rows: 10, cols: 20 },
    });
    assert_eq!(host.finish().0, "10 20\r\n");
}

#[test]
fn control_c_interrupts_through_the_terminal() {
    let mut host = Host::start();
    host.exec(&["sh", "-c", "echo ready; exec sleep 30"], tty());
    host.started();
    assert!(matches!(host.next(), GuestMessage::Output { .. }));
    host.send(&HostMessage::Stdin {
        id: ID,
        data: vec![3],
    });
    assert_eq!(host.finish().2, ExitStatus::Signal(2));
}

#[test]
fn a_lost_terminal_hangs_the_program_up() {
    let mut host = Host::start();
    host.exec(&["sleep", "30"], tty());
    host.started();
    host.send(&HostMessage::StdinEof { id: ID });
    assert_eq!(host.finish().2, ExitStatus::Signal(1));
}

#[test]
fn output_stops_at_its_window_and_goes_on_with_credit() {
    const MORE: usize = 1000;
    const REST: usize = 500_000;
    let window = INITIAL_WINDOW as usize;
    let mut host = Host::start();
    // When `full` comes, more than the window was written.
    host.sh(&format!(
        "head -c {} /dev/zero; echo full >&2; head -c {REST} /dev/zero; echo done >&2",
        window + MORE
    ));
    host.started();
    let (mut out, mut err) = (0, Vec::new());
    while out < window || err != b"full\n" {
        match host.next() {
            GuestMessage::Output {
                stream: OutputStream::Stdout,
                data,
                ..
            } => out += data.len(),
            GuestMessage::Output { data, .. } => err.extend(data),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(out, window);
    // Whatever the engine would read is read before it answers for the second time.
    for _ in 0..2 {
        host.sh("this id is in use");
        host.failure();
    }
    host.send(&HostMessage::OutputCredit {
        id: ID,
        stream: OutputStream::Stdout,
        bytes: 100_000,
    });
    let (rest, err, _) = host.finish();
    assert_eq!((rest.len(), err.as_str()), (MORE + REST, "done\n"));
}

#[test]
fn all_output_written_before_the_end_is_delivered_to_a_slow_host() {
    let mut host = Host::start();
    host.sh("head -c 300000 /dev/zero & sleep 0.05; exit 0");
    host.started();
    std::thread::sleep(LINGER * 3);
    assert!(host.finish().0.len() >= INITIAL_WINDOW as usize);
}

#[test]
fn a_background_holder_delays_the_end_only_shortly() {
    let mut host = Host::start();
    host.sh("sleep 30 & echo done");
    host.started();
    let begin = Instant::now();
    assert_eq!(
        host.finish(),
        ("done\n".into(), String::new(), ExitStatus::Code(0))
    );
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_background_writer_does_not_keep_the_program_alive() {
    let mut host = Host::start();
    host.sh("(while :; do echo x; done) & exit 4");
    host.started();
    let begin = Instant::now();
    assert_eq!(host.finish().2, ExitStatus::Code(4));
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn credit_comes_back_for_consumed_input() {
    let mut host = Host::start();
    host.exec(&["sh", "-c", "cat >/dev/null"], None);
    host.started();
    let mut left = i64::from(INITIAL_WINDOW);
    let mut sent = 0;
    while sent < 1_000_000 {
        while left < MAX_CHUNK as i64 {
            match host.next() {
                GuestMessage::StdinCredit { bytes, .. } => left += i64::from(bytes),
                other => panic!("{other:?}"),
            }
        }
        host.send(&HostMessage::Stdin {
            id: ID,
            data: vec![1; MAX_CHUNK],
        });
        left -= MAX_CHUNK as i64;
        sent += MAX_CHUNK;
    }
    host.send(&HostMessage::StdinEof { id: ID });
    assert_eq!(host.finish().2, ExitStatus::Code(0));
}

#[test]
fn a_program_that_closes_its_input_is_reported() {
    let mut host = Host::start();
    host.sh("exec <&-; sleep 0.5");
    host.started();
    assert_eq!(host.next(), GuestMessage::StdinClosed { id: ID });
    host.send(&HostMessage::Stdin {
        id: ID,
        data: vec![0; 10],
    });
    assert_eq!(host.finish().2, ExitStatus::Code(0));
}

#[test]
fn a_closed_output_gives_the_writer_sigpipe() {
    let mut host = Host::start();
    host.exec(&["yes"], None);
    host.started();
    host.send(&HostMessage::OutputClosed {
        id: ID,
        stream: OutputStream::Stdout,
    });
    assert_eq!(host.finish().2, ExitStatus::Signal(13));
}

#[test]
fn input_over_the_window_is_a_violation() {
    let mut host = Host::start();
    host.exec(&["sleep", "30"], None);
    host.started();
    for _ in 0..=(INITIAL_WINDOW as usize / MAX_CHUNK + 1) {
        host.send(&HostMessage::Stdin {
            id: ID,
            data: vec![0; MAX_CHUNK],
        });
    }
    assert!(matches!(
        host.end(),
        End::Violation(Violation::InputOverWindow { id: ID })
    ));
}

#[test]
fn malformed_bytes_end_the_engine() {
    let mut host = Host::start();
    io::Write::write_all(&mut host.stream, &[3, 0, 0, 0, 0xff, 0xff, 0xff]).unwrap();
    assert!(matches!(host.end(), End::Broken(ControlError::Decode(_))));
}

#[test]
fn shutdown_and_a_vanished_host_are_told_apart() {
    let mut host = Host::start();
    host.send(&HostMessage::Shutdown { grace_ms: 250 });
    assert!(matches!(host.end(), End::Shutdown { grace } if grace == Duration::from_millis(250)));
    assert!(matches!(
        Host::start().end(),
        End::Broken(ControlError::Closed)
    ));
}

#[test]
fn an_id_in_use_is_refused_and_programs_run_side_by_side() {
    let mut host = Host::start();
    host.exec(&["cat"], None);
    host.started();
    host.exec(&["cat"], None);
    assert_eq!(host.failure().kind, ExecFailureKind::Invalid);
    let mut second = exec(&["sh", "-c", "exit 9"], None);
    second.id = ExecId(8);
    host.send(&HostMessage::Exec(Box::new(second)));
    host.started();
    assert_eq!(host.finish().2, ExitStatus::Code(9));
    host.send(&HostMessage::StdinEof { id: ID });
    assert_eq!(host.finish().2, ExitStatus::Code(0));
}
