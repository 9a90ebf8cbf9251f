//! Manifests that lie, confuse or want something else.

use serde_json::{Value, json};

use crate::build::{Document, Hostile, OCI_INDEX, OCI_MANIFEST, descriptor, plain_layer};
use crate::case::Case;

#[test]
fn manifests() {
    crate::judge::judge(CASES);
}

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const TREE: &[&str] = &["f 644 \"x\""];
const JSON: &str = "its manifest is refused: the document is not valid JSON of the documented form";

fn plain() -> Hostile {
    Hostile::new(vec![plain_layer()])
}

/// A plain image whose layer descriptor has another value of `key`.
fn layer(key: &str, value: impl Into<Value>) -> Hostile {
    plain().with_manifest(|manifest| manifest["layers"][0][key] = value.into())
}

fn raw(text: impl Into<Vec<u8>>) -> Hostile {
    plain().with_raw_manifest(OCI_MANIFEST, text.into())
}

/// The manifest's text with one part replaced.
fn text(from: &str, to: &str) -> Hostile {
    let manifest = String::from_utf8(plain().documents[0].bytes.clone()).unwrap();
    assert!(manifest.contains(from), "{manifest}");
    raw(manifest.replacen(from, to, 1))
}

pub(super) const CASES: &[Case] = &[
    Case::accepted("manifest-plain", "nothing wrong", plain, "as it is", TREE),
    Case::refused(
        "manifest-not-json",
        "a web page",
        || raw("<html>login</html>"),
        JSON,
    ),
    Case::refused("manifest-empty", "no bytes at all", || raw(""), JSON),
    Case::refused("manifest-array", "a list", || raw("[]"), JSON),
    Case::refused(
        "manifest-deep",
        "lists in lists, 100 000 deep",
        || raw("[".repeat(100_000)),
        JSON,
    ),
    Case::refused(
        "manifest-trailing",
        "a second document behind the first",
        || {
            let manifest = String::from_utf8(plain().documents[0].bytes.clone()).unwrap();
            raw(manifest.repeat(2))
        },
        JSON,
    ),
    Case::refused(
        "manifest-duplicate-key",
        "`layers` twice, of which readers take the first or the last",
        || text("\"layers\":", "\"layers\":[],\"layers\":"),
        JSON,
    ),
    Case::refused(
        "manifest-duplicate-digest",
        "`digest` twice in a descriptor",
        || text("\"digest\":", "\"digest\":\"sha256:00\",\"digest\":"),
        JSON,
    ),
    Case::refused(
        "manifest-large",
        "5 MiB of annotations",
        || {
            plain().with_manifest(|manifest| {
                manifest["annotations"] = json!({ "a": "x".repeat(5 << 20) });
            })
        },
        "more than",
    ),
    Case::refused(
        "manifest-schema-1",
        "Docker's schema 1",
        || {
            raw(json!({
        "schemaVersion": 1, "name": "x", "tag": "1", "architecture": "amd64",
        "fsLayers": [{ "blobSum": descriptor("", b"").get("digest").unwrap() }], "history": [], "signatures": [],
    }).to_string())
        },
        "its manifest is refused: schema version 1 is not supported, only 2",
    ),
    Case::refused(
        "manifest-schema-3",
        "a schema of the future",
        || plain().with_manifest(|manifest| manifest["schemaVersion"] = 3.into()),
        "its manifest is refused: schema version 3 is not supported, only 2",
    ),
    Case::refused(
        "manifest-confused",
        "the fields of a manifest and of an index",
        || plain().with_manifest(|manifest| manifest["manifests"] = json!([])),
        "its manifest is refused: the document is not clearly either an image manifest or an index",
    ),
    Case::refused(
        "manifest-typed-index",
        "a manifest that says it is an index",
        || plain().with_manifest(|manifest| manifest["mediaType"] = OCI_INDEX.into()),
        "its manifest is refused: the document",
    ),
    Case::refused(
        "manifest-served-as-index",
        "a manifest that the registry says is an index",
        || {
            let manifest = plain().documents[0].bytes.clone();
            plain().with_raw_manifest(OCI_INDEX, manifest)
        },
        "its manifest is refused: the document says it is",
    ),
    Case::refused(
        "manifest-unknown-type",
        "a media type nobody knows",
        || {
            let manifest = plain()
                .with_manifest(|manifest| manifest["mediaType"] = "application/x-else".into())
                .documents[0]
                .bytes
                .clone();
            plain().with_raw_manifest("application/x-else", manifest)
        },
        "its manifest is refused: media type `application/x-else` is not an image manifest",
    ),
    Case::accepted(
        "manifest-untyped",
        "no media type in the document",
        || {
            plain().with_manifest(|manifest| {
                manifest.as_object_mut().unwrap().remove("mediaType");
            })
        },
        "what the registry says",
        TREE,
    ),
    Case::refused(
        "manifest-artifact",
        "an artifact: a Helm chart",
        || {
            plain().with_manifest(|manifest| {
                manifest["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
            })
        },
        "its manifest is refused: media type `application/vnd.cncf.helm.config.v1+json` is not",
    ),
    Case::refused(
        "manifest-empty-config",
        "an artifact with the empty configuration",
        || {
            plain().with_manifest(|manifest| {
        manifest["artifactType"] = "application/x-thing".into();
        manifest["config"] = json!({
            "mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
            "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        });
    })
        },
        "its manifest is refused: media type `application/vnd.oci.empty.v1+json` is not",
    ),
    Case::accepted(
        "manifest-unknown-fields",
        "`subject`, annotations and fields nobody knows",
        || {
            plain().with_manifest(|manifest| {
                manifest["subject"] = descriptor(OCI_MANIFEST, b"x");
                manifest["annotations"] = json!({ "a": "\u{1b}[31m" });
                manifest["future"] = json!([1, { "x": null }]);
            })
        },
        "they say nothing about the image's content",
        TREE,
    ),
    Case::accepted(
        "manifest-no-layers",
        "no layers",
        || Hostile::new(Vec::new()),
        "an empty file system",
        &[],
    ),
    Case::refused(
        "manifest-layers-null",
        "`layers` is null",
        || plain().with_manifest(|manifest| manifest["layers"] = Value::Null),
        "its manifest is refused: the document is not clearly either an image manifest or an index",
    ),
    Case::refused(
        "manifest-digest-md5",
        "a layer by its MD5",
        || layer("digest", "md5:d41d8cd98f00b204e9800998ecf8427e"),
        "its manifest is refused: a descriptor has an unusable digest: `md5:d41d8cd98f00b204e9800998ecf8427e` is not",
    ),
    Case::refused(
        "manifest-digest-sha512",
        "a layer by its SHA-512",
        || layer("digest", format!("sha512:{}", "0a".repeat(64))),
        "its manifest is refused: a descriptor has an unusable digest: `sha512:0a0a",
    ),
    Case::refused(
        "manifest-digest-short",
        "a digest cut short",
        || layer("digest", "sha256:0a0a"),
        "its manifest is refused: a descriptor has an unusable digest: `sha256:0a0a` is not",
    ),
    Case::refused(
        "manifest-digest-upper",
        "a digest in capital letters",
        || layer("digest", format!("sha256:{}", "0A".repeat(32))),
        "its manifest is refused: a descriptor has an unusable digest: `sha256:0A0A",
    ),
    Case::refused(
        "manifest-digest-path",
        "a digest that is a path",
        || layer("digest", "sha256:../../../../tmp/agent-vm-corpus-escape"),
        "its manifest is refused: a descriptor has an unusable digest: `sha256:../../../../tmp/agent-vm-corpus-escape` is not",
    ),
    Case::refused(
        "manifest-digest-control",
        "a digest with an escape sequence",
        || layer("digest", "sha256:\u{1b}]0;x\u{7}"),
        "its manifest is refused: a descriptor has an unusable digest: `sha256:\\x1b]0;x\\x07` is not",
    ),
    Case::refused(
        "manifest-digest-empty",
        "an empty digest",
        || layer("digest", ""),
        "its manifest is refused: a descriptor has an unusable digest: `` is not",
    ),
    Case::refused(
        "manifest-size-negative",
        "a layer of -1 bytes",
        || layer("size", -1),
        JSON,
    ),
    Case::refused(
        "manifest-size-float",
        "a layer of 1.5 bytes",
        || layer("size", 1.5),
        JSON,
    ),
    Case::refused(
        "manifest-size-text",
        "a size in quotes",
        || layer("size", "2048"),
        JSON,
    ),
    Case::refused(
        "manifest-size-2-64",
        "a layer of 2^64 bytes",
        || text("\"size\":2048", "\"size\":18446744073709551616"),
        JSON,
    ),
    Case::refused(
        "manifest-size-huge",
        "a layer of 2^63 bytes",
        || layer("size", 1_u64 << 63),
        "has 9223372036854775808 bytes, more than the 17179869184 that are accepted",
    ),
    Case::refused(
        "manifest-layer-type",
        "a layer of a media type nobody knows",
        || layer("mediaType", "application/x-tar"),
        "its manifest is refused: media type `application/x-tar` is not",
    ),
    Case::refused(
        "manifest-layer-encrypted",
        "an encrypted layer",
        || {
            layer(
                "mediaType",
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            )
        },
        "its manifest is refused: media type `application/vnd.oci.image.layer.v1.tar+gzip+encrypted` is not",
    ),
    Case::refused(
        "manifest-layer-xz",
        "a layer in a compression that was never agreed on",
        || layer("mediaType", "application/vnd.oci.image.layer.v1.tar+xz"),
        "its manifest is refused: media type `application/vnd.oci.image.layer.v1.tar+xz` is not",
    ),
    Case::refused(
        "manifest-layer-nondistributable",
        "a layer that must not be distributed",
        || {
            layer(
                "mediaType",
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            )
        },
        "is a foreign layer, to be fetched from other servers than the registry",
    ),
    Case::refused(
        "manifest-layer-foreign",
        "Docker's foreign layer",
        || {
            layer(
                "mediaType",
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            )
        },
        "is a foreign layer, to be fetched from other servers than the registry",
    ),
    Case::refused(
        "manifest-layer-urls",
        "a layer with addresses of another server",
        || layer("urls", json!(["http://127.0.0.1:1/"])),
        "is a foreign layer, to be fetched from other servers than the registry",
    ),
    Case::refused(
        "manifest-layer-count",
        "two layers, of which the configuration knows one",
        || {
            let second = descriptor(crate::build::OCI_TAR, &plain_layer().blob);
            plain()
                .with_manifest(|manifest| manifest["layers"].as_array_mut().unwrap().push(second))
        },
        "its configuration is refused: the configuration names 1 layers, the manifest 2",
    ),
    Case::refused(
        "manifest-config-missing",
        "no configuration",
        || {
            plain().with_manifest(|manifest| {
                manifest.as_object_mut().unwrap().remove("config");
            })
        },
        "its manifest is refused: the document is not clearly either an image manifest or an index",
    ),
    Case::refused(
        "manifest-blob-missing",
        "a layer the registry does not have",
        || layer("digest", format!("sha256:{}", "0a".repeat(32))),
        "sha256:0a0a",
    ),
    Case::accepted(
        "manifest-docker",
        "Docker's media types",
        || {
            let mut image = plain().with_manifest(|manifest| {
                manifest["mediaType"] = DOCKER_MANIFEST.into();
                manifest["config"]["mediaType"] =
                    "application/vnd.docker.container.image.v1+json".into();
                manifest["layers"][0]["mediaType"] =
                    "application/vnd.docker.image.rootfs.diff.tar".into();
            });
            image.documents = vec![Document::new(
                DOCKER_MANIFEST,
                image.documents[0].bytes.clone(),
            )];
            image
        },
        "they mean the same",
        TREE,
    ),
];
