//! The same name again, with another type, in one layer or in two; directories that only the names of others imply.

use crate::build::Hostile;
use crate::case::Case;
use crate::test_archive::TestEntry as E;

#[test]
fn replacements() {
    crate::judge::judge(CASES);
}

pub(super) const CASES: &[Case] = &[
    Case::accepted(
        "twice-file",
        "a file twice, with other permissions",
        || Hostile::of([E::file("f", "older"), E::file("f", "new").mode(0o600)]),
        "the last one counts",
        &["f 600 \"new\""],
    ),
    Case::accepted(
        "twice-directory",
        "a directory twice, with other permissions",
        || {
            Hostile::of([
                E::directory("d").mode(0o700),
                E::file("d/f", "x"),
                E::directory("d").mode(0o1777).owner(1, 2),
            ])
        },
        "the last attributes count, the content stays",
        &["d/ 1777 1:2", "d/f 644 \"x\""],
    ),
    Case::accepted(
        "file-then-directory",
        "a file, then a directory of that name",
        || Hostile::of([E::file("d", "x"), E::directory("d"), E::file("d/f", "y")]),
        "the last one counts",
        &["d/ 755", "d/f 644 \"y\""],
    ),
    Case::accepted(
        "directory-then-file",
        "a directory with files, then a file of that name",
        || Hostile::of([E::file("d/a/b", "x"), E::file("d", "file")]),
        "the last one counts, what was inside is gone",
        &["d 644 \"file\""],
    ),
    Case::accepted(
        "symlink-then-directory",
        "`d -> e`, then the directory `d`",
        || {
            Hostile::of([
                E::directory("e"),
                E::symlink("d", "e"),
                E::directory("d"),
                E::file("d/f", "x"),
            ])
        },
        "the directory takes the place of the link",
        &["d/ 755", "d/f 644 \"x\"", "e/ 755"],
    ),
    Case::accepted(
        "directory-then-symlink",
        "a directory with files, then `d -> e`, then `d/g`",
        || {
            Hostile::of([
                E::directory("e"),
                E::file("d/f", "x"),
                E::symlink("d", "e"),
                E::file("d/g", "y"),
            ])
        },
        "the link takes the place of the directory and is followed",
        &["d -> e", "e/ 755", "e/g 644 \"y\""],
    ),
    Case::refused(
        "file-as-parent",
        "a file, then an entry below it",
        || Hostile::of([E::file("f", "x"), E::file("f/g", "y")]),
        "entry `f/g` is refused: one of its parents is not a directory",
    ),
    Case::accepted(
        "file-as-parent-through-layers",
        "below: a file; above: an entry below it",
        || Hostile::stack([vec![E::file("f", "x")], vec![E::file("f/g", "y")]]),
        "the directory the upper layer implies takes its place",
        &["f/ 755", "f/g 644 \"y\""],
    )
    .unlike_umoci("refuses it"),
    Case::accepted(
        "layers-file-over-directory",
        "below: a directory with files; above: a file",
        || Hostile::stack([vec![E::file("d/f", "x")], vec![E::file("d", "file")]]),
        "the upper layer counts",
        &["d 644 \"file\""],
    ),
    Case::accepted(
        "layers-directory-over-file",
        "below: a file; above: a directory with files",
        || {
            Hostile::stack([
                vec![E::file("d", "file")],
                vec![E::directory("d"), E::file("d/f", "x")],
            ])
        },
        "the upper layer counts",
        &["d/ 755", "d/f 644 \"x\""],
    ),
    Case::accepted(
        "layers-symlink-over-directory",
        "below: a directory with files; above: a symlink",
        || {
            Hostile::stack([
                vec![E::file("d/f", "x"), E::directory("e")],
                vec![E::symlink("d", "e")],
            ])
        },
        "the upper layer counts",
        &["d -> e", "e/ 755"],
    ),
    Case::accepted(
        "layers-directory-over-symlink",
        "below: `d -> e`; above: the directory `d` by its own entry",
        || {
            Hostile::stack([
                vec![E::file("e/f", "x"), E::symlink("d", "e")],
                vec![E::directory("d"), E::file("d/g", "y")],
            ])
        },
        "the directory takes the place of the link",
        &["d/ 755", "d/g 644 \"y\"", "e/ 755", "e/f 644 \"x\""],
    ),
    Case::accepted(
        "layers-usrmerge",
        "below: `lib -> usr/lib`; above: `lib/x` without an entry for `lib`",
        || {
            Hostile::stack([
                vec![E::file("usr/lib/a", "a"), E::symlink("lib", "usr/lib")],
                vec![E::file("lib/x", "x")],
            ])
        },
        "the link is followed",
        &[
            "lib -> usr/lib",
            "usr/ 755",
            "usr/lib/ 755",
            "usr/lib/a 644 \"a\"",
            "usr/lib/x 644 \"x\"",
        ],
    ),
    Case::accepted(
        "layers-usrmerge-chain",
        "below: `lib -> l2`, `l2 -> /usr/lib`; above: `lib/a/x` over `usr/lib/a/`",
        || {
            Hostile::stack([
                vec![
                    E::directory("usr/lib/a").mode(0o711),
                    E::symlink("lib", "l2"),
                    E::symlink("l2", "/usr/lib"),
                ],
                vec![E::file("lib/a/x", "x")],
            ])
        },
        "the links are followed, the directory keeps its attributes",
        &[
            "l2 -> /usr/lib",
            "lib -> l2",
            "usr/ 755",
            "usr/lib/ 755",
            "usr/lib/a/ 711",
            "usr/lib/a/x 644 \"x\"",
        ],
    ),
    Case::accepted(
        "layers-usrmerge-third",
        "bottom: `usr/lib/x`; middle: `lib -> usr/lib`; top: another `lib/x`",
        || {
            Hostile::stack([
                vec![E::file("usr/lib/x", "old")],
                vec![E::symlink("lib", "usr/lib")],
                vec![E::file("lib/x", "new")],
            ])
        },
        "the link is followed, the file replaced",
        &[
            "lib -> usr/lib",
            "usr/ 755",
            "usr/lib/ 755",
            "usr/lib/x 644 \"new\"",
        ],
    ),
    Case::accepted(
        "layers-implied-parents",
        "below: `root` 0700, `tmp` 1777, `home` of a user; above: files in them without their entries",
        || {
            Hostile::stack([
                vec![
                    E::directory("root").mode(0o700).mtime(5),
                    E::directory("tmp").mode(0o1777),
                    E::directory("home/u").owner(1000, 1000).mode(0o750),
                ],
                vec![
                    E::file("root/f", "1"),
                    E::file("tmp/f", "2"),
                    E::file("home/u/f", "3"),
                ],
            ])
        },
        "what the layer below says of them stays",
        &[
            "home/ 755",
            "home/u/ 750 1000:1000",
            "home/u/f 644 \"3\"",
            "root/ 700 @5",
            "root/f 644 \"1\"",
            "tmp/ 1777",
            "tmp/f 644 \"2\"",
        ],
    ),
    Case::accepted(
        "layers-attributes",
        "below: a directory with files; above: its entry with other attributes",
        || {
            Hostile::stack([
                vec![E::directory("d"), E::file("d/f", "x")],
                vec![E::directory("d").mode(0o711).owner(1, 2).mtime(3)],
            ])
        },
        "the upper attributes count, the content stays",
        &["d/ 711 1:2 @3", "d/f 644 \"x\""],
    ),
    Case::accepted(
        "layers-root",
        "above: attributes of the root",
        || {
            Hostile::stack([
                vec![E::file("f", "x")],
                vec![E::directory("./").mode(0o711).owner(1, 2).mtime(3)],
            ])
        },
        "the upper attributes count",
        &["/ 711 1:2 @3", "f 644 \"x\""],
    ),
    Case::accepted(
        "layers-same-twice",
        "one layer twice, with a whiteout layer between",
        || {
            Hostile::stack([
                vec![E::file("f", "x")],
                vec![E::file(".wh.f", "")],
                vec![E::file("f", "x")],
            ])
        },
        "each has its place",
        &["f 644 \"x\""],
    ),
    Case::accepted(
        "layers-empty",
        "a layer without entries",
        || Hostile::stack([vec![E::file("f", "x")], vec![]]),
        "it changes nothing",
        &["f 644 \"x\""],
    ),
];
