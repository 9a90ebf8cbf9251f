//! Builds the guest's PID 1 as a static program and makes it available to the launcher as bytes.
//!
//! The guest is another target (static, size-optimised, aborting), which one cargo invocation cannot mix with the
//! launcher's, so this starts a second cargo in a target directory of its own; it is shared by all profiles.
//! `AGENT_VM_GUEST_BINARY` names a ready-made program instead, for packagers.

#![allow(clippy::disallowed_methods, reason = "a build script starts cargo")]

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    println!("cargo::rerun-if-env-changed=AGENT_VM_GUEST_BINARY");
    let binary = match std::env::var_os("AGENT_VM_GUEST_BINARY") {
        Some(path) => PathBuf::from(path),
        None => build_guest(),
    };
    println!("cargo::rerun-if-changed={}", binary.display());
    println!(
        "cargo::rustc-env=AGENT_VM_GUEST_BINARY={}",
        binary.display()
    );
}

fn build_guest() -> PathBuf {
    let workspace = workspace_root();
    for watched in [
        "crates/guest",
        "crates/protocol",
        "Cargo.lock",
        "Cargo.toml",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(watched).display()
        );
    }
    let target_dir = guest_target_dir();
    let status = Command::new(variable("CARGO"))
        .current_dir(&workspace)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "agent-vm-guest",
            "--profile",
            "guest",
        ])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CARGO_TARGET_DIR")
        .status()
        .expect("cargo can be started");
    assert!(status.success(), "the guest did not build: {status}");
    target_dir.join(TARGET).join("guest").join("agent-vm-guest")
}

/// `OUT_DIR` is TARGET/PROFILE/build/PACKAGE/out; the guest goes to TARGET/guest.
fn guest_target_dir() -> PathBuf {
    let out = PathBuf::from(variable("OUT_DIR"));
    out.ancestors()
        .nth(4)
        .expect("OUT_DIR lies in a target directory")
        .join("guest")
}

fn workspace_root() -> PathBuf {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .expect("the crate lies in crates/launch")
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
