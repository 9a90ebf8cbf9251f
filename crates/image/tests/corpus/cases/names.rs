//! Names of entries.

use crate::build::Hostile;
use crate::case::Case;
use crate::test_archive::TestEntry as E;

#[test]
fn names() {
    crate::judge::judge(CASES);
}

/// A GNU long name (`L`) or long link target (`K`) in front of the next entry.
pub(crate) fn gnu_long(kind: u8, name: impl AsRef<[u8]>) -> E {
    let name = [name.as_ref(), b"\0"].concat();
    E::file("././@LongLink", name)
        .raw(156, &[kind])
        .raw(257, b"ustar  \0")
}

pub(super) const CASES: &[Case] = &[
    Case::refused(
        "name-up",
        "`../canary`",
        || Hostile::of([E::file("../canary", "x")]),
        "entry `../canary` cannot be used: its name goes up with `..`",
    ),
    Case::refused(
        "name-up-inside",
        "`a/../../../canary`",
        || Hostile::of([E::directory("a"), E::file("a/../../../canary", "x")]),
        "entry `a/../../../canary` cannot be used: its name goes up with `..`",
    ),
    Case::refused(
        "name-up-harmless",
        "`a/../b`: readers disagree where it leads when `a` is a link",
        || Hostile::of([E::file("a/../b", "x")]),
        "entry `a/../b` cannot be used: its name goes up with `..`",
    ),
    Case::refused(
        "name-up-directory",
        "the directory `..`",
        || Hostile::of([E::directory("../")]),
        "entry `../` cannot be used: its name goes up with `..`",
    ),
    Case::accepted(
        "name-absolute",
        "`/tmp/agent-vm-corpus-escape`",
        || Hostile::of([E::file("/tmp/agent-vm-corpus-escape", "x")]),
        "all names begin at the image's root",
        &["tmp/ 755", "tmp/agent-vm-corpus-escape 644 \"x\""],
    ),
    Case::refused(
        "name-nul",
        "a NUL byte in a pax path",
        || Hostile::of([E::file("x", "").pax("path", "etc/passwd\0.txt")]),
        "the metadata of an entry is not usable: a name with a NUL byte",
    ),
    Case::refused(
        "name-nul-long",
        "a NUL byte within a GNU long name",
        || Hostile::of([gnu_long(b'L', b"etc/passwd\0.txt"), E::file("x", "")]),
        "the metadata of an entry is not usable: a name with a NUL byte",
    ),
    Case::refused(
        "name-empty",
        "a file without a name",
        || Hostile::of([E::file("", "x")]),
        "entry `` is refused: it takes the place of the root directory",
    ),
    Case::refused(
        "name-dot",
        "a file named `.`",
        || Hostile::of([E::file(".", "x")]),
        "entry `.` is refused: it takes the place of the root directory",
    ),
    Case::refused(
        "name-slash",
        "a symlink named `/`",
        || Hostile::of([E::symlink("/", "etc")]),
        "entry `/` is refused: it takes the place of the root directory",
    ),
    Case::accepted(
        "name-root",
        "`./` and `f`",
        || {
            Hostile::of([
                E::directory("./").mode(0o750).owner(7, 8).mtime(9),
                E::file("f", "x"),
            ])
        },
        "the entry is the root directory",
        &["/ 750 7:8 @9", "f 644 \"x\""],
    ),
    Case::accepted(
        "name-double-slash",
        "`a//b///c`",
        || Hostile::of([E::file("a//b///c", "x")]),
        "slashes count once",
        &["a/ 755", "a/b/ 755", "a/b/c 644 \"x\""],
    ),
    Case::accepted(
        "name-dot-inside",
        "`a/./b` beside `a/c`",
        || {
            Hostile::of([
                E::directory("a"),
                E::file("a/./b", "B"),
                E::file("a/c", "C"),
                E::file("././a/././d", "D"),
            ])
        },
        "`.` is nothing",
        &["a/ 755", "a/b 644 \"B\"", "a/c 644 \"C\"", "a/d 644 \"D\""],
    ),
    Case::accepted(
        "name-trailing-slash",
        "the file `f/`",
        || Hostile::of([E::file("f/", "x")]),
        "its type says what it is",
        &["f 644 \"x\""],
    ),
    Case::accepted(
        "name-old-directory",
        "`d/` of the type files had before POSIX",
        || {
            Hostile::of([
                E::new(b'0', "d/").raw(156, &[0]).mode(0o755),
                E::file("d/f", "x"),
            ])
        },
        "a directory, as it was then",
        &["d/ 755", "d/f 644 \"x\""],
    ),
    Case::accepted(
        "name-not-utf8",
        "bytes that are no UTF-8",
        || Hostile::of([E::file(b"\xff\xfe\xc3", "x")]),
        "names are bytes",
        &["\\xff\\xfe\\xc3 644 \"x\""],
    ),
    Case::accepted(
        "name-control",
        "escape sequences and line breaks",
        || Hostile::of([E::file("a\x1b]0;x\x07\n\r\t", "x")]),
        "names are bytes",
        &["a\\x1b]0;x\\x07\\x0a\\x0d\\x09 644 \"x\""],
    ),
    Case::refused(
        "name-control-in-error",
        "escape sequences in a name that is refused",
        || Hostile::of([E::file("a\x1b]0;owned\x07/../../b", "x")]),
        "entry `a\\x1b]0;owned\\x07/../../b` cannot be used",
    ),
    Case::accepted(
        "name-alike",
        "names that differ in case or in Unicode form only",
        || {
            Hostile::of([
                E::file("A", "1"),
                E::file("a", "2"),
                E::file("\u{e9}", "3"),
                E::file("e\u{301}", "4"),
            ])
        },
        "they are different names",
        &[
            "A 644 \"1\"",
            "a 644 \"2\"",
            "e\\xcc\\x81 644 \"4\"",
            "\\xc3\\xa9 644 \"3\"",
        ],
    ),
    Case::accepted(
        "name-of-other-systems",
        "`a\\b`, `C:x`, `CON`, ` `, `~`, `-rf`, `*`",
        || Hostile::of(["a\\b", "C:x", "CON", " ", "~", "-rf", "*"].map(|name| E::file(name, "x"))),
        "only `/` and NUL mean something",
        &[
            "  644 \"x\"",
            "* 644 \"x\"",
            "-rf 644 \"x\"",
            "C:x 644 \"x\"",
            "CON 644 \"x\"",
            "a\\\\b 644 \"x\"",
            "~ 644 \"x\"",
        ],
    ),
    Case::accepted(
        "name-255",
        "a name of 255 bytes, as pax path and as GNU long name",
        || {
            Hostile::of([
                E::file("p".repeat(255), "x"),
                gnu_long(b'L', "g".repeat(255)),
                E::file("g", "y"),
            ])
        },
        "the longest a file system has",
        &[
            "ggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg 644 \"y\"",
            "ppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp 644 \"x\"",
        ],
    ),
    Case::refused(
        "name-256",
        "a name of 256 bytes",
        || Hostile::of([E::file("n".repeat(256), "x")]),
        "cannot be used: a part of its name is longer than 255 bytes",
    ),
    Case::refused(
        "name-4096",
        "a path of 4 KiB",
        || Hostile::of([E::file("d234567/".repeat(512), "x")]),
        "cannot be used: its name or target is longer than 4095 bytes",
    ),
    Case::refused(
        "name-deep-257",
        "257 directories deep",
        || Hostile::of([E::file("d/".repeat(256) + "d/f", "x")]),
        "cannot be used: it is more than 256 directories deep",
    ),
    Case::refused(
        "name-deep-20000",
        "20 000 directories deep",
        || Hostile::of([E::directory("d/".repeat(20_000))]),
        "cannot be used: its name or target is longer than 4095 bytes",
    ),
    Case::refused(
        "name-deep-by-links",
        "a symlink makes the path 260 directories deep",
        || {
            let deep = "d/".repeat(120);
            Hostile::of([
                E::directory(&deep),
                E::symlink("l", &deep),
                E::file(format!("l/{}x", "e/".repeat(140)), ""),
            ])
        },
        "cannot be used: it is more than 256 directories deep",
    ),
    Case::refused(
        "name-pax-64m",
        "a pax header of 64 MiB",
        || Hostile::of([E::file("x", "").pax("path", vec![b'a'; 64 << 20])]),
        "the metadata of an entry is not usable: a pax header or long name of more than 1 MiB",
    ),
    Case::refused(
        "name-long-64m",
        "a GNU long name of 64 MiB",
        || Hostile::of([gnu_long(b'L', vec![b'a'; 64 << 20]), E::file("x", "")]),
        "the metadata of an entry is not usable: a pax header or long name of more than 1 MiB",
    ),
    Case::refused(
        "name-long-4g",
        "a GNU long name that says it has 4 GiB",
        || Hostile::of([gnu_long(b'L', "a").size(4 << 30), E::file("x", "")]),
        "the metadata of an entry is not usable: a pax header or long name of more than 1 MiB",
    ),
    Case::refused(
        "name-long-many",
        "long names without end in front of one entry",
        || {
            Hostile::of(
                (0..100)
                    .map(|_| gnu_long(b'L', "a"))
                    .chain([E::file("x", "")]),
            )
        },
        "the metadata of an entry is not usable: two headers that name one entry",
    ),
];
