//! Layers that are cut, garbled, or not what the documents say.

use agent_vm_image::ImageDigest;

use crate::build::{Hostile, Layer, OCI_GZIP, OCI_TAR, OCI_ZSTD, gzip};
use crate::case::Case;
use crate::test_archive::{TestArchive, TestEntry as E};

#[test]
fn damage() {
    crate::judge::judge(CASES);
}

fn archive() -> Vec<u8> {
    TestArchive::of([E::file("f", "x"), E::file("g", vec![b'y'; 5000])])
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap()
}

/// The archive as this media type, with the compressed bytes changed.
fn changed(media_type: &'static str, blob: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Hostile {
    let mut blob = blob;
    change(&mut blob);
    Hostile::new(vec![Layer::compressed(media_type, blob, &archive())])
}

fn cut(archive_bytes: usize) -> Hostile {
    let mut archive = archive();
    archive.truncate(archive_bytes);
    Hostile::archive(archive)
}

const TREE: &[&str] = &["f 644 \"x\"", "g 644 #5000:3c45db29"];
const GZIP: &str = "its gzip compression cannot be read";
const ZSTD: &str = "its zstd compression cannot be read";

pub(super) const CASES: &[Case] = &[
    Case::refused(
        "damage-cut-header",
        "an archive that ends in a header",
        || cut(1024 + 100),
        "the layer's archive is unusable after entry `f`: the archive ends in the middle of an entry",
    ),
    Case::refused(
        "damage-cut-content",
        "an archive that ends in the content of a file",
        || cut(1024 + 512 + 4000),
        "entry `g` cannot be copied into the image file: ",
    ),
    Case::refused(
        "damage-cut-padding",
        "an archive that ends in the padding after a file",
        || cut(1024 + 512 + 5000),
        "the layer's archive is unusable after entry `g`: the archive ends in the middle of an entry",
    ),
    Case::refused(
        "damage-cut-gzip",
        "gzip that ends early",
        || {
            changed(OCI_GZIP, gzip(&archive()), |blob| {
                blob.truncate(blob.len() - 9)
            })
        },
        GZIP,
    ),
    Case::refused(
        "damage-cut-gzip-trailer",
        "gzip without its checksum",
        || {
            changed(OCI_GZIP, gzip(&archive()), |blob| {
                blob.truncate(blob.len() - 8)
            })
        },
        GZIP,
    ),
    Case::refused(
        "damage-cut-zstd",
        "zstd that ends early",
        || {
            changed(OCI_ZSTD, zstd(&archive()), |blob| {
                blob.truncate(blob.len() - 3)
            })
        },
        ZSTD,
    ),
    Case::refused(
        "damage-crc",
        "gzip with a wrong checksum",
        || {
            changed(OCI_GZIP, gzip(&archive()), |blob| {
                let at = blob.len() - 8;
                blob[at] ^= 1;
            })
        },
        GZIP,
    ),
    Case::refused(
        "damage-gzip-garbage",
        "bytes after gzip that are no member",
        || changed(OCI_GZIP, gzip(&archive()), |blob| blob.extend(b"garbage")),
        GZIP,
    ),
    Case::refused(
        "damage-zstd-garbage",
        "bytes after zstd that are no frame",
        || changed(OCI_ZSTD, zstd(&archive()), |blob| blob.extend(b"garbage")),
        ZSTD,
    ),
    Case::refused(
        "damage-gzip-as-zstd",
        "gzip, announced as zstd",
        || changed(OCI_ZSTD, gzip(&archive()), |_| {}),
        ZSTD,
    ),
    Case::refused(
        "damage-zstd-as-gzip",
        "zstd, announced as gzip",
        || changed(OCI_GZIP, zstd(&archive()), |_| {}),
        GZIP,
    ),
    Case::refused(
        "damage-gzip-as-tar",
        "gzip, announced as uncompressed",
        || changed(OCI_TAR, gzip(&archive()), |_| {}),
        "the layer's archive is unusable after entry `(none)`",
    ),
    Case::refused(
        "damage-tar-as-gzip",
        "uncompressed, announced as gzip",
        || changed(OCI_GZIP, archive(), |_| {}),
        GZIP,
    ),
    Case::refused(
        "damage-html",
        "a web page in the place of a layer",
        || Hostile::archive(b"<html>".repeat(200)),
        "no valid header where entry",
    ),
    Case::refused(
        "damage-noise",
        "noise in the place of a layer",
        || {
            Hostile::archive(
                (0..4096_u32)
                    .map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0])
                    .collect(),
            )
        },
        "no valid header where entry",
    ),
    Case::accepted(
        "damage-members",
        "gzip in several members, one of them empty, as pigz and eStargz make it",
        || {
            let archive = archive();
            let members = [gzip(&archive[..700]), gzip(b""), gzip(&archive[700..])].concat();
            changed(OCI_GZIP, members, |_| {})
        },
        "all members are one stream",
        TREE,
    ),
    Case::accepted(
        "damage-frames",
        "zstd in several frames with skippable ones between, as zstd:chunked makes it",
        || {
            let archive = archive();
            let skippable = b"\x50\x2a\x4d\x18\x04\0\0\0skip";
            let frames = [
                &zstd(&archive[..700])[..],
                skippable,
                &zstd(&archive[700..]),
                skippable,
            ]
            .concat();
            changed(OCI_ZSTD, frames, |_| {})
        },
        "all frames are one stream",
        TREE,
    ),
    Case::accepted(
        "damage-trailing",
        "bytes after the end of the archive",
        || {
            Hostile::new(vec![Layer::gzip(
                &[archive(), b"trailing".repeat(1000)].concat(),
            )])
        },
        "no part of the layer, but of its digest",
        TREE,
    ),
    Case::accepted(
        "damage-empty-archive",
        "an archive of zeros only",
        || Hostile::archive(vec![0; 10_240]),
        "a layer that changes nothing",
        &[],
    ),
    Case::accepted(
        "damage-empty-blob",
        "a layer of no bytes",
        || Hostile::archive(Vec::new()),
        "a layer that changes nothing",
        &[],
    ),
    Case::refused(
        "damage-diff-id",
        "content that is not what the configuration names",
        || {
            let other = ImageDigest::of(b"other").to_string();
            Hostile::archive(archive())
                .with_config(|config| config["rootfs"]["diff_ids"][0] = other.into())
        },
        "its uncompressed content has the digest sha256:",
    ),
    Case::refused(
        "damage-size-less",
        "a layer of more bytes than the manifest says",
        || {
            Hostile::archive(archive())
                .with_manifest(|manifest| manifest["layers"][0]["size"] = 1000.into())
        },
        "more than the 1000 bytes the manifest says",
    ),
    Case::refused(
        "damage-size-more",
        "a layer of fewer bytes than the manifest says",
        || {
            Hostile::archive(archive())
                .with_manifest(|manifest| manifest["layers"][0]["size"] = 1_000_000.into())
        },
        "the manifest says 1000000",
    ),
];
