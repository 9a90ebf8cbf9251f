//! Machines that cannot run a guest: one clear error with the fix, before anything else happens.

use crate::environment::Environment;

#[track_caller]
fn refused_behind(script: &str, stderr: &str) {
    match Environment::new().run_behind(script, &["run", "--", "true"]) {
        Some(finished) => finished.refused(stderr),
        // Said in the output of the test; the checks themselves are tested in their crate too.
        None => eprintln!("skipped: no user namespaces here"),
    }
}

#[test]
fn missing_kvm_names_the_fix() {
    refused_behind(
        "mount -t tmpfs none /dev",
        "error: /dev/kvm does not exist\n\n\
         hint: turn on virtualisation in the firmware (in a virtual machine: nested virtualisation), then `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`\n",
    );
}

#[test]
fn device_that_is_not_kvm_is_told() {
    refused_behind(
        "mount -t tmpfs none /mnt; touch /mnt/null; mount --bind /dev/null /mnt/null; \
         mount -t tmpfs none /dev; touch /dev/kvm; mount --bind /mnt/null /dev/kvm",
        "error: /dev/kvm is not usable: it does not speak KVM's interface\n\n\
         hint: look at `dmesg | grep -i kvm`; Linux 5.10 or newer with KVM is needed\n",
    );
}

#[test]
fn kvm_without_permission_names_the_fix() {
    let script = "mount -t tmpfs none /mnt; touch /mnt/null; mount --bind /dev/null /mnt/null; \
         mount -o remount,bind,nodev /mnt/null; \
         mount -t tmpfs none /dev; touch /dev/kvm; mount --bind /mnt/null /dev/kvm";
    let Some(finished) = Environment::new().run_behind(script, &["run", "--", "true"]) else {
        eprintln!("skipped: no user namespaces here");
        return;
    };
    assert_eq!(finished.code, Some(125), "{finished:?}");
    assert!(
        finished
            .stderr
            .starts_with("error: permission to use /dev/kvm is denied\n\nhint: "),
        "{finished:?}"
    );
    assert!(
        finished.stderr.contains("then log in again"),
        "{finished:?}"
    );
}

#[test]
fn missing_kernel_names_the_fix() {
    let mut environment = Environment::new();
    environment.set("AGENT_VM_KERNEL", "/nonexistent/kernel");
    environment.run(&["run", "--", "true"]).refused(
        "error: the guest kernel /nonexistent/kernel named by AGENT_VM_KERNEL does not exist\n\n\
         hint: let AGENT_VM_KERNEL name a libkrunfw shared object, or unset it\n",
    );
}

#[test]
fn memory_larger_than_the_machine_has_is_told() {
    let finished = Environment::new().run(&["run", "--memory", "1TiB", "--", "true"]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(125), ""));
    let first = finished.stderr.lines().next().unwrap();
    assert!(
        first.starts_with("error: the machine needs 1TiB of memory, this host has "),
        "{first}"
    );
    assert!(
        finished
            .stderr
            .contains("\nhint: ask for less, such as --memory "),
        "{finished:?}"
    );
}

#[test]
fn nothing_is_made_before_the_checks() {
    let mut environment = Environment::new();
    environment.set("AGENT_VM_KERNEL", "/nonexistent/kernel");
    let secret = "T=cmd:touch ROOT/ran@a.b".replace("ROOT", &environment.path(""));
    environment.run(&["run", "--secret", &secret, "--", "true"]);
    assert_eq!(
        fs_err::read_dir(environment.path("home")).unwrap().count(),
        0
    );
    assert!(!std::path::Path::new(&environment.path("ran")).exists());
}
