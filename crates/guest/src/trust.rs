//! Adds certificates to the trust stores an image may have.
//!
//! Bundles (one file with all certificates) are appended to, behind a marker, so that a later boot from the same disk
//! replaces what an earlier one added. Debian's tools get the certificate where `update-ca-certificates` looks; programs
//! that look certificates up in a directory (OpenSSL's default on Debian) get a file named by the subject's hash. Java's
//! store of the distribution gets an entry, Chromium a policy. Node and Python's own stores are left to variables
//! (`launch/src/guest_view.rs`), which need a bundle at Debian's place: there is one in every guest.

use crate::tree::{Tree, TreeError};

mod java;
mod sha1;
mod subject_hash;

/// Bundles of the distributions; the first is Debian's, Alpine's, Arch's and Go's first choice.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Java's stores of Debian, Alpine and Arch, and of Fedora.
const JAVA_STORES: [&str; 2] = [
    "/etc/ssl/certs/java/cacerts",
    "/etc/pki/ca-trust/extracted/java/cacerts",
];

/// Where Chromium and Chrome read what the administrator wants (their policy `CACertificates`, from version 128 on).
const BROWSER_POLICIES: [&str; 2] = [
    "/etc/chromium/policies/managed/agent-vm.json",
    "/etc/opt/chrome/policies/managed/agent-vm.json",
];

/// Where `update-ca-certificates` takes local certificates from.
const LOCAL: &str = "/usr/local/share/ca-certificates/agent-vm.crt";

/// What follows was added by us.
const MARKER: &[u8] = b"\n# agent-vm: certificates of this machine\n";

/// Installs `pem` into every store of the image. Gives a line for each store that could not be changed.
#[must_use]
pub fn install(tree: &Tree, pem: &[u8]) -> Vec<String> {
    let mut results = bundles(tree, pem);
    results.push(tree.write_at(LOCAL, pem));
    if let Some(hash) = subject_hash::of_pem(pem) {
        results.push(tree.write_at(&format!("/etc/ssl/certs/{hash:08x}.0"), pem));
    }
    if let Some(certificate) = subject_hash::decode_pem(pem) {
        let stores = JAVA_STORES.iter();
        results.extend(stores.map(|store| add_to_java(tree, store, &certificate)));
    }
    let policy = browser_policy(pem);
    let policies = BROWSER_POLICIES.iter();
    results.extend(policies.map(|path| tree.write_at(path, policy.as_bytes())));
    let problems = results.into_iter().filter_map(Result::err);
    problems.map(|error| describe(&error)).collect()
}

/// Adds to each bundle of the image; afterwards there is one at the first place.
fn bundles(tree: &Tree, pem: &[u8]) -> Vec<Result<(), TreeError>> {
    let mut results = Vec::new();
    let mut found = None;
    for bundle in BUNDLES {
        match append(tree, bundle, pem) {
            Ok(there) => found = found.or(there.then_some(bundle)),
            Err(error) => results.push(Err(error)),
        }
    }
    match found {
        Some(first) if first == BUNDLES[0] => {}
        Some(other) => results.push(tree.link(BUNDLES[0], other)),
        None => results.push(tree.write_at(BUNDLES[0], pem)),
    }
    results
}

/// Adds to a store of Java's; one of another form is left as it is.
fn add_to_java(tree: &Tree, path: &str, certificate: &[u8]) -> Result<(), TreeError> {
    let Some(old) = tree.read(path)? else {
        return Ok(());
    };
    match java::with_certificate(&old, certificate) {
        Some(new) if new != old => tree.overwrite(path, &new),
        Some(_) | None => Ok(()),
    }
}

/// The certificate in the words of Chromium's policy.
fn browser_policy(pem: &[u8]) -> String {
    let text = String::from_utf8_lossy(pem);
    let body = text
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN"));
    let body = body
        .skip(1)
        .take_while(|line| !line.starts_with("-----END"));
    let base64: String = body.map(str::trim).collect();
    format!("{{\"CACertificates\":[\"{base64}\"]}}\n")
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

    #[test]
    fn a_bundle_elsewhere_is_found_at_debians_place_too() {
        let (dir, tree) = image(&[("etc/pki/tls/certs/ca-bundle.crt", "B\n")]);
        assert!(install(&tree, b"OURS\n").is_empty());
        let link = dir.path().join("etc/ssl/certs/ca-certificates.crt");
        let target = fs_err::read_link(link).unwrap();
        assert_eq!(target.to_str(), Some("/etc/pki/tls/certs/ca-bundle.crt"));
    }

    #[test]
    fn browsers_are_told_by_policy() {
        let (dir, tree) = image(&[]);
        let pem = b"-----BEGIN CERTIFICATE-----\nQUJD\nREVG\n-----END CERTIFICATE-----\n";
        assert!(install(&tree, pem).is_empty());
        let policy = dir
            .path()
            .join("etc/chromium/policies/managed/agent-vm.json");
        let policy = fs_err::read_to_string(policy).unwrap();
        assert_eq!(policy, "{\"CACertificates\":[\"QUJDREVG\"]}\n");
    }
}
