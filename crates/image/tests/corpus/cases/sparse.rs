//! Sparse files in the three forms GNU tar writes and the one before them.

use crate::build::Hostile;
use crate::case::Case;
use crate::test_archive::TestEntry as E;

#[test]
fn sparse() {
    crate::judge::judge(CASES);
}

/// What GNU tar itself writes, in every form it knows.
#[test]
fn gnu_tar_and_we_agree_about_every_form() {
    let directory = tempfile::tempdir().unwrap();
    let file = fs_err::File::create(directory.path().join("f")).unwrap();
    for number in 0..40_u64 {
        std::os::unix::fs::FileExt::write_all_at(file.file(), &[b'a'; 4096], number * 16_384)
            .unwrap();
    }
    file.set_len(40 * 16_384).unwrap();
    let registry = agent_vm_test_support::registry::Registry::start().unwrap();
    for form in [
        &["--format=gnu"][..],
        &["--format=oldgnu"],
        &["--sparse-version=0.0"],
        &["--sparse-version=0.1"],
        &["--sparse-version=1.0"],
    ] {
        let mut tar = std::process::Command::new("tar");
        tar.args([
            "--create",
            "--sparse",
            "--mtime=@5",
            "--owner=0",
            "--group=0",
            "--mode=644",
        ])
        .args(form);
        if form[0].starts_with("--sparse") {
            tar.args(["--format=posix", "--pax-option=delete=atime,delete=ctime"]);
        }
        let output = tar
            .arg("--directory")
            .arg(directory.path())
            .arg("f")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.len() < 400_000, "{form:?} is not sparse");
        let shown =
            crate::judge::shown(&registry, "gnu-tar", &Hostile::archive(output.stdout)).unwrap();
        assert_eq!(shown, ["f 644 #655360:de6f3da3 @5"], "{form:?}");
    }
}

/// An old GNU sparse file: up to four segments in the header.
fn old(name: &str, segments: &[(u64, u64)], real_size: u64, body: &[u8]) -> E {
    let mut entry = E::file(name, body).raw(156, b"S").raw(257, b"ustar  \0");
    for (number, (offset, length)) in segments.iter().enumerate() {
        entry = entry.raw(
            386 + 24 * number,
            format!("{offset:011o}\0{length:011o}\0").as_bytes(),
        );
    }
    entry.raw(483, format!("{real_size:011o}\0").as_bytes())
}

/// pax form 1.0: the map begins the content.
fn pax_1_0(name: &str, map: &str, real_size: u64, data: &[u8]) -> E {
    let mut body = map.as_bytes().to_vec();
    body.resize(body.len().next_multiple_of(512), 0);
    body.extend(data);
    E::file("GNUSparseFile.0/x", body)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", name)
        .pax("GNU.sparse.realsize", real_size.to_string())
}

fn pax_0_1(name: &str, map: &str, real_size: u64, data: &[u8]) -> E {
    E::file("GNUSparseFile.0/x", data)
        .pax("GNU.sparse.size", real_size.to_string())
        .pax(
            "GNU.sparse.numblocks",
            (map.split(',').count() / 2).to_string(),
        )
        .pax("GNU.sparse.name", name)
        .pax("GNU.sparse.map", map)
}

/// The old form with 30 segments: four in the header, the rest in two blocks behind it.
fn continued() -> E {
    let mut blocks = Vec::new();
    for block in 0..2_u64 {
        let from = 4 + 21 * block;
        let segments =
            (from..30.min(from + 21)).map(|number| format!("{:011o}\0{:011o}\0", number * 512, 1));
        let mut bytes = segments.collect::<String>().into_bytes();
        bytes.resize(504, 0);
        bytes.push(u8::from(block == 0));
        bytes.resize(512, 0);
        blocks.extend(bytes);
    }
    let head: Vec<_> = (0..4).map(|number| (number * 512, 1)).collect();
    let body = [blocks, vec![b'x'; 30]].concat();
    old("f", &head, 30 * 512, &body)
        .raw(124, b"00000000036\0")
        .raw(482, &[1])
}

const CONTRADICTS: &str =
    "the metadata of an entry is not usable: a sparse map that contradicts its file";

pub(super) const CASES: &[Case] = &[
    Case::accepted(
        "sparse-old",
        "the old GNU form",
        || {
            Hostile::of([
                old("f", &[(3, 2), (10, 3)], 16, b"abxyz"),
                E::file("g", "y"),
            ])
        },
        "the holes are zeros",
        &[
            "f 644 \"\\x00\\x00\\x00ab\\x00\\x00\\x00\\x00\\x00xyz\\x00\\x00\\x00\"",
            "g 644 \"y\"",
        ],
    )
    .unlike_umoci("refuses it"),
    Case::accepted(
        "sparse-old-continued",
        "the old GNU form with 30 segments",
        || Hostile::of([continued(), E::file("g", "y")]),
        "the holes are zeros",
        &["f 644 #15360:3270afca", "g 644 \"y\""],
    )
    .unlike_umoci("refuses it"),
    Case::accepted(
        "sparse-0.0",
        "pax form 0.0",
        || {
            let entry = E::file("f", "abxyz")
                .pax("GNU.sparse.size", "16")
                .pax("GNU.sparse.numblocks", "2");
            let entry = entry
                .pax("GNU.sparse.offset", "3")
                .pax("GNU.sparse.numbytes", "2");
            Hostile::of([
                entry
                    .pax("GNU.sparse.offset", "10")
                    .pax("GNU.sparse.numbytes", "3"),
                E::file("g", "y"),
            ])
        },
        "the holes are zeros",
        &[
            "f 644 \"\\x00\\x00\\x00ab\\x00\\x00\\x00\\x00\\x00xyz\\x00\\x00\\x00\"",
            "g 644 \"y\"",
        ],
    ),
    Case::accepted(
        "sparse-0.1",
        "pax form 0.1",
        || Hostile::of([pax_0_1("f", "3,2,10,3", 16, b"abxyz"), E::file("g", "y")]),
        "the holes are zeros, the name is the one in the map",
        &[
            "f 644 \"\\x00\\x00\\x00ab\\x00\\x00\\x00\\x00\\x00xyz\\x00\\x00\\x00\"",
            "g 644 \"y\"",
        ],
    ),
    Case::accepted(
        "sparse-1.0",
        "pax form 1.0",
        || {
            Hostile::of([
                pax_1_0("f", "2\n3\n2\n10\n3\n", 16, b"abxyz"),
                E::file("g", "y"),
            ])
        },
        "the holes are zeros, the name is the one in the map",
        &[
            "f 644 \"\\x00\\x00\\x00ab\\x00\\x00\\x00\\x00\\x00xyz\\x00\\x00\\x00\"",
            "g 644 \"y\"",
        ],
    ),
    Case::accepted(
        "sparse-all-hole",
        "200 MiB of nothing",
        || Hostile::of([pax_1_0("f", "0\n", 200 << 20, b"")]),
        "a file of that size that takes no space here",
        &["f 644 #209715200"],
    ),
    Case::refused(
        "sparse-name-up",
        "a name in the map that leads out",
        || Hostile::of([pax_1_0("../canary", "0\n", 5, b"")]),
        "entry `../canary` cannot be used: its name goes up with `..`",
    ),
    Case::refused(
        "sparse-1t",
        "1 TiB of nothing",
        || Hostile::of([pax_1_0("f", "0\n", 1 << 40, b"")]),
        "the layer has too much of something at entry `f`: bytes in files",
    ),
    Case::refused(
        "sparse-1t-old",
        "1 TiB of nothing in the old form",
        || Hostile::of([old("f", &[], 0, b"").raw(483, b"\x80\0\0\0\0\0\x01\0\0\0\0\0")]),
        "the layer has too much of something at entry `f`: bytes in files",
    ),
    Case::refused(
        "sparse-sum",
        "3 files of 6 GiB of nothing",
        || Hostile::of(["a", "b", "c"].map(|name| pax_1_0(name, "0\n", 6 << 30, b""))),
        "the layer has too much of something at entry `c`: bytes in files",
    ),
    Case::refused(
        "sparse-overlap",
        "segments that overlap",
        || Hostile::of([pax_0_1("f", "0,3,2,3", 16, b"abcdef")]),
        CONTRADICTS,
    ),
    Case::refused(
        "sparse-order",
        "segments out of order",
        || Hostile::of([pax_0_1("f", "8,3,0,3", 16, b"abcdef")]),
        CONTRADICTS,
    ),
    Case::refused(
        "sparse-beyond",
        "a segment beyond the end of the file",
        || Hostile::of([pax_1_0("f", "1\n14\n3\n", 16, b"abc")]),
        CONTRADICTS,
    ),
    Case::refused(
        "sparse-overflow",
        "a segment that ends after 2^64",
        || {
            Hostile::of([pax_0_1(
                "f",
                "1152921504606846976,1152921504606846976",
                16,
                b"a",
            )])
        },
        CONTRADICTS,
    ),
    Case::refused(
        "sparse-less",
        "segments with fewer bytes than the archive has",
        || Hostile::of([pax_0_1("f", "0,2", 16, b"abc")]),
        CONTRADICTS,
    ),
    Case::refused(
        "sparse-more",
        "segments with more bytes than the archive has",
        || Hostile::of([old("f", &[(0, 600)], 600, b"abc")]),
        CONTRADICTS,
    ),
    Case::refused(
        "sparse-many",
        "a map of 2^32 segments",
        || Hostile::of([pax_1_0("f", "4294967296\n", 16, b"")]),
        "the metadata of an entry is not usable: too many sparse segments",
    ),
    Case::refused(
        "sparse-endless",
        "a map without end",
        || Hostile::of([pax_1_0("f", &"1".repeat(100_000), 16, b"")]),
        "the metadata of an entry is not usable: a malformed sparse map",
    ),
    Case::refused(
        "sparse-odd",
        "a map with an offset too many",
        || Hostile::of([pax_0_1("f", "0,1,2", 16, b"a")]),
        "the metadata of an entry is not usable: a malformed sparse map",
    ),
    Case::refused(
        "sparse-negative",
        "a negative offset",
        || Hostile::of([pax_0_1("f", "-1,1", 16, b"a")]),
        "the metadata of an entry is not usable: a malformed sparse map",
    ),
    Case::refused(
        "sparse-no-size",
        "a map without the size of the file",
        || Hostile::of([E::file("f", "a").pax("GNU.sparse.map", "0,1")]),
        "the metadata of an entry is not usable: a sparse file without its size",
    ),
    Case::refused(
        "sparse-version",
        "form 2.0",
        || {
            Hostile::of([E::file("f", "a")
                .pax("GNU.sparse.major", "2")
                .pax("GNU.sparse.minor", "0")
                .pax("GNU.sparse.realsize", "1")])
        },
        "the metadata of an entry is not usable: an unknown sparse version",
    ),
    Case::refused(
        "sparse-star",
        "the sparse type without a GNU header",
        || Hostile::of([E::file("f", "a").raw(156, b"S")]),
        "no valid header where entry `f` should begin: a sparse file without a GNU header",
    ),
];
