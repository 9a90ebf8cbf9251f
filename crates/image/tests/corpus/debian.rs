//! A real image: Debian as mmdebstrap makes it, and two layers above it with what builders do to such an image.

use std::path::PathBuf;
use std::process::Command;

use agent_vm_test_support::registry::Registry;

use crate::build::{Hostile, Layer};
use crate::test_archive::{TestArchive, TestEntry as E};
use crate::{judge, umoci};

/// Debian's essential packages as an archive; made once, kept with the build.
fn base() -> Vec<u8> {
    let kept: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "debian-essential.tar"]
        .iter()
        .collect();
    if !kept.exists() {
        let made = kept.with_extension(format!("{}.tar", std::process::id()));
        let output = Command::new("mmdebstrap")
            .args(["--quiet", "--variant=essential", "--mode=root", "bookworm"])
            .arg(&made)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "mmdebstrap needs root and a Debian mirror: {output:?}"
        );
        fs_err::rename(&made, &kept).unwrap();
    }
    fs_err::read(kept).unwrap()
}

/// A package that goes through `/lib`, another `/etc/os-release`, a name more for a program, a capability.
fn packages() -> Vec<E> {
    vec![
        E::file("lib/corpus/module", "module")
            .mode(0o755)
            .mtime(1_700_000_000),
        // umoci forgets the time of a directory that it comes to through a link, unless the layer tells it.
        E::directory("usr/lib").mtime(1_700_000_001),
        E::file("bin/corpus", "#!/bin/sh\n").mode(0o4755),
        E::hard_link("usr/bin/also-dash", "usr/bin/dash"),
        E::file("etc/os-release", "PRETTY_NAME=corpus\n"),
        E::file("root/.profile", "umask 077\n").mode(0o600),
        E::file("tmp/left", ""),
        E::file("usr/bin/ping", "x").mode(0o755).pax(
            "SCHILY.xattr.security.capability",
            b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ),
    ]
}

/// What is made smaller at the end.
fn clean_up() -> Vec<E> {
    vec![
        E::file("usr/share/.wh.doc", ""),
        E::file("var/lib/dpkg/info/.wh..wh..opq", ""),
        E::file("var/lib/dpkg/info/format", "1\n"),
        E::file("tmp/.wh.left", ""),
        E::file("bin/.wh.dash", ""),
        E::symlink("usr/bin/dash", "bash"),
        E::directory("usr/share/doc").mode(0o711),
    ]
}

#[test]
fn a_debian_image_is_what_umoci_unpacks() {
    let layers = vec![
        Layer::gzip(&base()),
        Layer::tar(TestArchive::of(packages())),
        Layer::zstd(&TestArchive::of(clean_up())),
    ];
    let image = Hostile::new(layers);
    let registry = Registry::start().unwrap();
    let shown = judge::shown(&registry, "debian", &image).expect("it is accepted");
    let expected = umoci::unpacked(&image).unwrap();
    let differences: Vec<_> = shown
        .iter()
        .filter(|line| !expected.contains(line))
        .map(|line| format!("we: {line}"))
        .chain(
            expected
                .iter()
                .filter(|line| !shown.contains(line))
                .map(|line| format!("umoci: {line}")),
        )
        .take(50)
        .collect();
    assert!(differences.is_empty(), "{differences:#?}");
    println!("{} names compared", shown.len());
    assert!(shown.len() > 3000, "{}", shown.len());
    for line in [
        "usr/lib/corpus/module 755 \"module\" @1700000000",
        "usr/bin/corpus 4755 \"#!/bin/sh\\x0a\"",
        "usr/bin/dash -> bash",
    ] {
        assert!(shown.iter().any(|shown| shown == line), "{line}");
    }
}
