//! The base root file system when no registry has it: Debian by mmdebstrap, as an image in our storage.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::storage::Storage;
use super::versions::Versions;
use crate::{shell, workspace};

/// What the file system must not take from the machine that builds, and what programs expect to be there.
const CUSTOMISE: &str = r#"rm -f "$1"/etc/resolv.conf "$1"/etc/hostname "$1"/etc/hosts
: >"$1"/etc/resolv.conf
echo agent-vm >"$1"/etc/hostname
printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$1"/etc/hosts
rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*
printf 'Types: deb\nURIs: http://deb.debian.org/debian\nSuites: %s %s-updates\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\nTypes: deb\nURIs: http://deb.debian.org/debian-security\nSuites: %s-security\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' "$SUITE" "$SUITE" "$SUITE" >"$1"/etc/apt/sources.list.d/debian.sources
printf 'APT::Keep-Downloaded-Packages "false";\nAPT::Install-Recommends "false";\nDir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n' >"$1"/etc/apt/apt.conf.d/90agent-vm
chroot "$1" sh -s <"$CLEAN""#;

/// Documentation stays out, licences stay in.
const PATHS: &[&str] = &[
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*/LC_MESSAGES/*",
];

/// Makes the base image and gives its name in `storage`. `directory` keeps the archive for the next time.
///
/// # Errors
/// When the mirror or a tool fails.
pub(crate) fn make(
    storage: &Storage,
    directory: &Path,
    versions: &Versions,
    mirror: &str,
    fresh: bool,
) -> Result<String> {
    let debian = &versions.debian;
    let name = format!("localhost/agent-vm-base:{}", debian.suite);
    let context = directory.join("base");
    fs_err::create_dir_all(&context)?;
    let archive = context.join("base.tar");
    let recipe = format!(
        "{} {mirror} {} {}\n{CUSTOMISE}\n{PATHS:?}",
        debian.suite, debian.security, versions.image.epoch
    );
    let recipe_file = directory.join("base.recipe");
    let known = fs_err::read_to_string(&recipe_file).unwrap_or_default();
    if fresh || known != recipe || !archive.exists() {
        eprintln!("image: making the base file system from {mirror}");
        let _old = fs_err::remove_file(&recipe_file);
        bootstrap(versions, mirror, &archive)?;
        fs_err::write(&recipe_file, recipe)?;
    }
    let mut bud = storage.buildah();
    bud.args([
        "bud",
        "--quiet",
        "--layers",
        "--pull=never",
        "--identity-label=false",
    ])
    .args(["--timestamp", &versions.image.epoch.to_string()])
    .args(["--tag", &name, "--file"])
    .arg(workspace::root().join("images/base.Dockerfile"))
    .arg(&context);
    shell::output(&mut bud).context("cannot make the base image")?;
    Ok(name)
}

fn bootstrap(versions: &Versions, mirror: &str, archive: &Path) -> Result<()> {
    let debian = &versions.debian;
    let mut command: Command = shell::tool("mmdebstrap");
    command
        .env("SOURCE_DATE_EPOCH", versions.image.epoch.to_string())
        .env("SUITE", &debian.suite)
        .env("CLEAN", workspace::root().join("images/scripts/clean"))
        .args([
            "--quiet",
            "--variant=minbase",
            "--mode=root",
            "--skip=output/dev",
        ])
        .args(["--aptopt=Acquire::Check-Valid-Until \"false\""])
        // Without these it leaves apt's caches, which hold as much as the rest.
        .args([
            "--aptopt=Dir::Cache::pkgcache \"\"",
            "--aptopt=Dir::Cache::srcpkgcache \"\"",
        ])
        .args(["--keyring=/usr/share/keyrings/debian-archive-keyring.gpg"])
        .arg(format!("--customize-hook={CUSTOMISE}"));
    for path in PATHS {
        command.arg(format!("--dpkgopt={path}"));
    }
    let suite = &debian.suite;
    let part = archive.with_extension("part.tar");
    command.arg(suite).arg(&part).args([
        format!("deb {mirror} {suite} main"),
        format!("deb {mirror} {suite}-updates main"),
        format!("deb {} {suite}-security main", debian.security),
    ]);
    shell::output(&mut command).context("cannot make the base file system")?;
    fs_err::rename(part, archive)?;
    Ok(())
}
