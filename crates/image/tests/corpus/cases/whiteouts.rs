//! Whiteouts and opaque directories, in every position.

use crate::build::Hostile;
use crate::case::Case;
use crate::test_archive::TestEntry as E;

#[test]
fn whiteouts() {
    crate::judge::judge(CASES);
}

/// `d/a`, `d/b`, `d/c/e` and `f`.
fn below() -> Vec<E> {
    vec![
        E::directory("d").mode(0o700),
        E::file("d/a", "a"),
        E::file("d/b", "b"),
        E::file("d/c/e", "e"),
        E::file("f", "f"),
    ]
}

pub(super) const CASES: &[Case] = &[
    Case::accepted(
        "white-file",
        "a whiteout of one file below",
        || Hostile::stack([below(), vec![E::file("d/.wh.a", "")]]),
        "the file is gone, its directory keeps its attributes",
        &[
            "d/ 700",
            "d/b 644 \"b\"",
            "d/c/ 755",
            "d/c/e 644 \"e\"",
            "f 644 \"f\"",
        ],
    ),
    Case::accepted(
        "white-directory",
        "a whiteout of a directory below",
        || Hostile::stack([below(), vec![E::file(".wh.d", "")]]),
        "the directory is gone with all that is in it",
        &["f 644 \"f\""],
    ),
    Case::accepted(
        "white-nothing",
        "whiteouts of what is not below",
        || Hostile::stack([below(), vec![E::file(".wh.x", ""), E::file("f2", "y")]]),
        "nothing is gone",
        &[
            "d/ 700",
            "d/a 644 \"a\"",
            "d/b 644 \"b\"",
            "d/c/ 755",
            "d/c/e 644 \"e\"",
            "f 644 \"f\"",
            "f2 644 \"y\"",
        ],
    ),
    Case::accepted(
        "white-bottom",
        "whiteouts and an opaque directory in the bottom layer",
        || {
            Hostile::of([
                E::file(".wh.x", ""),
                E::directory("d"),
                E::file("d/.wh..wh..opq", ""),
                E::file("d/.wh.y", ""),
                E::file("d/f", "x"),
            ])
        },
        "there is nothing to hide",
        &["d/ 755", "d/f 644 \"x\""],
    ),
    Case::accepted(
        "white-then-file",
        "a whiteout, then a file of that name",
        || Hostile::stack([below(), vec![E::file(".wh.f", ""), E::file("f", "new")]]),
        "whiteouts are about layers below",
        &[
            "d/ 700",
            "d/a 644 \"a\"",
            "d/b 644 \"b\"",
            "d/c/ 755",
            "d/c/e 644 \"e\"",
            "f 644 \"new\"",
        ],
    ),
    Case::accepted(
        "white-after-file",
        "a file, then a whiteout of its name",
        || Hostile::stack([below(), vec![E::file("f", "new"), E::file(".wh.f", "")]]),
        "whiteouts are about layers below, whatever the order",
        &[
            "d/ 700",
            "d/a 644 \"a\"",
            "d/b 644 \"b\"",
            "d/c/ 755",
            "d/c/e 644 \"e\"",
            "f 644 \"new\"",
        ],
    ),
    Case::accepted(
        "white-then-directory",
        "a whiteout, then a directory of that name",
        || {
            Hostile::stack([
                below(),
                vec![
                    E::file(".wh.d", ""),
                    E::directory("d"),
                    E::file("d/new", "n"),
                ],
            ])
        },
        "what was below stays hidden",
        &["d/ 755", "d/new 644 \"n\"", "f 644 \"f\""],
    ),
    Case::accepted(
        "white-after-directory",
        "a directory, then a whiteout of its name",
        || {
            Hostile::stack([
                below(),
                vec![
                    E::directory("d"),
                    E::file("d/new", "n"),
                    E::file(".wh.d", ""),
                ],
            ])
        },
        "what was below stays hidden, whatever the order",
        &["d/ 755", "d/new 644 \"n\"", "f 644 \"f\""],
    ),
    Case::accepted(
        "white-then-implied",
        "a whiteout of a directory, then a file in it",
        || Hostile::stack([below(), vec![E::file(".wh.d", ""), E::file("d/new", "n")]]),
        "a new directory",
        &["d/ 755", "d/new 644 \"n\"", "f 644 \"f\""],
    ),
    Case::accepted(
        "white-three-layers",
        "bottom: `d/…`; middle: a whiteout of `d`; top: `d/new`",
        || {
            Hostile::stack([
                below(),
                vec![E::file(".wh.d", "")],
                vec![E::file("d/new", "n")],
            ])
        },
        "what was at the bottom does not come back",
        &["d/ 755", "d/new 644 \"n\"", "f 644 \"f\""],
    ),
    Case::accepted(
        "opaque-first",
        "the mark of an opaque directory, then files in it",
        || {
            Hostile::stack([
                below(),
                vec![
                    E::directory("d"),
                    E::file("d/.wh..wh..opq", ""),
                    E::file("d/new", "n"),
                ],
            ])
        },
        "only what this layer has is in the directory",
        &["d/ 755", "d/new 644 \"n\"", "f 644 \"f\""],
    ),
    Case::accepted(
        "opaque-last",
        "files in a directory, then the mark",
        || {
            Hostile::stack([
                below(),
                vec![
                    E::directory("d"),
                    E::file("d/new", "n"),
                    E::file("d/.wh..wh..opq", ""),
                ],
            ])
        },
        "only what this layer has is in the directory, whatever the order",
        &["d/ 755", "d/new 644 \"n\"", "f 644 \"f\""],
    ),
    Case::accepted(
        "opaque-implied",
        "the mark in a directory without an entry of its own",
        || {
            Hostile::stack([
                below(),
                vec![E::file("d/.wh..wh..opq", ""), E::file("d/new", "n")],
            ])
        },
        "the directory keeps its attributes and loses its content",
        &["d/ 700", "d/new 644 \"n\"", "f 644 \"f\""],
    ),
    Case::accepted(
        "opaque-nested",
        "the mark in `d`, and a file in `d/c`, which is below too",
        || {
            Hostile::stack([
                below(),
                vec![E::file("d/.wh..wh..opq", ""), E::file("d/c/new", "n")],
            ])
        },
        "what is in it is hidden all the way down",
        &["d/ 700", "d/c/ 755", "d/c/new 644 \"n\"", "f 644 \"f\""],
    ),
    Case::accepted(
        "opaque-root",
        "the mark in the root",
        || {
            Hostile::stack([
                below(),
                vec![E::file(".wh..wh..opq", ""), E::file("new", "n")],
            ])
        },
        "nothing of the layers below is left",
        &["new 644 \"n\""],
    ),
    Case::accepted(
        "opaque-and-whiteout",
        "the mark and whiteouts in one directory",
        || {
            Hostile::stack([
                below(),
                vec![
                    E::file("d/.wh.a", ""),
                    E::file("d/.wh..wh..opq", ""),
                    E::file("d/a", "new"),
                ],
            ])
        },
        "only what this layer has is in the directory",
        &["d/ 700", "d/a 644 \"new\"", "f 644 \"f\""],
    ),
    Case::accepted(
        "white-through-symlink",
        "below: `l -> d`; above: `l/.wh.a`",
        || {
            let mut below = below();
            below.push(E::symlink("l", "d"));
            Hostile::stack([below, vec![E::file("l/.wh.a", "")]])
        },
        "parents are followed",
        &[
            "d/ 700",
            "d/b 644 \"b\"",
            "d/c/ 755",
            "d/c/e 644 \"e\"",
            "f 644 \"f\"",
            "l -> d",
        ],
    ),
    Case::accepted(
        "opaque-through-symlink",
        "below: `l -> d`; above: the mark in `l`",
        || {
            let mut below = below();
            below.push(E::symlink("l", "d"));
            Hostile::stack([below, vec![E::file("l/.wh..wh..opq", "")]])
        },
        "parents are followed",
        &["d/ 700", "f 644 \"f\"", "l -> d"],
    ),
    Case::accepted(
        "white-symlink",
        "below: `l -> d`; above: a whiteout of `l`",
        || {
            let mut below = below();
            below.push(E::symlink("l", "d"));
            Hostile::stack([below, vec![E::file(".wh.l", "")]])
        },
        "the link is gone, not what it leads to",
        &[
            "d/ 700",
            "d/a 644 \"a\"",
            "d/b 644 \"b\"",
            "d/c/ 755",
            "d/c/e 644 \"e\"",
            "f 644 \"f\"",
        ],
    ),
    Case::accepted(
        "white-hard-link",
        "below: one file named `f` and `g`; above: a whiteout of `f`",
        || {
            Hostile::stack([
                vec![E::file("f", "x"), E::hard_link("g", "f")],
                vec![E::file(".wh.f", "")],
            ])
        },
        "one name is gone, the other has the file",
        &["g 644 \"x\""],
    ),
    Case::refused(
        "white-of-dot",
        "`.wh..`",
        || Hostile::stack([below(), vec![E::file(".wh..", "")]]),
        "entry `.wh..` cannot be used: it is a whiteout of no possible name",
    ),
    Case::refused(
        "white-of-dots",
        "`d/.wh...`",
        || Hostile::stack([below(), vec![E::file("d/.wh...", "")]]),
        "entry `d/.wh...` cannot be used: it is a whiteout of no possible name",
    ),
    Case::refused(
        "white-of-empty",
        "`d/.wh.`",
        || Hostile::stack([below(), vec![E::file("d/.wh.", "")]]),
        "entry `d/.wh.` cannot be used: it is a whiteout of no possible name",
    ),
    Case::accepted(
        "white-of-three-dots",
        "`.wh....`, and a file named `...` below",
        || {
            Hostile::stack([
                vec![E::file("...", "x"), E::file("f", "y")],
                vec![E::file(".wh....", "")],
            ])
        },
        "three dots are a name like others",
        &["f 644 \"y\""],
    ),
    Case::refused(
        "white-as-parent",
        "`.wh.d/f`",
        || Hostile::stack([below(), vec![E::file(".wh.d/f", "")]]),
        "entry `.wh.d/f` cannot be used: it is a whiteout of no possible name",
    ),
    Case::accepted(
        "white-of-any-type",
        "whiteouts that are directories, symlinks, devices, have content",
        || {
            Hostile::stack([
                below(),
                vec![
                    E::directory("d/.wh.a"),
                    E::symlink("d/.wh.b", "/etc/passwd"),
                    E::device(b'3', "d/.wh.c", 1, 3),
                    E::file(".wh.f", "content"),
                ],
            ])
        },
        "the name alone makes a whiteout",
        &["d/ 700"],
    ),
    Case::accepted(
        "white-aufs",
        "the bookkeeping of aufs: `.wh..wh.plnk/`, `.wh..wh.aufs`, `.wh..wh.orph/`",
        || {
            Hostile::stack([
                below(),
                vec![
                    E::directory(".wh..wh.plnk"),
                    E::file(".wh..wh.plnk/12.34", "x"),
                    E::file(".wh..wh.aufs", ""),
                    E::directory(".wh..wh.orph"),
                    E::file("f", "new"),
                ],
            ])
        },
        "no part of the image",
        &[
            "d/ 700",
            "d/a 644 \"a\"",
            "d/b 644 \"b\"",
            "d/c/ 755",
            "d/c/e 644 \"e\"",
            "f 644 \"new\"",
        ],
    )
    .unlike_umoci(
        "takes them for whiteouts of `.wh.plnk` and the like, and for a directory `.wh..wh.plnk`",
    ),
    Case::accepted(
        "white-alike",
        "`.what`, `.wh`, `wh.f`",
        || {
            Hostile::stack([
                below(),
                vec![
                    E::file(".what", ""),
                    E::file(".wh", ""),
                    E::file("wh.f", ""),
                ],
            ])
        },
        "ordinary names",
        &[
            ".wh 644 \"\"",
            ".what 644 \"\"",
            "d/ 700",
            "d/a 644 \"a\"",
            "d/b 644 \"b\"",
            "d/c/ 755",
            "d/c/e 644 \"e\"",
            "f 644 \"f\"",
            "wh.f 644 \"\"",
        ],
    ),
    Case::refused(
        "white-as-overlayfs",
        "a character device 0:0, the overlay file system's own whiteout",
        || Hostile::stack([below(), vec![E::device(b'3', "f", 0, 0)]]),
        "entry `f` is refused: a device 0:0 would hide a file of a lower layer",
    ),
    Case::refused(
        "white-overlay-opaque",
        "the attribute `trusted.overlay.opaque`",
        || {
            Hostile::stack([
                below(),
                vec![E::directory("d").pax("SCHILY.xattr.trusted.overlay.opaque", "y")],
            ])
        },
        "entry `d` is refused: an extended attribute of the overlay file system itself",
    ),
    Case::refused(
        "white-overlay-redirect",
        "the attribute `trusted.overlay.redirect`, which shows another directory",
        || Hostile::of([E::directory("d").pax("SCHILY.xattr.trusted.overlay.redirect", "/etc")]),
        "entry `d` is refused: an extended attribute of the overlay file system itself",
    ),
    Case::refused(
        "white-overlay-metacopy",
        "the attribute `trusted.overlay.metacopy`, which shows the content of another file",
        || Hostile::of([E::file("f", "").pax("SCHILY.xattr.trusted.overlay.metacopy", "")]),
        "entry `f` is refused: an extended attribute of the overlay file system itself",
    ),
];
