//! `setup`: what the tasks need from Debian. Installs as root, otherwise prints the command that does; quick and
//! silent when nothing is missing.

use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;

/// A program (or file) and the Debian package that has it.
const NEEDED: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/share/seabios/bios-256k.bin", "seabios"),
    ("/usr/lib/ipxe/qemu/efi-virtio.rom", "ipxe-qemu"),
    ("/bin/busybox", "busybox-static"),
    ("mmdebstrap", "mmdebstrap"),
    ("docker-registry", "docker-registry"),
    ("mkfs.erofs", "erofs-utils"),
    ("umoci", "umoci"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("setpriv", "util-linux"),
    ("ip", "iproute2"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("curl", "curl"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
    ("gcc", "gcc"),
    ("make", "make"),
    ("git", "git"),
    ("strace", "strace"),
    ("tinyproxy", "tinyproxy-bin"),
    ("microsocks", "microsocks"),
];

/// Needed only to build the emulated host's file systems without being root.
const NEEDED_UNPRIVILEGED: &[(&str, &str)] = &[("fakeroot", "fakeroot"), ("newuidmap", "uidmap")];

/// Installs what is missing and says what it did.
///
/// # Errors
/// When something is missing and we are not root, or an installer fails.
pub(crate) fn run() -> Result<()> {
    let packages = missing();
    if !packages.is_empty() {
        install(&packages)?;
    }
    if shell::find("cargo-nextest").is_none() {
        shell::run(Command::new("cargo").args(["install", "--locked", "cargo-nextest"]))?;
    }
    Ok(())
}

/// Installs those of `needed` that are missing: what only one task needs.
///
/// # Errors
/// As [`run`].
pub(crate) fn install_missing(needed: &[(&str, &'static str)]) -> Result<()> {
    let missing = needed.iter().filter(|(probe, _)| !present(probe));
    let packages: Vec<_> = missing.map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages)
}

fn missing() -> Vec<&'static str> {
    let unprivileged = if is_root() { &[] } else { NEEDED_UNPRIVILEGED };
    let mut packages: Vec<_> = NEEDED
        .iter()
        .chain(unprivileged)
        .filter(|(probe, _)| !present(probe))
        .map(|(_, package)| *package)
        .collect();
    if shell::find("pip").is_none() && shell::find("pip3").is_none() {
        packages.push("python3-pip");
    }
    packages
}

fn present(probe: &str) -> bool {
    if probe.starts_with('/') {
        fs_err::metadata(probe).is_ok()
    } else {
        shell::find(probe).is_some()
    }
}

fn install(packages: &[&str]) -> Result<()> {
    if shell::find("apt-get").is_none() {
        bail!(
            "this is no Debian; install what these packages hold: {}",
            packages.join(" ")
        );
    }
    if !is_root() {
        bail!(
            "missing packages; run: sudo apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
    }
    eprintln!("setup: installing {}", packages.join(" "));
    shell::output(apt_get().arg("update"))?;
    let mut command = apt_get();
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-y", "install", "--no-install-recommends"])
        .args(packages);
    shell::output(&mut command)?;
    Ok(())
}

/// `apt-get` that asks again when a download breaks off and waits for another that is at work.
pub(crate) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    let tries = format!("Acquire::Retries={DOWNLOAD_TRIES}");
    command.args(["-q", "-o", &tries, "-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// How often apt asks for a file again.
pub(crate) const DOWNLOAD_TRIES: u8 = 5;

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
