//! The child process as its launcher sees it, without a guest: this program re-executes itself as
//! the launcher does, so it has its own `main` instead of the usual harness.
#![allow(clippy::print_stdout, reason = "a test harness")]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use agent_vm_vmm::{ExitReason, GuestOwner, SpawnError, VmSpec};

/// Every case with its name.
const CASES: &[(&str, fn())] = &[
    (
        "unusable_kernel_is_a_reported_setup_failure",
        unusable_kernel_is_a_reported_setup_failure,
    ),
    (
        "bad_memory_size_never_starts_a_process",
        bad_memory_size_never_starts_a_process,
    ),
    (
        "console_closes_when_the_child_ends",
        console_closes_when_the_child_ends,
    ),
    ("dropped_vm_leaves_no_process", dropped_vm_leaves_no_process),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().map(String::as_str) == Some(agent_vm_vmm::CHILD_COMMAND) {
        agent_vm_vmm::child_main();
    }
    let chosen = |name: &str| {
        args.iter()
            .all(|arg| arg.starts_with('-') || arg == "terse" || name.contains(arg))
    };
    if args.iter().any(|arg| arg == "--list") {
        let ignored = args.iter().any(|arg| arg == "--ignored");
        for (name, _) in CASES.iter().filter(|_| !ignored) {
            println!("{name}: test");
        }
        return;
    }
    for (name, case) in CASES.iter().filter(|(name, _)| chosen(name)) {
        println!("test {name}");
        case();
    }
}

fn empty_file() -> OwnedFd {
    tempfile::tempfile().expect("a temporary file").into()
}

fn spec() -> (VmSpec, std::io::PipeReader) {
    let (_ours, control) = UnixStream::pair().expect("a pair of sockets");
    let (_gateway, network) = UnixStream::pair().expect("a pair of sockets");
    let (log, console) = std::io::pipe().expect("a pipe");
    let spec = VmSpec {
        vcpus: 1,
        memory_mib: 256,
        kernel: empty_file(),
        init: empty_file(),
        disks: Vec::new(),
        shares: Vec::new(),
        owner: GuestOwner {
            uid: 1000,
            gid: 1000,
        },
        network: network.into(),
        control: control.into(),
        forward: None,
        console: console.into(),
    };
    (spec, log)
}

fn unusable_kernel_is_a_reported_setup_failure() {
    let (spec, _log) = spec();
    let mut vm = agent_vm_vmm::spawn(spec).expect("a process");
    let exit = vm.wait_timeout(Duration::from_secs(30)).expect("an end");
    let ExitReason::SetupFailed { detail } = &exit.reason else {
        panic!("{exit:?}")
    };
    // Where there is no KVM the child stops even earlier.
    assert!(
        detail.contains("guest kernel") || detail.contains("/dev/kvm"),
        "{detail}"
    );
    assert_eq!(vm.try_wait().as_ref(), Some(&exit));
    assert_eq!(vm.wait(), exit);
}

fn bad_memory_size_never_starts_a_process() {
    let (mut spec, _log) = spec();
    spec.memory_mib = 3;
    assert!(matches!(
        agent_vm_vmm::spawn(spec),
        Err(SpawnError::Spec(_))
    ));
}

fn console_closes_when_the_child_ends() {
    let (spec, mut log) = spec();
    let _vm = agent_vm_vmm::spawn(spec).expect("a process");
    let mut text = String::new();
    log.read_to_string(&mut text)
        .expect("an end of the console");
}

fn dropped_vm_leaves_no_process() {
    let (spec, _log) = spec();
    let vm = agent_vm_vmm::spawn(spec).expect("a process");
    let directory = format!("/proc/{}", vm.pid());
    assert!(std::path::Path::new(&directory).exists());
    drop(vm);
    assert!(!std::path::Path::new(&directory).exists());
}
