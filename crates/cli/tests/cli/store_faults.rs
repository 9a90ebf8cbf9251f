//! The store when things go wrong: `agent-vm pull` is killed at its n-th system call, its n-th system call fails, the disk is full, two
//! pull at once. Afterwards every file under a final name is whole, the name means the old image or the new one, the next pull works and
//! leaves no litter.
//!
//! The kernel does the damage through `strace --inject`, to the real command; the code under test has no hooks for it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_vm_image::{ImageDigest, PruneMode, PruneScope, PullOptions, Reference, Store, pull};
use agent_vm_test_support::registry::{Registry, RegistryClient};

use crate::environment::Environment;

const AGENT_VM: &str = env!("CARGO_BIN_EXE_agent-vm");
/// Where the command keeps its images, in its home.
const IMAGES: &str = "home/.local/share/agent-vm/images";
/// The most points at which one call is made to fail.
const MAX_POINTS: usize = 30;

/// A registry with an image that has an old and a new version, and stores that hold what each of them should be.
struct Rig {
    registry: Registry,
    reference: Reference,
    /// The store before the pull: it has the old version.
    before: tempfile::TempDir,
    old: ImageDigest,
    new: ImageDigest,
    /// Every file of content there can be, by its path in the store.
    content: BTreeMap<PathBuf, Vec<u8>>,
}

fn layer(path: &str, length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    });
    let content: Vec<u8> = noise.take(length).collect();
    let mut header = vec![0; 512];
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{length:011o}").as_bytes());
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let padding = vec![0; length.next_multiple_of(512) - length + 1024];
    [header, content, padding].concat()
}

/// Pushes an image of uncompressed layers under the tag `1`.
fn push(registry: RegistryClient, layers: &[Vec<u8>]) -> ImageDigest {
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let digests: Vec<_> = layers
        .iter()
        .map(|layer| registry.put_blob("app", layer).unwrap())
        .collect();
    let config = serde_json::json!({
        "os": "linux", "architecture": architecture,
        "rootfs": { "type": "layers", "diff_ids": digests },
    })
    .to_string();
    let blob = |kind: &str, bytes: &[u8]| {
        serde_json::json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": ImageDigest::of(bytes).to_string(), "size": bytes.len(),
        })
    };
    registry.put_blob("app", config.as_bytes()).unwrap();
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| blob("layer.v1.tar", layer))
        .collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type,
        "config": blob("config.v1+json", config.as_bytes()), "layers": layers,
    })
    .to_string();
    registry
        .put_manifest("app", "1", media_type, manifest.as_bytes())
        .unwrap();
    ImageDigest::of(manifest.as_bytes())
}

fn pull_into(root: &Path, reference: &Reference) -> ImageDigest {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let store = Store::open(root).unwrap();
    let options = PullOptions::default();
    runtime
        .block_on(pull(&store, reference, &options, &()))
        .unwrap()
        .digest
}

fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs_err::copy(entry.path(), target).unwrap();
        }
    }
}

/// Paths and contents of all content, as a store has it under final names.
fn content(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for part in ["layers", "images", "manifests", "configs"] {
        for entry in fs_err::read_dir(root.join(part)).unwrap() {
            let path = entry.unwrap().path();
            let name = PathBuf::from(part).join(path.file_name().unwrap());
            all.insert(name, fs_err::read(path).unwrap());
        }
    }
    all
}

impl Rig {
    /// With layers of this many bytes.
    fn new(size: usize) -> Self {
        let registry = Registry::start().unwrap();
        let reference: Reference = registry.reference("app", "1").parse().unwrap();
        let (shared, first) = (layer("shared", size, 1), layer("a", size, 2));
        let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let old = push(*registry.client(), &[shared.clone(), first]);
        assert_eq!(pull_into(before.path(), &reference), old);
        let new = push(
            *registry.client(),
            &[shared, layer("a", size, 3), layer("b", size, 4)],
        );
        copy(before.path(), after.path());
        assert_eq!(pull_into(after.path(), &reference), new);
        let content = content(after.path());
        Self {
            registry,
            reference,
            before,
            old,
            new,
            content,
        }
    }

    /// A home whose store has the old version.
    fn home(&self) -> Environment {
        let environment = Environment::new();
        copy(self.before.path(), Path::new(&environment.path(IMAGES)));
        environment
    }

    /// What must hold whatever happened; gives what the name means now.
    fn check(&self, environment: &Environment, what: &str) -> ImageDigest {
        let root = environment.path(IMAGES);
        for (name, bytes) in content(Path::new(&root)) {
            assert!(
                self.content.get(&name) == Some(&bytes),
                "{what}: {} is broken",
                name.display()
            );
        }
        let store = Store::open(&root).unwrap();
        let image = store.image(&self.reference).unwrap();
        let digest = image.unwrap_or_else(|| panic!("{what}: no image")).digest;
        assert!([self.old, self.new].contains(&digest), "{what}: {digest}");
        assert!(
            store
                .inventory()
                .unwrap()
                .images
                .iter()
                .all(|image| image.whole),
            "{what}"
        );
        digest
    }

    /// The next pull works, and nothing is left that belongs to nothing.
    fn recover(&self, environment: &Environment, what: &str) {
        let root = PathBuf::from(environment.path(IMAGES));
        assert_eq!(pull_into(&root, &self.reference), self.new, "{what}");
        assert_eq!(self.check(environment, what), self.new, "{what}");
        let files = |part: &str| fs_err::read_dir(root.join(part)).unwrap().count();
        assert_eq!([files("tmp"), files("leases")], [0, 0], "{what}");
        let store = Store::open(&root).unwrap();
        assert_eq!(store.inventory().unwrap().unreferenced_bytes, 0, "{what}");
        store.prune(PruneScope::Unnamed, PruneMode::Remove).unwrap();
        assert_eq!(
            (files("layers"), files("refs"), files("locks")),
            (3, 2, 0),
            "{what}"
        );
        assert_eq!(self.check(environment, what), self.new, "{what}");
    }

    fn pull_under_strace(&self, environment: &Environment, options: &[&str]) -> Option<i32> {
        let reference = self.reference.to_string();
        let mut arguments = vec!["-f", "-qq"];
        arguments.extend(options);
        arguments.extend([AGENT_VM, "pull", &reference]);
        environment.run_program("strace", &arguments).code
    }

    /// How often one thread makes the call, at most, when nothing goes wrong.
    fn calls(&self, call: &str) -> usize {
        let environment = self.home();
        let log = environment.path("strace.log");
        let trace = format!("trace={call}");
        let code = self.pull_under_strace(
            &environment,
            &["-o", &log, "-e", &trace, "-e", "signal=none"],
        );
        assert_eq!(code, Some(0), "strace and the pull work");
        let mut threads: BTreeMap<String, usize> = BTreeMap::new();
        for line in fs_err::read_to_string(log).unwrap().lines() {
            if !line.contains("resumed>") {
                let thread = line.split(' ').next().unwrap_or_default();
                *threads.entry(thread.to_owned()).or_default() += 1;
            }
        }
        threads.into_values().max().unwrap_or_default()
    }

    /// Makes each n-th call end as `fault` says; gives how many pulls did not end well, and how many of those left the new image.
    fn inject(&self, call: &str, fault: &str) -> (usize, usize) {
        let calls = self.calls(call);
        assert!(calls > 0, "{call} is never made");
        let (mut failed, mut renewed) = (0, 0);
        for nth in (1..=calls).step_by(calls.div_ceil(MAX_POINTS)) {
            let environment = self.home();
            let inject = format!("inject={call}:{fault}:when={nth}");
            let trace = format!("trace={call}");
            let options = [
                "-o",
                "/dev/null",
                "-e",
                &trace,
                "-e",
                "signal=none",
                "-e",
                &inject,
            ];
            let code = self.pull_under_strace(&environment, &options);
            let digest = self.check(&environment, &inject);
            if code == Some(0) {
                assert_eq!(digest, self.new, "{inject}: said it was done");
            } else {
                failed += 1;
                renewed += usize::from(digest == self.new);
            }
            self.recover(&environment, &inject);
        }
        eprintln!(
            "{call} {fault}: {calls} calls, {failed} pulls failed, {renewed} of them after the image was new"
        );
        (failed, renewed)
    }
}

const WRITES: &str = "write,pwrite64,pwritev,pwritev2,writev";
const NAMES: &str = "rename,renameat,renameat2,link,linkat";
/// Of the five renames of a pull, those of one thread: strace counts by thread, and two may share the work.
const MIN_NAMES: usize = 3;
const REMOVALS: &str = "unlink,unlinkat";

#[test]
fn killed_at_any_sync_leaves_the_old_image_or_the_new_one() {
    let rig = Rig::new(20_000);
    let (failed, renewed) = rig.inject("fsync,fdatasync", "signal=KILL");
    // The last sync is of the directory whose new name is the image: both sides were seen.
    assert!(
        renewed > 0 && failed > renewed,
        "{failed} failed, {renewed} with the new image"
    );
}

#[test]
fn killed_at_any_rename_or_removal_leaves_the_old_image_or_the_new_one() {
    let rig = Rig::new(20_000);
    let (failed, _) = rig.inject(NAMES, "signal=KILL");
    assert!(failed >= MIN_NAMES, "{failed}");
    rig.inject(REMOVALS, "signal=KILL");
}

#[test]
fn killed_at_any_write_leaves_the_old_image_or_the_new_one() {
    let rig = Rig::new(20_000);
    assert!(rig.inject(WRITES, "signal=KILL").0 > 5);
    rig.inject("ftruncate", "signal=KILL");
}

#[test]
fn killed_at_any_open_or_lock_leaves_the_old_image_or_the_new_one() {
    let rig = Rig::new(20_000);
    assert!(rig.inject("openat", "signal=KILL").0 > 5);
    assert!(rig.inject("flock", "signal=KILL").0 > 5);
}

#[test]
fn an_error_of_the_disk_at_any_sync_or_rename_is_told_and_harmless() {
    let rig = Rig::new(20_000);
    assert!(rig.inject("fsync,fdatasync", "error=EIO").0 > 5);
    assert!(rig.inject(NAMES, "error=ENOSPC").0 >= MIN_NAMES);
}

#[test]
fn an_error_of_the_disk_at_any_write_is_told_and_harmless() {
    let rig = Rig::new(20_000);
    // Not what goes to standard error or a socket: those are no disk.
    rig.inject("pwrite64,pwritev,pwritev2", "error=ENOSPC");
    rig.inject("pwrite64,pwritev,pwritev2", "error=EIO");
    rig.inject("ftruncate", "error=ENOSPC");
    rig.inject("flock", "error=ENOLCK");
}

#[test]
fn killed_at_any_moment_the_next_pull_goes_on() {
    let rig = Rig::new(3_000_000);
    let environment = rig.home();
    let whole = std::time::Instant::now();
    assert_eq!(
        rig.home().run(&["pull", &rig.reference.to_string()]).code,
        Some(0)
    );
    let whole = whole.elapsed();
    for round in 0..24_u32 {
        let mut child = environment.start(&["pull", &rig.reference.to_string()]);
        std::thread::sleep(whole * (round * 7 % 24) / 20);
        child.kill().unwrap();
        child.wait().unwrap();
        rig.check(&environment, &format!("round {round}"));
    }
    rig.recover(&environment, "after all rounds");
}

#[test]
fn a_full_disk_is_told_and_the_old_image_stays() {
    let rig = Rig::new(1_000_000);
    let environment = rig.home();
    let reference = rig.reference.to_string();
    let images = environment.path(IMAGES);
    let kept = environment.path("kept");
    // A disk with room for the old image and half of what is new; later it gets larger.
    let script = format!(
        "mv {images} {kept}; mkdir {images}; mount -t tmpfs -o size=3m none {images}; cp -r {kept}/. {images}; \
         if \"$0\" pull {reference} 2>{kept}.err; then exit 99; fi; \
         ls {images}/tmp >{kept}.litter; \"$0\" image inspect {reference} >{kept}.old; \
         mount -o remount,size=64m {images}"
    );
    let Some(finished) = environment.run_behind(&script, &["pull", &reference]) else {
        eprintln!("skipped: no mount namespaces here");
        return;
    };
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(
        finished.stdout.contains(&rig.new.to_string()),
        "{finished:?}"
    );
    let text = |name: &str| fs_err::read_to_string(format!("{kept}.{name}")).unwrap();
    assert!(
        text("err").contains("no space left on device"),
        "{}",
        text("err")
    );
    assert_eq!(text("litter"), "");
    assert!(
        text("old").contains(&rig.old.to_string()),
        "{}",
        text("old")
    );
}

/// Told what passes.
type Seen = Box<dyn Fn(&[u8]) + Send>;

/// Passes connections on and counts what is asked for.
fn counting(registry: SocketAddr, needle: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let pass = |mut from: TcpStream, mut to: TcpStream, seen: Seen| {
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                seen(&buffer[..length]);
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    };
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(registry).unwrap();
            let counter = Arc::clone(&counter);
            let seen = move |bytes: &[u8]| {
                let hits = String::from_utf8_lossy(bytes).matches(needle).count();
                counter.fetch_add(hits, Ordering::SeqCst);
            };
            pass(
                client.try_clone().unwrap(),
                server.try_clone().unwrap(),
                Box::new(seen),
            );
            pass(server, client, Box::new(|_| {}));
        }
    });
    (address, count)
}

#[test]
fn two_processes_that_pull_one_image_download_each_layer_once() {
    let rig = Rig::new(3_000_000);
    let (address, blobs) = counting(rig.registry.address(), "GET /v2/app/blobs/");
    let environment = Environment::new();
    let reference = format!("{address}/app:1");
    let mut both = [(); 2].map(|()| environment.start(&["pull", &reference]));
    for child in &mut both {
        assert!(child.wait().unwrap().success());
    }
    // Three layers once, and each process its configuration.
    assert_eq!(blobs.load(Ordering::SeqCst), 3 + 2);
    let store = Store::open(environment.path(IMAGES)).unwrap();
    assert_eq!(
        store
            .image(&reference.parse().unwrap())
            .unwrap()
            .unwrap()
            .digest,
        rig.new
    );
    assert!(
        fs_err::read_dir(environment.path(IMAGES) + "/tmp")
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn a_pull_in_progress_keeps_what_it_has_from_a_prune() {
    let rig = Rig::new(3_000_000);
    let environment = rig.home();
    let mut child = environment.start(&["pull", &rig.reference.to_string()]);
    let root = environment.path(IMAGES);
    let mut prunes = 0;
    while child.try_wait().unwrap().is_none() {
        let store = Store::open(&root).unwrap();
        store.prune(PruneScope::Unnamed, PruneMode::Remove).unwrap();
        prunes += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success() && prunes > 1, "{prunes}");
    assert_eq!(rig.check(&environment, "pruned all the time"), rig.new);
}
