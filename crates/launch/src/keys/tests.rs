//! Real clients in a "guest", the guest's real forwarder, the filters, and real agents on the "host".

#![allow(
    clippy::disallowed_methods,
    reason = "tests start real clients and agents"
)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use agent_vm_guest::forward::Forwarder;
use agent_vm_protocol::{Forwarding, GuestPath, MAX_GUEST_STREAMS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::LocalSet;

use super::*;
use crate::publish::{PublishSettings, Publishing, ToPublish, bind};

/// The agent of one test, ended with it.
struct Agent {
    directory: tempfile::TempDir,
    child: std::process::Child,
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn run(program: &str, arguments: &[&str], env: (&str, &Path), input: &[u8]) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(program)
        .args(arguments)
        .env(env.0, env.1)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdin.take().unwrap().write_all(input));
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

impl Agent {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An ssh-agent with the keys `chosen` and `other`.
    fn ssh() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent");
        let child = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { directory, child };
        wait_for(&socket);
        for (name, kind) in [("chosen", "ed25519"), ("other", "ecdsa")] {
            let key = agent.path(name);
            let key = key.to_str().unwrap();
            let made = run(
                "ssh-keygen",
                &["-q", "-t", kind, "-N", "", "-C", name, "-f", key],
                ("X", "x".as_ref()),
                b"",
            );
            assert!(made.status.success(), "{}", said(&made));
            let added = run("ssh-add", &["-q", key], ("SSH_AUTH_SOCK", &socket), b"");
            assert!(added.status.success(), "{}", said(&added));
        }
        agent
    }

    fn fingerprint(&self, name: &str) -> KeyFilter {
        let key = self.path(&format!("{name}.pub"));
        let told = run(
            "ssh-keygen",
            &["-lf", key.to_str().unwrap()],
            ("X", "x".as_ref()),
            b"",
        );
        said(&told).split(' ').nth(1).unwrap().parse().unwrap()
    }
}

fn wait_for(path: &Path) {
    for _ in 0..500 {
        if path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} does not appear", path.display());
}

/// A guest whose socket leads to an agent.
struct Guest {
    directory: tempfile::TempDir,
    publishing: Publishing,
}

impl Guest {
    fn with(agents: KeyAgents, service: HostService) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/agent.sock");
        let publishing = Self::at(&socket, agents, service);
        Self {
            directory,
            publishing,
        }
    }

    /// Serves a socket at this path.
    fn at(socket: &Path, agents: KeyAgents, service: HostService) -> Publishing {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let sockets = vec![HostSocket {
            service,
            path: GuestPath::new(socket.to_str().unwrap()).unwrap(),
        }];
        let forwarder = Forwarder::new(theirs.into(), Forwarding::Connect, Vec::new()).unwrap();
        let forwarder = forwarder.with_sockets(&sockets).unwrap();
        std::thread::spawn(move || drop(forwarder.run()));
        let settings = PublishSettings::default();
        let (publishing, _news) = Publishing::start(ToPublish {
            ports: bind(&settings.ports).unwrap(),
            settings,
            agents,
            stream: UnixStream::from_std(ours).unwrap(),
        })
        .unwrap();
        publishing
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/agent.sock")
    }

    /// Streams end with their clients.
    async fn is_quiet(&self) {
        for _ in 0..200 {
            if self.publishing.open_flows() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} streams are left", self.publishing.open_flows());
    }

    /// Runs a client on another thread, because this one serves it.
    async fn client(&self, program: &'static str, arguments: &[&str], input: &[u8]) -> Output {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let (socket, input) = (self.directory.path().join("run/agent.sock"), input.to_vec());
        let ran = tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            run(program, &arguments, ("SSH_AUTH_SOCK", &socket), &input)
        });
        ran.await.unwrap()
    }
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("in time")
    };
    LocalSet::new().block_on(&runtime, limited);
}

fn ssh_guest(agent: &Agent, keys: Vec<KeyFilter>) -> Guest {
    let socket = agent.path("agent");
    let ssh = Some(SshAgent { socket, keys });
    Guest::with(KeyAgents { ssh, gpg: None }, HostService::SshAgent)
}

#[test]
fn the_chosen_key_is_listed_and_signs_and_no_other() {
    local(async {
        let agent = Agent::ssh();
        for filter in [agent.fingerprint("chosen"), "chosen".parse().unwrap()] {
            let guest = ssh_guest(&agent, vec![filter]);
            let listed = said(&guest.client("ssh-add", &["-l"], b"").await);
            assert!(
                listed.contains("chosen") && !listed.contains("other"),
                "{listed}"
            );
            for (name, signs) in [("chosen", true), ("other", false)] {
                let key = agent.path(&format!("{name}.pub"));
                let arguments = ["-Y", "sign", "-n", "file", "-f", key.to_str().unwrap()];
                // The private key lies beside the public one; without it only the agent can sign.
                let hidden = agent.path(&format!("{name}.hidden"));
                fs_err::rename(agent.path(name), &hidden).unwrap();
                let signed = guest.client("ssh-keygen", &arguments, b"text").await;
                fs_err::rename(&hidden, agent.path(name)).unwrap();
                assert_eq!(signed.status.success(), signs, "{name}: {}", said(&signed));
                let is_signature = said(&signed).contains("BEGIN SSH SIGNATURE");
                assert_eq!(is_signature, signs, "{name}");
            }
        }
    });
}

#[test]
fn without_a_choice_all_keys_are_there_and_none_can_be_added_removed_or_locked() {
    local(async {
        let agent = Agent::ssh();
        let guest = ssh_guest(&agent, Vec::new());
        let listed = said(&guest.client("ssh-add", &["-l"], b"").await);
        assert!(
            listed.contains("chosen") && listed.contains("other"),
            "{listed}"
        );
        let key = agent.path("other");
        let key = key.to_str().unwrap();
        for arguments in [&["-D"][..], &["-d", key], &[key]] {
            let changed = guest.client("ssh-add", arguments, b"").await;
            assert!(
                !changed.status.success(),
                "{arguments:?}: {}",
                said(&changed)
            );
        }
        let after = said(&guest.client("ssh-add", &["-l"], b"").await);
        assert_eq!(after, listed);
        guest.is_quiet().await;
    });
}

/// What one message is answered, by its number.
async fn asked(socket: &Path, message: &[u8]) -> Option<u8> {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let length = u32::try_from(message.len()).unwrap();
    stream.write_all(&length.to_be_bytes()).await.unwrap();
    drop(stream.write_all(message).await);
    drop(stream.shutdown().await);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    answer.get(4).copied()
}

#[test]
fn every_other_request_is_a_failure_and_a_malformed_one_never_more() {
    local(async {
        let agent = Agent::ssh();
        let guest = ssh_guest(&agent, Vec::new());
        let socket = guest.socket();
        for kind in (0..=255).filter(|kind| *kind != 11) {
            assert_eq!(asked(&socket, &[kind]).await, Some(5), "{kind}");
        }
        assert_eq!(asked(&socket, &[11]).await, Some(12));
        assert_eq!(asked(&socket, &[11, 0]).await, Some(5));
        // A request to sign with a length beyond its end.
        assert_eq!(
            asked(&socket, &[13, 0xff, 0xff, 0xff, 0xff, 1]).await,
            Some(5)
        );
        assert_eq!(asked(&socket, &[]).await, None);
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty());
    });
}

#[test]
fn a_guest_has_a_bounded_number_of_streams() {
    local(async {
        let agent = Agent::ssh();
        let guest = ssh_guest(&agent, Vec::new());
        let socket = guest.socket();
        let mut held = Vec::new();
        for _ in 0..MAX_GUEST_STREAMS {
            let mut stream = UnixStream::connect(&socket).await.unwrap();
            stream.write_all(&[0, 0, 0, 1, 11]).await.unwrap();
            let mut head = [0; 5];
            stream.read_exact(&mut head).await.unwrap();
            held.push(stream);
        }
        let mut refused = UnixStream::connect(&socket).await.unwrap();
        drop(refused.write_all(&[0, 0, 0, 1, 11]).await);
        let answered = refused.read(&mut [0; 5]).await;
        assert!(!matches!(answered, Ok(1..)), "{answered:?}");
        held.clear();
        for _ in 0..200 {
            if asked(&socket, &[11]).await == Some(12) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("streams that ended still count");
    });
}

#[test]
fn filters_are_comments_or_fingerprints() {
    let fingerprint = "SHA256:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg";
    assert_eq!(
        fingerprint.parse::<KeyFilter>().unwrap().to_string(),
        fingerprint
    );
    let comment: KeyFilter = "me@host".parse().unwrap();
    assert_eq!(comment, KeyFilter::Comment("me@host".into()));
    for bad in ["", "SHA256:", "SHA256:abc", "SHA256:!", "a\nb"] {
        assert!(bad.parse::<KeyFilter>().is_err(), "{bad}");
    }
}

/// A home of GnuPG.
struct GpgHome(tempfile::TempDir);

/// The agent of this home, which ends with the test.
struct HostAgent<'a>(&'a GpgHome);

impl Drop for HostAgent<'_> {
    fn drop(&mut self) {
        drop(self.0.run("gpgconf", &["--kill", "gpg-agent"], b""));
    }
}

impl GpgHome {
    fn new() -> Self {
        // Sockets have short paths; a temporary directory is its owner's alone.
        let directory = tempfile::Builder::new().prefix("g").tempdir_in("/tmp");
        Self(directory.unwrap())
    }

    fn run(&self, program: &str, arguments: &[&str], input: &[u8]) -> Output {
        run(program, arguments, ("GNUPGHOME", self.0.path()), input)
    }

    /// The same while the test's thread serves it.
    async fn client(&self, program: &'static str, arguments: &[&str], input: &[u8]) -> Output {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let (home, input) = (self.0.path().to_owned(), input.to_vec());
        let ran = tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            run(program, &arguments, ("GNUPGHOME", &home), &input)
        });
        ran.await.unwrap()
    }
}

#[test]
fn gpg_signs_with_the_hosts_agent_and_may_ask_nothing_else() {
    local(async {
        let (host, guest) = (GpgHome::new(), GpgHome::new());
        let _agent = HostAgent(&host);
        let make = [
            "--batch",
            "--passphrase",
            "",
            "--quick-gen-key",
            "t@x.test",
            "ed25519",
            "sign",
            "never",
        ];
        let made = host.run("gpg", &make, b"");
        assert!(made.status.success(), "{}", said(&made));
        let public = host.run("gpg", &["--export", "t@x.test"], b"").stdout;
        let import = ["--batch", "--no-autostart", "--import"];
        let imported = guest.run("gpg", &import, &public);
        assert!(imported.status.success(), "{}", said(&imported));
        let agents = KeyAgents {
            ssh: None,
            gpg: Some(host.0.path().join("S.gpg-agent.extra")),
        };
        let socket = guest.0.path().join("S.gpg-agent");
        let _served = Guest::at(&socket, agents, HostService::GpgAgent);

        let sign = [
            "--batch",
            "--no-autostart",
            "--armor",
            "--detach-sign",
            "-u",
            "t@x.test",
        ];
        let signed = guest.client("gpg", &sign, b"text").await;
        assert!(signed.status.success(), "{}", said(&signed));
        let (text, signature) = (host.0.path().join("text"), host.0.path().join("text.asc"));
        fs_err::write(&text, "text").unwrap();
        fs_err::write(&signature, &signed.stdout).unwrap();
        let verify = [
            "--verify",
            signature.to_str().unwrap(),
            text.to_str().unwrap(),
        ];
        let verified = host.run("gpg", &verify, b"");
        assert!(verified.status.success(), "{}", said(&verified));

        for command in [
            "GENKEY",
            "EXPORT_KEY 0123456789012345678901234567890123456789",
            "DELETE_KEY 0123456789012345678901234567890123456789",
            "GET_PASSPHRASE --data x x x x",
            "PRESET_PASSPHRASE x -1",
            "SCD SERIALNO",
            "KILLAGENT",
            "RELOADAGENT",
            "GETINFO ssh_socket_name",
            "nonsense",
        ] {
            let asked = ["--no-autostart", command, "/bye"];
            let answer = said(&guest.client("gpg-connect-agent", &asked, b"").await);
            assert!(
                answer.contains("ERR 67109115 Forbidden"),
                "{command}: {answer}"
            );
        }
        let asked = ["--no-autostart", "GETINFO version", "/bye"];
        let answer = said(&guest.client("gpg-connect-agent", &asked, b"").await);
        assert!(answer.contains("OK"), "{answer}");
    });
}

#[test]
fn an_endless_line_ends_the_stream() {
    local(async {
        let (mut guest, near) = tokio::io::duplex(1 << 16);
        let (mut agent, far) = tokio::io::duplex(1 << 16);
        agent.write_all(b"OK hello\n").await.unwrap();
        let filtering = tokio::task::spawn_local(gpg::filter(near, far));
        guest.write_all(&[b'x'; 2000]).await.unwrap();
        let ended = filtering.await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    });
}
