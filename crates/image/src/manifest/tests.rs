use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn digest(of: &str) -> String {
    ImageDigest::of(of.as_bytes()).to_string()
}

fn layer_of(media_type: &str) -> Value {
    json!({ "mediaType": media_type, "digest": digest("layer"), "size": 7 })
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn good() -> Value {
    json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest("config"), "size": 3 },
        "layers": [layer_of(LAYER)],
        "annotations": { "any": "thing" },
    })
}

fn parsed(document: &Value) -> Result<Document, ManifestError> {
    parse(document.to_string().as_bytes(), None)
}

/// The good manifest with one member changed.
fn changed(pointer: &str, value: Value) -> Result<Document, ManifestError> {
    let mut document = good();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    document.pointer_mut(parent).unwrap()[key] = value;
    parsed(&document)
}

#[test]
fn reads_layers_and_configuration() {
    let Document::Manifest(manifest) = parsed(&good()).unwrap() else {
        panic!("not a manifest")
    };
    assert_eq!(
        manifest.config,
        Blob {
            digest: ImageDigest::of(b"config"),
            size: 3
        }
    );
    let blob = Blob {
        digest: ImageDigest::of(b"layer"),
        size: 7,
    };
    assert_eq!(
        manifest.layers,
        [LayerBlob {
            blob,
            compression: Compression::Gzip
        }]
    );
}

#[test]
fn media_types_of_layers() {
    let layer = |media_type: &str| changed("/layers", json!([layer_of(media_type)]));
    for (media_type, compression) in [
        ("application/vnd.oci.image.layer.v1.tar", Compression::None),
        (
            "application/vnd.oci.image.layer.v1.tar+zstd",
            Compression::Zstd,
        ),
        (
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Compression::Gzip,
        ),
    ] {
        let Ok(Document::Manifest(manifest)) = layer(media_type) else {
            panic!("{media_type}")
        };
        assert_eq!(manifest.layers[0].compression, compression);
    }
    for foreign in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        assert!(
            matches!(layer(foreign), Err(ManifestError::Foreign { .. })),
            "{foreign}"
        );
    }
    for unknown in [
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.oci.image.layer.v1.tar+br",
        "text/plain",
        "",
    ] {
        assert!(
            matches!(layer(unknown), Err(ManifestError::MediaType { .. })),
            "{unknown}"
        );
    }
    let mut with_urls = layer_of(LAYER);
    with_urls["urls"] = json!(["http://169.254.169.254/"]);
    assert!(matches!(
        changed("/layers", json!([with_urls])),
        Err(ManifestError::Foreign { .. })
    ));
}

#[test]
fn unusable_documents_are_refused() {
    for (what, result) in [
        ("schema 1", changed("/schemaVersion", json!(1))),
        ("negative size", changed("/layers/0/size", json!(-1))),
        ("fractional size", changed("/layers/0/size", json!(1.5))),
        (
            "huge layer",
            changed("/layers/0/size", json!(MAX_LAYER_BYTES + 1)),
        ),
        (
            "huge configuration",
            changed("/config/size", json!(MAX_CONFIG_BYTES + 1)),
        ),
        (
            "short digest",
            changed("/layers/0/digest", json!("sha256:abc")),
        ),
        (
            "path as digest",
            changed("/layers/0/digest", json!("sha256:../../../../etc/passwd")),
        ),
        (
            "other algorithm",
            changed(
                "/config/digest",
                json!(format!("sha512:{}", "a".repeat(128))),
            ),
        ),
        (
            "artifact",
            changed(
                "/config/mediaType",
                json!("application/vnd.cncf.helm.config.v1+json"),
            ),
        ),
        (
            "unknown type",
            changed("/mediaType", json!("application/json")),
        ),
        ("index by name", changed("/mediaType", json!(OCI_INDEX))),
        ("both kinds", changed("/manifests", json!([]))),
        ("no layers", changed("/layers", Value::Null)),
        ("schema 1 inside", changed("/fsLayers", json!([]))),
        (
            "too many layers",
            changed("/layers", json!(vec![layer_of(LAYER); MAX_LAYERS + 1])),
        ),
    ] {
        assert!(result.is_err(), "{what} was accepted: {result:?}");
    }
    assert!(changed("/layers", json!(vec![layer_of(LAYER); MAX_LAYERS])).is_ok());
}

#[test]
fn duplicate_keys_and_deep_nesting_are_refused() {
    let twice = good().to_string().replacen("{", r#"{"layers":[],"#, 1);
    assert!(matches!(
        parse(twice.as_bytes(), None),
        Err(ManifestError::Json { .. })
    ));
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    assert!(parse(deep.as_bytes(), None).is_err());
}

#[test]
fn header_and_document_must_agree() {
    let document = good().to_string();
    assert!(parse(document.as_bytes(), Some(OCI_MANIFEST)).is_ok());
    assert!(
        parse(
            document.as_bytes(),
            Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")
        )
        .is_ok()
    );
    assert!(parse(document.as_bytes(), Some("application/json")).is_ok());
    let conflict = parse(document.as_bytes(), Some(DOCKER_INDEX));
    assert!(matches!(
        conflict,
        Err(ManifestError::MediaTypeConflict { .. })
    ));
    let mut untyped = good();
    untyped.as_object_mut().unwrap().remove("mediaType");
    assert!(parsed(&untyped).is_ok());
    assert!(
        parse(untyped.to_string().as_bytes(), Some(OCI_INDEX)).is_err(),
        "an index without manifests"
    );
}

fn entry(media_type: &str, of: &str, os: &str, architecture: &str, variant: Option<&str>) -> Value {
    json!({ "mediaType": media_type, "digest": digest(of), "size": 9,
            "platform": { "os": os, "architecture": architecture, "variant": variant } })
}

fn chosen(entries: &Value, architecture: Architecture) -> Result<ImageDigest, ManifestError> {
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let Document::Index(entries) = parsed(&index)? else {
        panic!("not an index")
    };
    select(&entries, architecture).map(|blob| blob.digest)
}

#[test]
fn the_plainest_entry_of_the_platform_is_chosen() {
    let entries = json!([
        { "mediaType": OCI_MANIFEST, "digest": digest("attestation"), "size": 1 },
        entry(OCI_MANIFEST, "unknown", "unknown", "unknown", None),
        entry(OCI_MANIFEST, "windows", "windows", "amd64", None),
        entry(OCI_MANIFEST, "v3", "linux", "amd64", Some("v3")),
        entry(OCI_MANIFEST, "v1", "linux", "amd64", Some("v1")),
        entry(OCI_MANIFEST, "plain", "linux", "amd64", None),
        entry(OCI_MANIFEST, "second", "linux", "amd64", None),
        entry(DOCKER_MANIFEST, "arm", "linux", "arm64", Some("v8")),
        entry(OCI_MANIFEST, "arm v7", "linux", "arm", Some("v7")),
    ]);
    assert_eq!(
        chosen(&entries, Architecture::Amd64).unwrap(),
        ImageDigest::of(b"plain")
    );
    assert_eq!(
        chosen(&entries, Architecture::Arm64).unwrap(),
        ImageDigest::of(b"arm")
    );
}

#[test]
fn an_index_without_this_platform_says_what_it_has() {
    let entries = json!([
        entry(OCI_MANIFEST, "a", "linux", "s390x", None),
        entry(OCI_MANIFEST, "b", "linux", "amd64", Some("v4"))
    ]);
    let error = chosen(&entries, Architecture::Amd64)
        .unwrap_err()
        .to_string();
    assert!(error.contains("linux/s390x"), "{error}");
    assert!(matches!(
        chosen(&json!([]), Architecture::Amd64),
        Err(ManifestError::NoPlatform { .. })
    ));
}

#[test]
fn nested_and_overlong_indexes_are_refused() {
    let nested = json!([entry(OCI_INDEX, "i", "linux", "amd64", None)]);
    assert!(matches!(
        chosen(&nested, Architecture::Amd64),
        Err(ManifestError::Nested { .. })
    ));
    let many = json!(vec![
        entry(OCI_MANIFEST, "x", "linux", "amd64", None);
        MAX_INDEX_ENTRIES + 1
    ]);
    assert!(matches!(
        chosen(&many, Architecture::Amd64),
        Err(ManifestError::TooMany { .. })
    ));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz_manifest(&bytes);
    }

    #[test]
    fn a_damaged_manifest_never_panics(at in 0..300_usize, byte: u8) {
        let mut text = good().to_string().into_bytes();
        let at = at % text.len();
        text[at] = byte;
        fuzz_manifest(&text);
    }
}
