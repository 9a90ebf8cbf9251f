//! The signature policy against a real registry: keys made here, signatures pushed as cosign lays them out.

use std::process::Command;

use agent_vm_image::{
    ImageDigest, NotVerified, PullOptions, Reference, SignaturePolicy, SignatureRule,
};
use agent_vm_test_support::registry::Registry;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SigningKey as _};
use serde_json::json;

use crate::case::{
    Layer, OCI_CONFIG, OCI_GZIP, OCI_INDEX, OCI_MANIFEST, TestStore, archive, descriptor, native,
    push, told,
};

const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn policy_of(pem: String) -> PullOptions {
    PullOptions {
        signature: Some(SignaturePolicy::new(&[SignatureRule::Key(pem.into_bytes())]).unwrap()),
        ..PullOptions::default()
    }
}

fn wanting(key: &KeyPair) -> PullOptions {
    policy_of(key.public_key_pem())
}

fn image(registry: &Registry, name: &str, content: &[u8]) -> ImageDigest {
    let layer = Layer::new(OCI_GZIP, &archive(&[("a", content)]));
    ImageDigest::of(&push(registry, name, "1", &[layer], false))
}

fn payload(repository: &str, digest: ImageDigest) -> Vec<u8> {
    json!({ "critical": {
        "identity": { "docker-reference": repository },
        "image": { "docker-manifest-digest": digest.to_string() },
        "type": "cosign container image signature",
    }})
    .to_string()
    .into_bytes()
}

/// Pushes signatures of payloads to the place where those of `digest` are looked for.
fn attach(registry: &Registry, name: &str, digest: ImageDigest, signed: &[(Vec<u8>, Vec<u8>)]) {
    registry.put_blob(name, b"{}").unwrap();
    let layers: Vec<_> = signed
        .iter()
        .map(|(payload, signature)| {
            registry.put_blob(name, payload).unwrap();
            let mut layer = descriptor(PAYLOAD_TYPE, payload);
            let signature = BASE64_STANDARD.encode(signature);
            layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signature });
            layer
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, b"{}"), "layers": layers,
    });
    let tag = format!("sha256-{}.sig", digest.hex());
    let manifest = manifest.to_string();
    registry
        .put_manifest(name, &tag, OCI_MANIFEST, manifest.as_bytes())
        .unwrap();
}

fn signed(key: &KeyPair, payload: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let signature = key.sign(&payload).unwrap();
    (payload, signature)
}

/// The pull is refused with these words, and nothing of the image is in the store.
#[track_caller]
fn refused(registry: &Registry, name: &str, options: &PullOptions, words: &str) {
    let store = TestStore::new();
    let pulled = store.pull_with(&registry.reference(name, "1"), options, &());
    let error = told(&pulled.unwrap_err());
    assert!(error.contains(words), "{error}");
    for part in [
        "layers",
        "images",
        "manifests",
        "configs",
        "refs",
        "tmp",
        "leases",
    ] {
        assert_eq!(store.files(part), Vec::<String>::new(), "{part}");
    }
}

#[test]
fn an_image_signed_by_the_wanted_key_is_pulled_and_may_be_launched() {
    let registry = Registry::start().unwrap();
    let repository = format!("{}/app", registry.address());
    let digest = image(&registry, "app", b"x");
    for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
        let (key, other) = (KeyPair::generate_for(kind).unwrap(), key());
        let payload = payload(&repository, digest);
        let both = [signed(&other, payload.clone()), signed(&key, payload)];
        attach(&registry, "app", digest, &both);
        let (store, options) = (TestStore::new(), wanting(&key));
        let reference = registry.reference("app", "1");
        store.pull_with(&reference, &options, &()).unwrap();
        let reference: Reference = reference.parse().unwrap();
        let policy = options.signature.unwrap();
        store.store.check_verified(&reference, &policy).unwrap();
        store
            .store
            .check_verified(&reference.pinned(digest), &policy)
            .unwrap();
        assert!(store.store.inventory().unwrap().images[0].signed);
    }
}

#[test]
fn an_image_pulled_without_the_policy_must_be_pulled_again() {
    let (registry, store, key) = (Registry::start().unwrap(), TestStore::new(), key());
    let repository = format!("{}/app", registry.address());
    let digest = image(&registry, "app", b"x");
    attach(
        &registry,
        "app",
        digest,
        &[signed(&key, payload(&repository, digest))],
    );
    let name = registry.reference("app", "1");
    let reference: Reference = name.parse().unwrap();
    let options = wanting(&key);
    let policy = options.signature.clone().unwrap();
    // What is not there cannot be launched anyway.
    store.store.check_verified(&reference, &policy).unwrap();
    store.pull(&name).unwrap();
    let refused = store.store.check_verified(&reference, &policy).unwrap_err();
    assert!(matches!(refused, NotVerified::OtherPolicy { .. }));
    store.pull_with(&name, &options, &()).unwrap();
    store.store.check_verified(&reference, &policy).unwrap();
    let other = wanting(&self::key()).signature.unwrap();
    assert!(store.store.check_verified(&reference, &other).is_err());
}

#[test]
fn the_signature_of_an_index_covers_its_manifests_and_that_of_the_manifest_counts_too() {
    let (registry, key) = (Registry::start().unwrap(), key());
    let repository = format!("{}/multi", registry.address());
    let layer = Layer::new(OCI_GZIP, &archive(&[("a", b"mine")]));
    let manifest = push(&registry, "multi", "mine", &[layer], false);
    let mut entry = descriptor(OCI_MANIFEST, &manifest);
    entry["platform"] = json!({ "os": "linux", "architecture": native() });
    let index =
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] }).to_string();
    registry
        .put_manifest("multi", "1", OCI_INDEX, index.as_bytes())
        .unwrap();
    refused(&registry, "multi", &wanting(&key), "is not signed");
    for digest in [
        ImageDigest::of(&manifest),
        ImageDigest::of(index.as_bytes()),
    ] {
        attach(
            &registry,
            "multi",
            digest,
            &[signed(&key, payload(&repository, digest))],
        );
        let pulled =
            TestStore::new().pull_with(&registry.reference("multi", "1"), &wanting(&key), &());
        pulled.unwrap();
    }
}

#[test]
fn what_is_not_signed_as_the_policy_wants_is_refused_before_anything_is_kept() {
    let (registry, key) = (Registry::start().unwrap(), key());
    let address = registry.address();
    let repository = |name: &str| format!("{address}/{name}");
    let options = wanting(&key);

    image(&registry, "unsigned", b"1");
    refused(&registry, "unsigned", &options, "is not signed");

    let digest = image(&registry, "wrong-key", b"2");
    let text = payload(&repository("wrong-key"), digest);
    attach(
        &registry,
        "wrong-key",
        digest,
        &[signed(&self::key(), text)],
    );
    refused(&registry, "wrong-key", &options, "made by none of the keys");

    let digest = image(&registry, "other-digest", b"3");
    let text = payload(&repository("other-digest"), ImageDigest::of(b"another"));
    attach(&registry, "other-digest", digest, &[signed(&key, text)]);
    refused(
        &registry,
        "other-digest",
        &options,
        "is for the image sha256:",
    );

    let digest = image(&registry, "other-repository", b"4");
    let text = payload(&repository("elsewhere"), digest);
    attach(&registry, "other-repository", digest, &[signed(&key, text)]);
    refused(
        &registry,
        "other-repository",
        &options,
        "is for the repository",
    );

    let digest = image(&registry, "none", b"5");
    attach(&registry, "none", digest, &[]);
    refused(&registry, "none", &options, "is not signed");

    let digest = image(&registry, "text", b"6");
    let (_, signature) = signed(&key, payload(&repository("text"), digest));
    attach(&registry, "text", digest, &[(b"{}".to_vec(), signature)]);
    refused(&registry, "text", &options, "made by none of the keys");
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "another implementation makes the signature"
)]
fn a_signature_made_by_openssl_is_understood() {
    let (registry, directory) = (Registry::start().unwrap(), tempfile::tempdir().unwrap());
    let digest = image(&registry, "app", b"x");
    let text = payload(&format!("{}/app", registry.address()), digest);
    fs_err::write(directory.path().join("text"), &text).unwrap();
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        let output = command
            .args(arguments)
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        "key",
    ]);
    let public = String::from_utf8(openssl(&["pkey", "-in", "key", "-pubout"])).unwrap();
    let signature = openssl(&["dgst", "-sha256", "-sign", "key", "text"]);
    attach(&registry, "app", digest, &[(text, signature)]);
    let pulled =
        TestStore::new().pull_with(&registry.reference("app", "1"), &policy_of(public), &());
    pulled.unwrap();
}
