//! Symlinks and hard links, and writing through them.

use crate::build::Hostile;
use crate::case::Case;
use crate::test_archive::TestEntry as E;

#[test]
fn links() {
    crate::judge::judge(CASES);
}

fn link_chain(links: usize) -> Hostile {
    let chain =
        (0..links).map(|number| E::symlink(format!("l{number:02}"), format!("l{:02}", number + 1)));
    let end = [E::directory(format!("l{links:02}")), E::file("l00/f", "x")];
    Hostile::of(chain.chain(end))
}

pub(super) const CASES: &[Case] = &[
    Case::accepted(
        "link-targets",
        "targets that are absolute, lead out, lead to themselves, lead nowhere, are no UTF-8",
        || {
            Hostile::of([
                E::symlink("absolute", "/etc/passwd"),
                E::symlink("out", "../../../../etc/passwd"),
                E::symlink("self", "self"),
                E::symlink("nowhere", "no/where"),
                E::symlink("bytes", b"\xff\x1b"),
            ])
        },
        "a target is bytes; where it leads is for the guest to find out",
        &[
            "absolute -> /etc/passwd",
            "bytes -> \\xff\\x1b",
            "nowhere -> no/where",
            "out -> ../../../../etc/passwd",
            "self -> self",
        ],
    ),
    Case::refused(
        "link-empty",
        "a symlink without a target",
        || Hostile::of([E::symlink("l", "")]),
        "entry `l` cannot be used: its target is empty",
    ),
    Case::refused(
        "link-nul",
        "a target with a NUL byte",
        || Hostile::of([E::symlink("l", "x").pax("linkpath", "a\0b")]),
        "the metadata of an entry is not usable: a name with a NUL byte",
    ),
    Case::accepted(
        "link-long",
        "a target of 4 000 bytes",
        || Hostile::of([E::symlink("l", "t".repeat(4000))]),
        "up to 4095 bytes",
        &[LONG_TARGET],
    ),
    Case::refused(
        "link-too-long",
        "a target of 4 096 bytes",
        || Hostile::of([E::symlink("l", "t".repeat(4096))]),
        "entry `l` cannot be used: its name or target is longer than 4095 bytes",
    ),
    Case::accepted(
        "link-through-absolute",
        "`l -> /tmp/agent-vm-corpus-escape`, then `l/f`",
        || {
            Hostile::of([
                E::directory("tmp/agent-vm-corpus-escape"),
                E::symlink("l", "/tmp/agent-vm-corpus-escape"),
                E::file("l/f", "x"),
            ])
        },
        "followed inside the image",
        &[
            "l -> /tmp/agent-vm-corpus-escape",
            "tmp/ 755",
            "tmp/agent-vm-corpus-escape/ 755",
            "tmp/agent-vm-corpus-escape/f 644 \"x\"",
        ],
    ),
    Case::accepted(
        "link-through-relative",
        "`a/l -> ../../../..`, then `a/l/canary`",
        || Hostile::of([E::symlink("a/l", "../../../.."), E::file("a/l/canary", "x")]),
        "followed inside the image, above whose root there is only the root",
        &["a/ 755", "a/l -> ../../../..", "canary 644 \"x\""],
    ),
    Case::accepted(
        "link-through-missing",
        "`l -> made/up`, then `l/f`",
        || Hostile::of([E::symlink("l", "made/up"), E::file("l/f", "x")]),
        "what the link leads to is made",
        &[
            "l -> made/up",
            "made/ 755",
            "made/up/ 755",
            "made/up/f 644 \"x\"",
        ],
    ),
    Case::accepted(
        "link-replaced",
        "`l -> /etc/passwd`, then the file `l`",
        || Hostile::of([E::symlink("l", "/etc/passwd"), E::file("l", "x")]),
        "the file takes the place of the link",
        &["l 644 \"x\""],
    ),
    Case::accepted(
        "link-through-layers",
        "below: `l -> /tmp/agent-vm-corpus-escape`; above: `l/f`",
        || {
            Hostile::stack([
                vec![
                    E::directory("tmp/agent-vm-corpus-escape"),
                    E::symlink("l", "/tmp/agent-vm-corpus-escape"),
                ],
                vec![E::file("l/f", "x")],
            ])
        },
        "followed inside the image",
        &[
            "l -> /tmp/agent-vm-corpus-escape",
            "tmp/ 755",
            "tmp/agent-vm-corpus-escape/ 755",
            "tmp/agent-vm-corpus-escape/f 644 \"x\"",
        ],
    ),
    Case::accepted(
        "link-chain-40",
        "a parent through 40 symlinks",
        || link_chain(40),
        "as many as Linux follows",
        CHAIN,
    ),
    Case::refused(
        "link-chain-41",
        "a parent through 41 symlinks",
        || link_chain(41),
        "entry `l00/f` cannot be used: the symlinks in its parents do not come to an end",
    ),
    Case::refused(
        "link-loop",
        "`a -> b`, `b -> a`, then `a/f`",
        || {
            Hostile::of([
                E::symlink("a", "b"),
                E::symlink("b", "a"),
                E::file("a/f", "x"),
            ])
        },
        "entry `a/f` cannot be used: the symlinks in its parents do not come to an end",
    ),
    Case::accepted(
        "link-loop-through-layers",
        "below: `a -> b`; above: `b -> a` and `a/f`",
        || {
            Hostile::stack([
                vec![E::symlink("a", "b")],
                vec![E::symlink("b", "a"), E::file("a/f", "x")],
            ])
        },
        "`a/f` is in `b`, which the layer itself replaces",
        &["a -> b", "b -> a"],
    )
    .unlike_umoci("goes by the order, refuses it"),
    Case::refused(
        "link-loop-below",
        "below: `a -> b`, `b -> a`; above: `a/f`",
        || {
            Hostile::stack([
                vec![E::symlink("a", "b"), E::symlink("b", "a")],
                vec![E::file("a/f", "x")],
            ])
        },
        "lies behind symlinks that cannot be followed: the symlinks in its parents do not come to an end",
    ),
    Case::refused(
        "link-growing",
        "a symlink to itself and 200 directories more",
        || Hostile::of([E::symlink("a", "a/".repeat(200)), E::file("a/f", "x")]),
        "entry `a/f` cannot be used: it is more than 256 directories deep",
    ),
    Case::refused(
        "hard-out",
        "a hard link to `../../etc/passwd`",
        || Hostile::of([E::hard_link("h", "../../etc/passwd")]),
        "entry `h` cannot be used: its name goes up with `..`",
    ),
    Case::refused(
        "hard-absolute",
        "a hard link to `/etc/passwd`, which the image does not have",
        || Hostile::of([E::hard_link("h", "/etc/passwd")]),
        NO_TARGET,
    ),
    Case::accepted(
        "hard-inside",
        "a hard link to `/a/f`, which the image has, by another spelling",
        || {
            Hostile::of([
                E::file("a/f", "x").mode(0o600).owner(1, 2).mtime(3),
                E::hard_link("h", "/a//./f").mode(0o777),
            ])
        },
        "one file with two names; what the link says of itself does not count",
        &["a/ 755", "a/f 600 \"x\" 1:2 @3", "h 600 \"x\" 1:2 @3 =a/f"],
    ),
    Case::refused(
        "hard-forward",
        "a hard link to a later entry",
        || Hostile::of([E::hard_link("h", "f"), E::file("f", "x")]),
        NO_TARGET,
    ),
    Case::refused(
        "hard-self",
        "a hard link to itself",
        || Hostile::of([E::file("h", "x"), E::hard_link("h", "./h")]),
        "entry `h` is refused: it is a hard link to itself",
    ),
    Case::refused(
        "hard-directory",
        "a hard link to a directory",
        || Hostile::of([E::directory("d"), E::hard_link("h", "d")]),
        "entry `h` is refused: its hard link target is not a file",
    ),
    Case::refused(
        "hard-root",
        "a hard link to `/`",
        || Hostile::of([E::hard_link("h", "/")]),
        "entry `h` is refused: its hard link target is not a file",
    ),
    Case::accepted(
        "hard-symlink",
        "a hard link to a symlink that leads out",
        || Hostile::of([E::symlink("l", "/etc/passwd"), E::hard_link("h", "l")]),
        "the link itself has two names",
        &["h -> /etc/passwd", "l -> /etc/passwd =h"],
    ),
    Case::accepted(
        "hard-device",
        "a hard link to a device",
        || {
            Hostile::of([
                E::device(b'3', "null", 1, 3).mode(0o666),
                E::hard_link("h", "null"),
            ])
        },
        "one device with two names",
        &["h c1:3 666", "null c1:3 666 =h"],
    ),
    Case::accepted(
        "hard-through-symlink",
        "`l -> d`, then a hard link to `l/f`",
        || {
            Hostile::of([
                E::symlink("l", "d"),
                E::file("d/f", "x"),
                E::hard_link("h", "l/f"),
            ])
        },
        "parents are followed",
        &["d/ 755", "d/f 644 \"x\"", "h 644 \"x\" =d/f", "l -> d"],
    ),
    Case::accepted(
        "hard-through-layers",
        "above: a hard link to a file below",
        || {
            Hostile::stack([
                vec![E::file("f", "x").mode(0o640).mtime(3)],
                vec![E::hard_link("h", "f")],
            ])
        },
        "one file with two names",
        &["f 640 \"x\" @3", "h 640 \"x\" @3 =f"],
    ),
    Case::accepted(
        "hard-to-whiteout",
        "above: a whiteout of a file below, then a hard link to it",
        || {
            Hostile::stack([
                vec![E::file("f", "x")],
                vec![E::file(".wh.f", ""), E::hard_link("h", "f")],
            ])
        },
        "the file has its other name only: links lead to what is below, whatever the order",
        &["h 644 \"x\""],
    )
    .unlike_umoci("goes by the order, refuses it"),
    Case::accepted(
        "hard-written-through",
        "below: one file named `a` and `b`; above: another `a`",
        || {
            Hostile::stack([
                vec![E::file("a", "old"), E::hard_link("b", "a")],
                vec![E::file("a", "new")],
            ])
        },
        "a new file for one name; the other keeps the old one",
        &["a 644 \"new\"", "b 644 \"old\""],
    ),
    Case::accepted(
        "hard-written-through-inside",
        "the same in one layer",
        || {
            Hostile::of([
                E::file("a", "old"),
                E::hard_link("b", "a"),
                E::file("a", "new"),
            ])
        },
        "a new file for one name; the other keeps the old one",
        &["a 644 \"new\"", "b 644 \"old\""],
    ),
    Case::accepted(
        "hard-over-directory",
        "a hard link in the place of a directory with files",
        || {
            Hostile::of([
                E::file("f", "x"),
                E::file("d/g", "y"),
                E::hard_link("d", "f"),
            ])
        },
        "the directory is gone",
        &["d 644 \"x\"", "f 644 \"x\" =d"],
    ),
];

const NO_TARGET: &str =
    "is refused: it is a hard link to a file that is neither an earlier entry nor in a layer below";

const CHAIN: &[&str] = &[
    "l00 -> l01",
    "l01 -> l02",
    "l02 -> l03",
    "l03 -> l04",
    "l04 -> l05",
    "l05 -> l06",
    "l06 -> l07",
    "l07 -> l08",
    "l08 -> l09",
    "l09 -> l10",
    "l10 -> l11",
    "l11 -> l12",
    "l12 -> l13",
    "l13 -> l14",
    "l14 -> l15",
    "l15 -> l16",
    "l16 -> l17",
    "l17 -> l18",
    "l18 -> l19",
    "l19 -> l20",
    "l20 -> l21",
    "l21 -> l22",
    "l22 -> l23",
    "l23 -> l24",
    "l24 -> l25",
    "l25 -> l26",
    "l26 -> l27",
    "l27 -> l28",
    "l28 -> l29",
    "l29 -> l30",
    "l30 -> l31",
    "l31 -> l32",
    "l32 -> l33",
    "l33 -> l34",
    "l34 -> l35",
    "l35 -> l36",
    "l36 -> l37",
    "l37 -> l38",
    "l38 -> l39",
    "l39 -> l40",
    "l40/ 755",
    "l40/f 644 \"x\"",
];
const LONG_TARGET: &str = "l -> tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt\u{2026} (4000 bytes)";
