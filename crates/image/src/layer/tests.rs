use std::io::Write as _;

use bytes::Bytes;

use super::*;
use crate::manifest::Compression;
use crate::test_archive::{TestArchive, TestEntry as E};

/// Converts `blob`, announced as what it is unless `claimed` says otherwise.
fn made(blob: &[u8], compression: Compression, archive: &[u8]) -> Result<Vec<u8>, LayerError> {
    let described = Blob {
        digest: ImageDigest::of(blob),
        size: blob.len() as u64,
    };
    made_as(
        blob,
        LayerBlob {
            blob: described,
            compression,
        },
        ImageDigest::of(archive),
    )
}

fn made_as(blob: &[u8], layer: LayerBlob, diff_id: ImageDigest) -> Result<Vec<u8>, LayerError> {
    let (sender, source) = channel(layer.blob);
    let bytes = Bytes::copy_from_slice(blob);
    let feed = std::thread::spawn(move || {
        for at in (0..bytes.len()).step_by(1000) {
            let chunk = bytes.slice(at..bytes.len().min(at + 1000));
            if sender.blocking_send(vec![chunk]).is_err() {
                return;
            }
        }
    });
    let file = tempfile::tempfile().unwrap();
    let stream = Stream {
        source,
        layer,
        diff_id,
        memory: MemoryBudget::new(),
        limits: Limits::default(),
        journal: Journal::in_memory(),
    };
    let result = transform(stream, DirectFile::new(&file)).map(drop);
    feed.join().unwrap();
    result.map(|()| {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
        bytes
    })
}

fn archive() -> Vec<u8> {
    let body: Vec<u8> = (0..200_000_u32)
        .flat_map(|number| (number / 7).to_le_bytes())
        .collect();
    TestArchive::of([E::file("a", body), E::symlink("b", "a")])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_compression_makes_the_same_image() {
    let archive = archive();
    let plain = made(&archive, Compression::None, &archive).unwrap();
    assert_eq!(
        made(&gzip(&archive), Compression::Gzip, &archive).unwrap(),
        plain
    );
    let zstd = zstd::bulk::compress(&archive, 3).unwrap();
    assert_eq!(made(&zstd, Compression::Zstd, &archive).unwrap(), plain);
}

#[test]
fn members_and_frames_are_all_read() {
    let archive = archive();
    let (first, second) = archive.split_at(100_000);
    let members = [gzip(first), gzip(b""), gzip(second)].concat();
    assert!(made(&members, Compression::Gzip, &archive).is_ok());
    let skippable = b"\x50\x2a\x4d\x18\x04\0\0\0skip";
    let frame = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
    let frames = [&frame(first)[..], skippable, &frame(second), skippable].concat();
    assert!(made(&frames, Compression::Zstd, &archive).is_ok());
}

#[test]
fn what_follows_the_archive_counts_for_the_diff_id() {
    let archive = [archive(), b"trailing bytes".to_vec()].concat();
    assert!(made(&gzip(&archive), Compression::Gzip, &archive).is_ok());
    let error = made(
        &gzip(&archive),
        Compression::Gzip,
        &archive[..archive.len() - 1],
    )
    .unwrap_err();
    assert!(matches!(error, LayerError::DiffId { .. }), "{error:?}");
}

#[test]
fn damaged_compression_is_refused() {
    let archive = archive();
    let (gz, zst) = (gzip(&archive), zstd::bulk::compress(&archive, 3).unwrap());
    for (name, blob, compression) in [
        ("cut gzip", gz[..gz.len() - 9].to_vec(), Compression::Gzip),
        (
            "gzip with garbage",
            [&gz[..], b"garbage"].concat(),
            Compression::Gzip,
        ),
        ("gzip as zstd", gz.clone(), Compression::Zstd),
        ("zstd as gzip", zst.clone(), Compression::Gzip),
        ("cut zstd", zst[..zst.len() - 3].to_vec(), Compression::Zstd),
        (
            "zstd with garbage",
            [&zst[..], b"garbage"].concat(),
            Compression::Zstd,
        ),
        ("nothing", Vec::new(), Compression::Zstd),
    ] {
        let result = made(&blob, compression, &archive);
        assert!(result.is_err(), "{name} was accepted");
    }
    let mut checksum = gz.clone();
    let last = checksum.len() - 8;
    checksum[last] ^= 1;
    assert!(matches!(
        made(&checksum, Compression::Gzip, &archive),
        Err(LayerError::Decode {
            compression: "gzip",
            ..
        })
    ));
}

#[test]
fn an_overlarge_zstd_window_is_refused_with_what_to_do() {
    // Frame headers that ask for windows of 2 GiB and just over 64 MiB, and one raw block; in front of it a harmless frame.
    let harmless = zstd::bulk::compress(&archive(), 1).unwrap();
    for (window, said) in [
        (21 << 3, "its window is 2048 MiB, at most 64 MiB"),
        (16 << 3 | 1, "its window is 72 MiB"),
    ] {
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0x00, window];
        let frame = [&header[..], &[1 | 5 << 3, 0, 0], b"hello"].concat();
        for blob in [frame.clone(), [harmless.clone(), frame].concat()] {
            match made(&blob, Compression::Zstd, b"hello") {
                Err(LayerError::Decode { source, .. }) => {
                    assert!(source.to_string().contains(said), "{source}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_window_of_the_largest_size_is_read() {
    let archive = archive();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(26).unwrap();
    encoder.write_all(&archive).unwrap();
    assert!(made(&encoder.finish().unwrap(), Compression::Zstd, &archive).is_ok());
}

#[test]
fn a_tree_that_needs_more_than_was_expected_gets_all_the_memory() {
    let deep = (0..100).map(|number| E::file(format!("{number}/{}f", "d/".repeat(200)), ""));
    let archive = TestArchive::of(deep);
    let (limits, mut journal) = (Limits::new(30_000, 0), Journal::in_memory());
    let mut data = DataWriter::new(Memory::default());
    let mut reader = Archive::new(archive.as_slice());
    convert::read(&mut reader, &mut data, &limits, &mut journal).unwrap();
    let (tree, share) = make_tree(&mut journal, &limits, &MemoryBudget::new()).unwrap();
    assert_eq!(tree.node_count(), 100 * 202 + 1);
    assert_eq!(share.bytes(), MEMORY_BUDGET);
    let left = limits.entries.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(left, 30_000 - 100 * 202, "directories are counted once");
    let error = convert::tree(&mut journal, &limits, 100_000).unwrap_err();
    let said = "than 72 MiB of memory have room for, from entry `";
    assert!(error.to_string().contains(said), "{error}");
    assert_eq!(
        left,
        limits.entries.load(std::sync::atomic::Ordering::Relaxed)
    );
}

#[test]
fn a_stream_that_ends_early_is_no_layer() {
    let archive = archive();
    let announced = Blob {
        digest: ImageDigest::of(&archive),
        size: archive.len() as u64,
    };
    let layer = LayerBlob {
        blob: announced,
        compression: Compression::None,
    };
    // Up to a block boundary the archive itself would look whole.
    let error = made_as(
        &archive[..archive.len() - 1024],
        layer,
        ImageDigest::of(&archive),
    )
    .unwrap_err();
    assert!(matches!(error, LayerError::Decode { .. }), "{error:?}");
}

#[test]
fn fuzz_corpus_of_hand_made_inputs_does_not_panic() {
    let archive = archive();
    for cut in [0, 1, 511, 512, 513, 1024, archive.len() - 1] {
        fuzz_tar(&archive[..cut]);
    }
    for byte in [0, 1, 0x20, 0x7f, 0x80, 0xff] {
        fuzz_tar(&[byte; 4096]);
    }
    crate::manifest::fuzz_manifest(b"{}");
    crate::manifest::fuzz_manifest(&[b'['; 100_000]);
}
