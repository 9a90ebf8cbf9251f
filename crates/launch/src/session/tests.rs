//! The session against the guest's real engine, natively, over a socket pair.

use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread::JoinHandle as Thread;

use agent_vm_guest::control::{Control, ControlError};
use agent_vm_guest::engine::{End, Engine, Machine};
use agent_vm_protocol::*;
use rustix::process::{Pid, Signal, WaitStatus};
use tokio::task::LocalSet;

use super::attach::{UserStreams, join};
use super::signals::UserSignals;
use super::*;

struct Native;

impl Machine for Native {
    fn set_clock(&mut self, _unix_ns: u64) -> std::io::Result<()> {
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

const SHORT: Limits = Limits {
    hello: Duration::from_millis(500),
    ready: Duration::from_millis(500),
    start: Duration::from_secs(10),
    stop: Duration::from_secs(5),
};

fn boot() -> Boot {
    Boot {
        root: Root {
            lower: Lower::Empty,
            upper: Upper::Tmpfs,
        },
        shares: Vec::new(),
        network: None,
        hostname: "box".into(),
        ca_pem: Vec::new(),
        files: Vec::new(),
        unix_ns: 1,
        sysctls: Vec::new(),
        max_open_files: 1024,
        canary: None,
        forwarding: agent_vm_protocol::Forwarding::Off,
        sockets: Vec::new(),
    }
}

/// A guest without a machine: the handshake, then the engine.
fn guest(version: u32) -> (UnixStream, Thread<Result<End, ControlError>>) {
    let (host, guest) = std::os::unix::net::UnixStream::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    let run = move || {
        let mut control = Control::new(OwnedFd::from(guest))?;
        control.send(&GuestMessage::Hello {
            magic: MAGIC,
            version,
        })?;
        control.flush_all(Duration::from_secs(5))?;
        let HostMessage::Boot(_) = control.receive(Duration::from_secs(5))? else {
            panic!("no boot message");
        };
        control.send(&GuestMessage::Ready {
            timings: Timings::default(),
            warnings: vec!["odd".into()],
        })?;
        let (end, mut control, _) = Engine::new(control, Native, 1024).run();
        if matches!(end, End::Shutdown { .. }) {
            control.send(&GuestMessage::Stopped)?;
            control.finish(Duration::from_secs(5));
        }
        Ok(end)
    };
    (UnixStream::from_std(host).unwrap(), std::thread::spawn(run))
}

async fn session() -> Session {
    Session::start(guest(PROTOCOL_VERSION).0, boot(), SHORT)
        .await
        .unwrap()
}

fn sh(script: &str) -> Command {
    Command {
        argv: ["/bin/sh", "-c", script]
            .map(|part| part.as_bytes().to_vec())
            .to_vec(),
        env: vec![(b"PATH".to_vec(), b"/usr/bin:/bin".to_vec())],
        cwd: GuestPath::root(),
        user: User::Ids {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            groups: Vec::new(),
        },
    }
}

/// Runs `script` attached to pipes: gives stdout, stderr and the outcome.
async fn run(session: &Session, script: &str, input: &[u8]) -> (Vec<u8>, Vec<u8>, Outcome) {
    let (stdin, mut feed) = std::io::pipe().unwrap();
    let (out, stdout) = std::io::pipe().unwrap();
    let (err, stderr) = std::io::pipe().unwrap();
    let streams = UserStreams::of(&stdin, &stdout, &stderr).unwrap();
    drop((stdin, stdout, stderr));
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // The program may not want it all.
        let _ = feed.write_all(&input);
    });
    let read = |mut from: std::io::PipeReader| {
        std::thread::spawn(move || {
            let mut all = Vec::new();
            from.read_to_end(&mut all).unwrap();
            all
        })
    };
    let (out, err) = (read(out), read(err));
    let program = session.exec(sh(script), None).await.unwrap();
    let mut signals = UserSignals::listen().unwrap();
    let outcome = join(&program, &streams, None, &mut signals).await.unwrap();
    drop(streams);
    feeder.join().unwrap();
    (out.join().unwrap(), err.join().unwrap(), outcome)
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

#[tokio::test]
async fn a_program_runs_on_the_users_streams_and_gives_its_code() {
    local(async {
        let session = session().await;
        assert_eq!(session.warnings(), ["odd"]);
        let (out, err, outcome) = run(&session, "cat; echo err >&2; exit 7", b"x\n").await;
        assert_eq!(
            (out.as_slice(), err.as_slice()),
            (&b"x\n"[..], &b"err\n"[..])
        );
        assert_eq!(outcome.exit_code(), 7);
        let (_, _, outcome) = run(&session, "kill -KILL $$", b"").await;
        assert_eq!(outcome.exit_code(), 137);
    })
    .await;
}

#[tokio::test]
async fn megabytes_go_both_ways_unchanged() {
    local(async {
        let session = session().await;
        let data: Vec<u8> = (0..3_000_000u32)
            .flat_map(u32::to_le_bytes)
            .take(5_000_001)
            .collect();
        let (out, _, outcome) = run(&session, "cat", &data).await;
        assert!(out == data, "{} of {} bytes", out.len(), data.len());
        assert_eq!(outcome, Outcome::Exited(ExitStatus::Code(0)));
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_writer() {
    local(async {
        let session = session().await;
        let (stdin, _feed) = std::io::pipe().unwrap();
        let (mut out, stdout) = std::io::pipe().unwrap();
        let streams = UserStreams::of(&stdin, &stdout, &stdout).unwrap();
        drop(stdout);
        let reader = std::thread::spawn(move || out.read_exact(&mut [0; 100_000]).unwrap());
        let program = session.exec(sh("exec yes"), None).await.unwrap();
        let mut signals = UserSignals::listen().unwrap();
        let outcome = join(&program, &streams, None, &mut signals).await.unwrap();
        reader.join().unwrap();
        assert_eq!(outcome.exit_code(), 128 + 13);
    })
    .await;
}

#[tokio::test]
async fn a_signal_to_the_launcher_reaches_the_program() {
    local(async {
        let session = session().await;
        let (stdin, _feed) = std::io::pipe().unwrap();
        let (mut out, stdout) = std::io::pipe().unwrap();
        let streams = UserStreams::of(&stdin, &stdout, &stdout).unwrap();
        let script = "trap 'exit 9' QUIT; echo ready; while :; do sleep 0.05; done";
        let program = session.exec(sh(script), None).await.unwrap();
        let mut signals = UserSignals::listen().unwrap();
        let killer = std::thread::spawn(move || {
            out.read_exact(&mut [0; 6]).unwrap();
            rustix::process::kill_process(rustix::process::getpid(), Signal::QUIT).unwrap();
        });
        let outcome = join(&program, &streams, None, &mut signals).await.unwrap();
        killer.join().unwrap();
        assert_eq!(outcome.exit_code(), 9);
    })
    .await;
}

#[tokio::test]
async fn a_terminal_session_passes_keys_and_size() {
    local(async {
        let session = session().await;
        let tty = Tty {
            size: WindowSize { rows: 10, cols: 20 },
            term: b"xterm".to_vec(),
        };
        let program = session
            .exec(
                sh("stty size; read line; stty size; echo got $line"),
                Some(tty),
            )
            .await
            .unwrap();
        let first = program.read(OutputStream::Stdout).await.unwrap().unwrap();
        assert_eq!(first, b"10 20\r\n");
        program.resize(WindowSize { rows: 30, cols: 40 }).unwrap();
        assert!(program.write(b"key\r").await.unwrap());
        let mut rest = Vec::new();
        while let Some(chunk) = program.read(OutputStream::Stdout).await.unwrap() {
            rest.extend(chunk);
        }
        assert_eq!(
            String::from_utf8(rest).unwrap(),
            "key\r\n30 40\r\ngot key\r\n"
        );
        assert_eq!(program.status().await.unwrap(), ExitStatus::Code(0));
    })
    .await;
}

#[tokio::test]
async fn what_cannot_start_has_the_shells_codes() {
    local(async {
        let session = session().await;
        for (program, code) in [
            ("no-such-program", Some(127)),
            ("/etc/passwd", Some(126)),
            ("", None),
        ] {
            let mut command = sh("");
            command.argv = vec![program.into()];
            match session.exec(command, None).await {
                Err(ExecError::Refused(failure)) => {
                    assert_eq!(failure_exit_code(&failure), code, "{program}")
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_dropped_program_is_killed() {
    local(async {
        let session = session().await;
        let program = session.exec(sh("exec sleep 100"), None).await.unwrap();
        let pid = Pid::from_raw(i32::try_from(program.pid()).unwrap()).unwrap();
        drop(program);
        let gone = async {
            while rustix::process::test_kill_process(pid).is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn shutdown_waits_for_the_guest_and_its_end_is_orderly() {
    local(async {
        let (stream, thread) = guest(PROTOCOL_VERSION);
        let session = Session::start(stream, boot(), SHORT).await.unwrap();
        session.shutdown(Duration::from_millis(10)).await.unwrap();
        let end = tokio::task::spawn_blocking(|| thread.join().unwrap().unwrap())
            .await
            .unwrap();
        assert!(matches!(end, End::Shutdown { .. }));
    })
    .await;
}

#[tokio::test]
async fn a_silent_guest_and_another_version_are_refused() {
    local(async {
        let (silent, _kept) = UnixStream::pair().unwrap();
        let error = Session::start(silent, boot(), SHORT).await.unwrap_err();
        assert!(
            matches!(
                error,
                SessionError::Timeout {
                    waited_for: "the guest's hello",
                    ..
                }
            ),
            "{error}"
        );
        let error = Session::start(guest(77).0, boot(), SHORT)
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                SessionError::Version {
                    guest: 77,
                    ours: PROTOCOL_VERSION
                }
            ),
            "{error}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_guest_that_goes_away_ends_every_wait() {
    local(async {
        let (host, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        let mut wire = Vec::new();
        encode(
            &GuestMessage::Hello {
                magic: MAGIC,
                version: PROTOCOL_VERSION,
            },
            &mut wire,
        )
        .unwrap();
        encode(
            &GuestMessage::Ready {
                timings: Timings::default(),
                warnings: Vec::new(),
            },
            &mut wire,
        )
        .unwrap();
        other.write_all(&wire).unwrap();
        let session = Session::start(UnixStream::from_std(host).unwrap(), boot(), SHORT)
            .await
            .unwrap();
        drop(other);
        assert!(matches!(
            session.failed().await,
            SessionError::Closed | SessionError::Io(_)
        ));
        assert!(session.exec(sh("true"), None).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_guest_that_talks_nonsense_ends_the_session() {
    local(async {
        let (host, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        other.write_all(&[0xff; 64]).unwrap();
        let error = Session::start(UnixStream::from_std(host).unwrap(), boot(), SHORT)
            .await
            .unwrap_err();
        assert!(
            matches!(error, SessionError::Decode(DecodeError::TooLong { .. })),
            "{error}"
        );
    })
    .await;
}
