//! What a pull shows while it is on its way, on a terminal and in a pipe, and what ^C leaves.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_vm_test_support::image_tree::digest;
use serde_json::json;

use crate::environment::Environment;

/// Content of the one layer; half of it comes at once.
const LAYER_BYTES: usize = 4 << 20;
/// How long something may take to be shown.
const PATIENCE: Duration = Duration::from_secs(60);

/// A registry with one image that gives half of its layer, and the rest when it is told to.
struct HeldRegistry {
    address: SocketAddr,
    release: Sender<()>,
}

impl HeldRegistry {
    fn start() -> Self {
        let layer = layer();
        let architecture = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let config = json!({
            "os": "linux", "architecture": architecture,
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        })
        .to_string()
        .into_bytes();
        let blob = |kind: &str, bytes: &[u8]| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("config.v1+json", &config), "layers": [blob("layer.v1.tar", &layer)],
        })
        .to_string()
        .into_bytes();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (release, held) = channel();
        std::thread::spawn(move || {
            let (layer_digest, held) = (digest(&layer), Arc::new(Mutex::new(held)));
            let answers = Arc::new((manifest, config, layer, layer_digest));
            for stream in listener.incoming().map_while(Result::ok) {
                let (answers, held) = (Arc::clone(&answers), Arc::clone(&held));
                std::thread::spawn(move || answer(stream, &answers, &held));
            }
        });
        Self { address, release }
    }

    fn image(&self) -> String {
        format!("{}/app:1", self.address)
    }
}

/// Manifest, configuration, layer and the layer's digest.
type Answers = (Vec<u8>, Vec<u8>, Vec<u8>, String);

fn answer(stream: TcpStream, answers: &Answers, held: &Mutex<Receiver<()>>) {
    let (manifest, config, layer, layer_digest) = answers;
    let path = request_path(&stream);
    // Who gave up does not read the rest.
    let _ = if path.contains("/manifests/") {
        send(stream, manifest, None)
    } else if path.ends_with(layer_digest) {
        send(stream, layer, Some(&held.lock().unwrap()))
    } else {
        send(stream, config, None)
    };
}

fn request_path(stream: &TcpStream) -> String {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    first.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn send(mut stream: TcpStream, body: &[u8], held: Option<&Receiver<()>>) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    let (first, rest) = body.split_at(body.len() / 2);
    stream.write_all(first)?;
    if let Some(held) = held {
        // A sender that is gone means: never.
        if held.recv().is_err() {
            std::thread::park();
        }
    }
    stream.write_all(rest)
}

/// An archive of one file.
fn layer() -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..3].copy_from_slice(b"big");
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{LAYER_BYTES:011o}").as_bytes());
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    [header, vec![7; LAYER_BYTES], vec![0; 1024]].concat()
}

/// A program and what it has said so far.
struct Watched {
    child: Child,
    input: Option<ChildStdin>,
    said: Arc<Mutex<String>>,
}

impl Watched {
    fn start(mut command: Command, environment: &Environment) -> Self {
        command
            .current_dir(environment.path("project"))
            .env_clear()
            .env("HOME", environment.path("home"))
            .env("PATH", "/usr/bin:/bin")
            .env("TERM", "xterm");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let outputs: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for mut output in outputs {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = output.read(&mut buffer) {
                    said.lock()
                        .unwrap()
                        .push_str(&String::from_utf8_lossy(&buffer[..count]));
                }
            });
        }
        Self {
            input: child.stdin.take(),
            child,
            said,
        }
    }

    /// `agent-vm pull` on a terminal of 100 columns.
    fn on_terminal(image: &str, environment: &Environment) -> Self {
        let agent_vm = env!("CARGO_BIN_EXE_agent-vm");
        let mut command = Command::new("script");
        command.args([
            "--quiet",
            "--return",
            "--flush",
            "--command",
            &format!("stty cols 100 rows 30; exec {agent_vm} pull {image}"),
            "/dev/null",
        ]);
        Self::start(command, environment)
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        let started = Instant::now();
        while !self.said().contains(text) {
            assert!(
                started.elapsed() < PATIENCE,
                "{text:?} was not shown: {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn code(&mut self) -> Option<i32> {
        let code = self.child.wait().unwrap().code();
        std::thread::sleep(Duration::from_millis(100));
        code
    }
}

/// Files below the part of the store.
fn files(environment: &Environment, part: &str) -> usize {
    let path = environment.path(&format!("home/.local/share/agent-vm/images/{part}"));
    fs_err::read_dir(path).unwrap().count()
}

#[test]
fn terminal_shows_a_bar_for_the_whole_and_one_for_each_layer() {
    let (registry, environment) = (HeldRegistry::start(), Environment::new());
    let mut pull = Watched::on_terminal(&registry.image(), &environment);
    pull.wait_for("  layer 1 of 1 [=======");
    pull.wait_for("pulling [============");
    pull.wait_for("of 4.20 MB, ");
    pull.wait_for(" left");
    registry.release.send(()).unwrap();
    assert_eq!(pull.code(), Some(0), "{}", pull.said());
    let said = pull.said();
    assert!(said.contains("1 layers, 4.1 MB"), "{said:?}");
    let end = said.split("pulled 4.1 MB in ").nth(1).unwrap_or_default();
    assert!(end.contains("app:1 sha256:"), "{said:?}");
    assert!(
        !end.contains("[=") && !end.contains("layer 1"),
        "the bars are gone in the end: {said:?}"
    );
}

#[test]
fn interrupt_leaves_no_partial_file_and_says_130() {
    let (registry, environment) = (HeldRegistry::start(), Environment::new());
    let mut pull = Watched::on_terminal(&registry.image(), &environment);
    pull.wait_for("  layer 1 of 1 [=======");
    assert_eq!(files(&environment, "tmp"), 1, "the layer is being written");
    pull.input.as_mut().unwrap().write_all(b"\x03").unwrap();
    assert_eq!(pull.code(), Some(130), "{}", pull.said());
    assert!(
        pull.said().contains("the pull was interrupted"),
        "{}",
        pull.said()
    );
    assert_eq!(
        (files(&environment, "tmp"), files(&environment, "layers")),
        (0, 0)
    );
}

#[test]
fn pipe_gets_plain_lines() {
    let (registry, environment) = (HeldRegistry::start(), Environment::new());
    registry.release.send(()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent-vm"));
    command.args(["pull", &registry.image()]);
    let mut pull = Watched::start(command, &environment);
    assert_eq!(pull.code(), Some(0), "{}", pull.said());
    let said = pull.said();
    assert!(!said.contains(['\x1b', '\r']), "{said:?}");
    assert!(said.contains("\nlayer 1 of 1: 4.1 MB\n"), "{said:?}");
    assert!(said.contains("\npulled 4.1 MB in "), "{said:?}");
}
