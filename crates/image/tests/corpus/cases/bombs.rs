//! Small downloads that want to become large, in disk, memory or time.

use crate::build::{Hostile, Layer, OCI_GZIP, OCI_ZSTD, gzip, plain_layer};
use crate::case::Case;
use crate::test_archive::{TestArchive, TestEntry as E};

#[test]
fn bombs() {
    crate::judge::judge(CASES);
}

const MIB: usize = 1 << 20;

/// A header that announces `size` bytes of content; nothing else.
fn announced(size: u64) -> Vec<u8> {
    let mut archive = TestArchive::of([E::new(b'0', "bomb").size(size)]);
    archive.truncate(512);
    archive
}

/// `front`, then `mebibytes` of zeros, gzip-compressed member by member. The diff id is not that of the content: no case gets so far.
fn gzip_zeros(front: &[u8], mebibytes: usize) -> Layer {
    let zeros = gzip(&vec![0; 64 * MIB]);
    let blob = [gzip(front), zeros.repeat(mebibytes / 64)].concat();
    Layer::compressed(OCI_GZIP, blob, b"")
}

/// The same in zstd, in blocks of one repeated byte (RFC 8878, RLE blocks of 128 KiB).
fn zstd_zeros(front: &[u8], mebibytes: usize) -> Layer {
    let magic_and_window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3];
    let block = |last: u32| [&((128 << 10) << 3 | 1 << 1 | last).to_le_bytes()[..3], &[0]].concat();
    let blocks = [block(0).repeat(mebibytes * 8 - 1), block(1)].concat();
    let blob = [
        &zstd::bulk::compress(front, 1).unwrap()[..],
        &magic_and_window,
        &blocks,
    ]
    .concat();
    Layer::compressed(OCI_ZSTD, blob, b"")
}

/// A zstd frame that asks for a window of 2^`log` bytes, with one raw block.
fn zstd_window(log: u8) -> Hostile {
    let archive = TestArchive::of([E::file("f", "x")]);
    let length = u32::try_from(archive.len()).unwrap();
    let head = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3];
    let frame = [&head[..], &(length << 3 | 1).to_le_bytes()[..3], &archive].concat();
    Hostile::new(vec![Layer::compressed(OCI_ZSTD, frame, &archive)])
}

/// 10 000 entries again and again, gzip member by gzip member.
fn many_entries(times: usize) -> Hostile {
    let mut archive = TestArchive::of((0..10_000).map(|number| E::file(format!("f{number}"), "")));
    archive.truncate(10_000 * 512);
    Hostile::new(vec![Layer::compressed(
        OCI_GZIP,
        gzip(&archive).repeat(times),
        b"",
    )])
}

fn many_layers(count: usize) -> Hostile {
    Hostile::new(vec![plain_layer(); count])
}

pub(super) const CASES: &[Case] = &[
    Case::refused(
        "bomb-gzip-64g",
        "a file of 64 GiB of zeros in 64 MiB of gzip",
        || Hostile::new(vec![gzip_zeros(&announced(64 << 30), 64 << 10)]),
        "the layer has too much of something at entry `bomb`: bytes in files",
    ),
    Case::refused(
        "bomb-zstd-1t",
        "a file of 1 TiB of zeros in 32 MiB of zstd",
        || Hostile::new(vec![zstd_zeros(&announced(1 << 40), 1 << 20)]),
        "the layer has too much of something at entry `bomb`: bytes in files",
    ),
    Case::refused(
        "bomb-after-end",
        "64 GiB of zeros after the end of the archive",
        || {
            Hostile::new(vec![gzip_zeros(
                &TestArchive::of([E::file("f", "x")]),
                64 << 10,
            )])
        },
        "more bytes after the end of the archive than",
    ),
    Case::refused(
        "bomb-entries-2m",
        "2 000 000 entries in 5 MB",
        || many_entries(200),
        "the layer has too much of something at entry `f8576`: entries",
    ),
    Case::refused(
        "bomb-implied",
        "few entries that imply many directories",
        || {
            Hostile::of(
                (0..4400).map(|number| E::file(format!("{number}/{}f", "d/".repeat(250)), "")),
            )
        },
        "the layer has too much of something at entry",
    ),
    Case::refused(
        "bomb-names",
        "200 000 files with names of 255 bytes in all, no two with a part in common",
        || {
            let names = (0..200_000).map(|number| {
                let prefix = format!("{number:0>154}");
                E::file(format!("{number:0>100}"), "").raw(345, prefix.as_bytes())
            });
            Hostile::new(vec![Layer::gzip(&TestArchive::of(names))])
        },
        "names or extended attributes",
    ),
    Case::refused(
        "bomb-zstd-window-2g",
        "a zstd window of 2 GiB",
        || zstd_window(31),
        "its zstd compression cannot be read",
    ),
    Case::accepted(
        "bomb-zstd-window-8m",
        "a zstd window of 8 MiB",
        || zstd_window(23),
        "what every decoder must have",
        &["f 644 \"x\""],
    ),
    Case::refused(
        "bomb-layers-5000",
        "5 000 layers",
        || many_layers(5000),
        "5000 layers are more than the 127 that are accepted",
    ),
    Case::refused(
        "bomb-layers-200",
        "200 layers",
        || many_layers(200),
        "200 layers are more than the 127 that are accepted",
    ),
    Case::accepted(
        "bomb-layers-127",
        "127 layers",
        || many_layers(127),
        "as many as Docker makes",
        &["f 644 \"x\""],
    ),
];
