//! Archives that two readers could understand in two ways.

use crate::build::Hostile;
use crate::case::Case;
use crate::cases::names::gnu_long;
use crate::test_archive::{TestArchive, TestEntry as E, pax_record};

#[test]
fn readers() {
    crate::judge::judge(CASES);
}

/// An archive with one entry, as the content of a file of another.
fn hidden() -> Vec<u8> {
    let mut archive = TestArchive::default();
    archive.push(E::file("hidden", "hidden"));
    let mut bytes = archive.finish();
    bytes.truncate(1024);
    bytes
}

fn two_names() -> [E; 2] {
    // The pax header comes with the entry, so it stands behind the long name.
    [
        gnu_long(b'L', "long"),
        E::file("header", "x").pax("path", "pax"),
    ]
}

fn zero_block_inside() -> Vec<u8> {
    let mut archive = TestArchive::of([E::file("a", "")]);
    archive.truncate(512);
    archive.extend([0; 512]);
    archive.extend(TestArchive::of([E::file("b", "")]));
    archive
}

pub(super) const CASES: &[Case] = &[
    Case::accepted(
        "read-pax-size-larger",
        "pax size 1024, header size 0: the content is an archive",
        || {
            Hostile::of([
                E::file("f", hidden()).size(0).pax("size", "1024"),
                E::file("g", "y"),
            ])
        },
        "the pax size counts, so what is inside the content is content",
        &["f 644 #1024:7d8f7b0f", "g 644 \"y\""],
    ),
    Case::accepted(
        "read-pax-size-smaller",
        "pax size 0, header size 1024: an entry is where the content would be",
        || {
            Hostile::of([
                E::new(b'0', "f").size(1024).pax("size", "0"),
                E::file("g", "y"),
                E::file("h", "z"),
            ])
        },
        "the pax size counts",
        &["f 644 \"\"", "g 644 \"y\"", "h 644 \"z\""],
    ),
    Case::refused(
        "read-pax-size-cut",
        "a pax size larger than the archive",
        || Hostile::of([E::file("f", "x").pax("size", "1000000")]),
        "entry `f` cannot be copied into the image file",
    ),
    Case::refused(
        "read-pax-size-negative",
        "a negative pax size",
        || Hostile::of([E::file("f", "x").pax("size", "-1")]),
        "the metadata of an entry is not usable: a pax size out of range",
    ),
    Case::refused(
        "read-pax-size-huge",
        "a pax size of 2^64 + 1",
        || Hostile::of([E::file("f", "x").pax("size", "18446744073709551617")]),
        "the metadata of an entry is not usable: a pax size out of range",
    ),
    Case::accepted(
        "read-size-of-link",
        "a symlink, a hard link and a directory with a size, followed by the next entry at once",
        || {
            Hostile::of([
                E::file("f", "x"),
                E::symlink("s", "f").size(512),
                E::hard_link("h", "f").size(512),
                E::directory("d").size(512),
                E::file("g", "y"),
            ])
        },
        "only files have content",
        &[
            "d/ 755",
            "f 644 \"x\"",
            "g 644 \"y\"",
            "h 644 \"x\" =f",
            "s -> f",
        ],
    ),
    Case::accepted(
        "read-pax-path",
        "pax path and header name differ",
        || Hostile::of([E::file("header", "x").pax("path", "pax")]),
        "the pax path counts",
        &["pax 644 \"x\""],
    ),
    Case::accepted(
        "read-pax-path-taken-back",
        "an empty pax path",
        || Hostile::of([E::file("header", "x").pax("path", "")]),
        "the header's name counts",
        &["header 644 \"x\""],
    ),
    Case::accepted(
        "read-pax-path-twice",
        "two paths in one pax header",
        || {
            Hostile::of([E::file("header", "x")
                .pax("path", "first")
                .pax("path", "last")])
        },
        "the last record counts",
        &["last 644 \"x\""],
    ),
    Case::refused(
        "read-two-names",
        "a GNU long name and a pax path for one entry",
        || Hostile::of(two_names()),
        "the metadata of an entry is not usable: two headers that name one entry",
    ),
    Case::refused(
        "read-two-pax-headers",
        "two pax headers for one entry, of which some readers take the last only",
        || {
            let first = E::file("pax", pax_record(b"path", b"first")).raw(156, b"x");
            Hostile::of([first, E::file("header", "x").pax("mtime", "5")])
        },
        "the metadata of an entry is not usable: two headers that name one entry",
    ),
    Case::refused(
        "read-global-path",
        "a global pax header that gives all entries one path",
        || {
            Hostile::of([
                E::file("pax", pax_record(b"path", b"etc/passwd")).raw(156, b"g"),
                E::file("f", "x"),
            ])
        },
        "the metadata of an entry is not usable: a global pax header that overrides entries",
    ),
    Case::refused(
        "read-global-size",
        "a global pax header with a size",
        || {
            Hostile::of([
                E::file("pax", pax_record(b"size", b"0")).raw(156, b"g"),
                E::file("f", "x"),
            ])
        },
        "the metadata of an entry is not usable: a global pax header that overrides entries",
    ),
    Case::accepted(
        "read-global-comment",
        "a global pax header with a comment, as `git archive` makes it",
        || {
            Hostile::of([
                E::file("pax", pax_record(b"comment", b"0123abcd")).raw(156, b"g"),
                E::file("f", "x"),
            ])
        },
        "it says nothing about entries",
        &["f 644 \"x\""],
    )
    .unlike_umoci("refuses it"),
    Case::refused(
        "read-global-many",
        "global pax headers without end",
        || {
            let comment = pax_record(b"comment", b"x");
            let headers = (0..100).map(move |_| E::file("pax", &comment).raw(156, b"g"));
            Hostile::of(headers.chain([E::file("f", "x")]))
        },
        "the metadata of an entry is not usable: too many metadata headers in a row",
    ),
    Case::accepted(
        "read-unknown-records",
        "pax records nobody knows",
        || {
            Hostile::of([E::file("f", "x")
                .pax("VENDOR.thing", "1")
                .pax("hdrcharset", "BINARY")
                .pax("LIBARCHIVE.xattr.user.a", "eA==")])
        },
        "they are passed over, as POSIX wants",
        &["f 644 \"x\""],
    ),
    Case::refused(
        "read-record-length",
        "a pax record longer than its header",
        || {
            Hostile::of([
                E::file("pax", "99 path=x\n").raw(156, b"x"),
                E::file("f", "x"),
            ])
        },
        "the metadata of an entry is not usable: a malformed pax record",
    ),
    Case::refused(
        "read-record-hidden",
        "an empty line in front of a pax record, where some readers stop",
        || {
            Hostile::of([
                E::file("pax", "\n9 path=a\n").raw(156, b"x"),
                E::file("f", "x"),
            ])
        },
        "the metadata of an entry is not usable: a malformed pax record",
    ),
    Case::refused(
        "read-pax-alone",
        "a pax header without an entry",
        || Hostile::of([E::file("pax", pax_record(b"path", b"x")).raw(156, b"x")]),
        "the layer's archive is unusable after entry `(none)`: the archive ends in the middle of an entry",
    ),
    Case::refused(
        "read-checksum",
        "a header with a wrong checksum",
        || {
            let mut archive = TestArchive::of([E::file("a", "x"), E::file("b", "y")]);
            archive[1024] = b'c';
            Hostile::archive(archive)
        },
        "the layer's archive is unusable after entry `a`: no valid header where entry `c` should begin: wrong checksum",
    ),
    Case::refused(
        "read-zero-block",
        "one zero block between entries: for some the end, for some not",
        || Hostile::archive(zero_block_inside()),
        "the layer's archive is unusable after entry `a`: no valid header where entry `` should begin: a single zero block in the middle of the archive",
    ),
    Case::accepted(
        "read-after-end",
        "entries after the end of the archive",
        || {
            Hostile::archive(
                [
                    TestArchive::of([E::file("a", "x")]),
                    TestArchive::of([E::file("b", "y")]),
                ]
                .concat(),
            )
        },
        "the end is the end",
        &["a 644 \"x\""],
    ),
    Case::accepted(
        "read-no-end",
        "an archive without its two zero blocks",
        || {
            let mut archive = TestArchive::of([E::file("a", "x")]);
            archive.truncate(1024);
            Hostile::archive(archive)
        },
        "the digests say that it is whole",
        &["a 644 \"x\""],
    ),
    Case::accepted(
        "read-old-header",
        "a header from before POSIX",
        || Hostile::of([E::file("f", "x").raw(257, &[0; 8])]),
        "read as such",
        &["f 644 \"x\""],
    ),
    Case::accepted(
        "read-prefix",
        "the prefix field of POSIX, and the same bytes in a GNU header",
        || {
            Hostile::of([
                E::file("f", "x").raw(345, b"posix"),
                E::file("g", "y").raw(257, b"ustar  \0"),
            ])
        },
        "a prefix where the format has one",
        &["g 644 \"y\"", "posix/ 755", "posix/f 644 \"x\""],
    ),
    Case::accepted(
        "read-base-256",
        "size and owner in base 256",
        || {
            let entry = E::file("f", "x").raw(257, b"ustar  \0");
            Hostile::of([entry
                .raw(124, b"\x80\0\0\0\0\0\0\0\0\0\0\x01")
                .raw(108, b"\x80\0\0\0\0\x98\x96\x80")])
        },
        "as GNU writes large numbers",
        &["f 644 \"x\" 10000000:0"],
    ),
    Case::refused(
        "read-base-256-negative",
        "a size of -1 in base 256",
        || {
            Hostile::of([E::file("f", "x")
                .raw(257, b"ustar  \0")
                .raw(124, &[0xff; 12])])
        },
        "no valid header where entry `f` should begin: size out of range",
    ),
    Case::refused(
        "read-base-256-96-bits",
        "a size of 2^64 in base 256, of which some readers see 0",
        || {
            Hostile::of([E::file("f", "x")
                .raw(257, b"ustar  \0")
                .raw(124, b"\x80\0\0\x01\0\0\0\0\0\0\0\0")])
        },
        "no valid header where entry `f` should begin: size out of range",
    ),
    Case::refused(
        "read-octal",
        "a size that is not octal all through",
        || Hostile::of([E::file("f", "x").raw(124, b"0000000001x\0")]),
        "no valid header where entry `f` should begin: size out of range",
    ),
    Case::accepted(
        "read-contiguous",
        "the type of contiguous files",
        || Hostile::of([E::file("f", "x").raw(156, b"7")]),
        "a file, as POSIX says",
        &["f 644 \"x\""],
    )
    .unlike_umoci("refuses it"),
    Case::refused(
        "read-unknown-type",
        "an entry type nobody knows",
        || Hostile::of([E::file("f", "x").raw(156, b"Z")]),
        "no valid header where entry `f` should begin: unknown entry type",
    ),
    Case::refused(
        "read-volume",
        "a GNU multi-volume continuation",
        || Hostile::of([E::file("f", "x").raw(156, b"M").raw(257, b"ustar  \0")]),
        "no valid header where entry `f` should begin: unknown entry type",
    ),
];
