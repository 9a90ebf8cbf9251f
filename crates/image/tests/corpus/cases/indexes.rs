//! Indexes: which of their manifests is this machine's, and which lie about it.

use agent_vm_image::ImageDigest;
use serde_json::{Value, json};

use crate::build::{Document, Hostile, Layer, OCI_INDEX, native, plain_layer};
use crate::case::Case;
use crate::test_archive::{TestArchive, TestEntry as E};

#[test]
fn indexes() {
    crate::judge::judge(CASES);
}

const TREE: &[&str] = &["f 644 \"x\""];

fn plain() -> Hostile {
    Hostile::new(vec![plain_layer()])
}

fn index(entries: impl FnOnce(&Document) -> Vec<Value>) -> Hostile {
    plain().under_index(entries)
}

/// The native manifest under an index, with a change to its entry.
fn entry(change: impl FnOnce(&mut Value)) -> Hostile {
    index(|manifest| {
        let mut entry = manifest.entry("linux", native(), None);
        change(&mut entry);
        vec![entry]
    })
}

/// An entry for another image, which must not be taken.
fn decoy(variant: Option<&str>) -> Value {
    let other = Hostile::new(vec![Layer::tar(TestArchive::of([E::file("wrong", "")]))]);
    other.documents[0].entry("linux", native(), variant)
}

pub(super) const CASES: &[Case] = &[
    Case::accepted(
        "index-native",
        "entries for three machines, ours the second",
        || {
            index(|manifest| {
                let mut entries = vec![
                    decoy(None),
                    manifest.entry("linux", native(), None),
                    decoy(None),
                ];
                entries[0]["platform"]["architecture"] = "s390x".into();
                entries[2]["platform"]["os"] = "windows".into();
                entries
            })
        },
        "the entry of this machine",
        TREE,
    ),
    Case::accepted(
        "index-two",
        "two entries for this machine",
        || index(|manifest| vec![manifest.entry("linux", native(), None), decoy(None)]),
        "the first one, as the specification says",
        TREE,
    ),
    Case::accepted(
        "index-variant",
        "an entry for newer processors before the plain one",
        || index(|manifest| vec![decoy(Some("v4")), manifest.entry("linux", native(), None)]),
        "the plain one",
        TREE,
    ),
    Case::accepted(
        "index-attestation",
        "entries of attestations before ours",
        || {
            index(|manifest| {
                vec![
                    manifest.entry("unknown", "unknown", None),
                    json!({ "mediaType": "application/x-else", "digest": "md5:0", "size": 0 }),
                    manifest.entry("linux", native(), None),
                ]
            })
        },
        "they are for no machine",
        TREE,
    ),
    Case::refused(
        "index-empty",
        "no entries",
        || index(|_| Vec::new()),
        "its index is refused: the image has no variant for linux/",
    ),
    Case::refused(
        "index-other-machine",
        "nothing for this machine",
        || {
            index(|manifest| {
                vec![
                    manifest.entry("linux", "s390x", None),
                    manifest.entry("windows", native(), None),
                ]
            })
        },
        "it has: linux/s390x, windows/",
    ),
    Case::refused(
        "index-only-variant",
        "only an entry for newer processors",
        || index(|manifest| vec![manifest.entry("linux", native(), Some("v9"))]),
        "its index is refused: the image has no variant for linux/",
    ),
    Case::refused(
        "index-hostile-platform",
        "a platform with escape sequences",
        || index(|manifest| vec![manifest.entry("\u{1b}[2J", "\u{7}", None)]),
        "it has: \\x1b[2J/\\x07",
    ),
    Case::refused(
        "index-nested",
        "an index in an index",
        || {
            let inner = index(|manifest| vec![manifest.entry("linux", native(), None)]);
            inner.under_index(|inner| vec![inner.entry("linux", native(), None)])
        },
        "is not an image manifest; nested indexes are not supported",
    ),
    Case::refused(
        "index-nested-200",
        "indexes in indexes, 200 deep",
        || {
            (0..200).fold(plain(), |image, _| {
                image.under_index(|inner| vec![inner.entry("linux", native(), None)])
            })
        },
        "is not an image manifest; nested indexes are not supported",
    ),
    Case::refused(
        "index-lying-type",
        "an index, announced as manifest",
        || {
            let inner = index(|manifest| vec![manifest.entry("linux", native(), None)]);
            inner.under_index(|inner| {
                let mut entry = inner.entry("linux", native(), None);
                entry["mediaType"] = crate::build::OCI_MANIFEST.into();
                vec![entry]
            })
        },
        "is not an image manifest; nested indexes are not supported",
    ),
    Case::refused(
        "index-self",
        "an index that is served as its own entry",
        || {
            let entry = json!({
                "mediaType": OCI_INDEX, "digest": ImageDigest::of(b"self").to_string(), "size": 300,
                "platform": { "os": "linux", "architecture": native() },
            });
            let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] })
                .to_string();
            let mut image = plain().with_raw_manifest(OCI_INDEX, index.into_bytes());
            let mut served = image.documents[0].clone();
            served.served_as = Some(ImageDigest::of(b"self"));
            image.documents.insert(0, served);
            image
        },
        "is not an image manifest; nested indexes are not supported",
    ),
    Case::refused(
        "index-wrong-content",
        "an entry with the digest of something else",
        || {
            let mut image = plain();
            let served = ImageDigest::of(b"other");
            image.documents[0].served_as = Some(served);
            image.under_index(|manifest| vec![manifest.entry("linux", native(), None)])
        },
        "manifest of",
    ),
    Case::refused(
        "index-wrong-size",
        "an entry with another size than its manifest",
        || entry(|entry| entry["size"] = 10.into()),
        "its descriptor says 10",
    ),
    Case::refused(
        "index-huge-manifest",
        "an entry of 1 TiB",
        || entry(|entry| entry["size"] = (1_u64 << 40).into()),
        "has 1099511627776 bytes, more than the 4194304 that are accepted",
    ),
    Case::refused(
        "index-wrong-digest",
        "an entry by MD5",
        || entry(|entry| entry["digest"] = "md5:d41d8cd98f00b204e9800998ecf8427e".into()),
        "its manifest is refused: a descriptor has an unusable digest",
    ),
    Case::refused(
        "index-lying-machine",
        "an entry that says it is for this machine, a configuration that says otherwise",
        || {
            let image = plain().with_config(|config| config["architecture"] = "s390x".into());
            image.under_index(|manifest| vec![manifest.entry("linux", native(), None)])
        },
        "its configuration is refused: the image is built for linux/s390x, not for linux/",
    ),
    Case::refused(
        "index-many",
        "2 000 entries",
        || index(|manifest| vec![manifest.entry("linux", native(), None); 2000]),
        "2000 index entries are more than the 1024 that are accepted",
    ),
    Case::refused(
        "index-duplicate-key",
        "`manifests` twice",
        || {
            let image = entry(|_| {});
            let text = String::from_utf8(image.documents.last().unwrap().bytes.clone()).unwrap();
            plain().with_raw_manifest(
                OCI_INDEX,
                text.replacen("\"manifests\":", "\"manifests\":[],\"manifests\":", 1)
                    .into_bytes(),
            )
        },
        "its manifest is refused: the document is not valid JSON of the documented form",
    ),
];
