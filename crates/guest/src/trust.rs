//! Adds certificates to the trust stores an image may have.
//!
//! Bundles (one file with all certificates) are appended to, behind a marker, so that a later boot from the same disk
//! replaces what an earlier one added. Debian's tools get the certificate where `update-ca-certificates` looks; programs
//! that look certificates up in a directory (OpenSSL's default on Debian) get a file named by the subject's hash.

use crate::tree::{Tree, TreeError};

mod subject_hash;

/// Bundles of the distributions; the first is Debian's, Alpine's, Arch's and Go's first choice.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Where `update-ca-certificates` takes local certificates from.
const LOCAL: &str = "/usr/local/share/ca-certificates/agent-vm.crt";

/// What follows was added by us.
const MARKER: &[u8] = b"\n# agent-vm: certificates of this machine\n";

/// Installs `pem` into every store of the image. Gives a line for each store that could not be changed.
#[must_use]
pub fn install(tree: &Tree, pem: &[u8]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut found = false;
    for bundle in BUNDLES {
        match append(tree, bundle, pem) {
            Ok(there) => found |= there,
            Err(error) => problems.push(describe(&error)),
        }
    }
    if !found {
        problems.extend(
            tree.write_at(BUNDLES[0], pem)
                .err()
                .map(|error| describe(&error)),
        );
    }
    problems.extend(
        tree.write_at(LOCAL, pem)
            .err()
            .map(|error| describe(&error)),
    );
    if let Some(hash) = subject_hash::of_pem(pem) {
        let link = format!("/etc/ssl/certs/{hash:08x}.0");
        problems.extend(
            tree.write_at(&link, pem)
                .err()
                .map(|error| describe(&error)),
        );
    }
    problems
}

fn append(tree: &Tree, bundle: &str, pem: &[u8]) -> Result<bool, TreeError> {
    let Some(old) = tree.read(bundle)? else {
        return Ok(false);
    };
    let new = with_certificates(&old, pem);
    // Several of the names may lead to one file.
    if new != old {
        tree.overwrite(bundle, &new)?;
    }
    Ok(true)
}

fn with_certificates(bundle: &[u8], pem: &[u8]) -> Vec<u8> {
    let end = bundle
        .windows(MARKER.len())
        .position(|window| window == MARKER)
        .unwrap_or(bundle.len());
    let mut new = bundle[..end].to_vec();
    new.extend(MARKER);
    new.extend(pem);
    if !pem.ends_with(b"\n") {
        new.push(b'\n');
    }
    new
}

fn describe(error: &TreeError) -> String {
    let source = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    format!("{error}: {source}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = directory.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, content).unwrap();
        }
        let tree = Tree::open(directory.path().to_str().unwrap()).unwrap();
        (directory, tree)
    }

    #[test]
    fn every_bundle_of_the_image_gets_it_and_keeps_its_own() {
        let (dir, tree) = image(&[
            ("etc/ssl/certs/ca-certificates.crt", "A\n"),
            ("etc/pki/tls/certs/ca-bundle.crt", "B\n"),
        ]);
        assert_eq!(install(&tree, b"OURS\n"), Vec::<String>::new());
        for (path, own) in [
            ("etc/ssl/certs/ca-certificates.crt", "A\n"),
            ("etc/pki/tls/certs/ca-bundle.crt", "B\n"),
        ] {
            let text = fs_err::read_to_string(dir.path().join(path)).unwrap();
            assert!(
                text.starts_with(own) && text.ends_with("\nOURS\n"),
                "{text}"
            );
        }
        assert_eq!(
            fs_err::read(dir.path().join(&LOCAL[1..])).unwrap(),
            b"OURS\n"
        );
    }

    #[test]
    fn a_second_boot_replaces_the_first_ones_certificate() {
        let once = with_certificates(b"A\n", b"ONE\n");
        let twice = with_certificates(&once, b"TWO\n");
        assert_eq!(twice, with_certificates(b"A\n", b"TWO\n"));
    }

    #[test]
    fn two_names_of_one_bundle_get_it_once() {
        let (dir, tree) = image(&[("etc/ssl/certs/ca-certificates.crt", "A\n")]);
        std::os::unix::fs::symlink(
            "/etc/ssl/certs/ca-certificates.crt",
            dir.path().join("etc/ssl/cert.pem"),
        )
        .unwrap();
        assert!(install(&tree, b"OURS\n").is_empty());
        let text =
            fs_err::read_to_string(dir.path().join("etc/ssl/certs/ca-certificates.crt")).unwrap();
        assert_eq!(text.matches("OURS").count(), 1);
    }

    #[test]
    fn an_image_without_a_store_gets_one() {
        let (dir, tree) = image(&[]);
        assert!(install(&tree, b"OURS\n").is_empty());
        assert_eq!(
            fs_err::read(dir.path().join("etc/ssl/certs/ca-certificates.crt")).unwrap(),
            b"OURS\n"
        );
    }
}
