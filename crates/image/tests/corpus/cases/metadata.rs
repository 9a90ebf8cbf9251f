//! Owners, permissions, times, devices, extended attributes.

use crate::build::Hostile;
use crate::case::Case;
use crate::test_archive::TestEntry as E;

#[test]
fn metadata() {
    crate::judge::judge(CASES);
}

/// A capability (`cap_net_raw+ep`) with bytes that text formats stumble over.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\n\n\0\0\0\0\0\0";
/// A POSIX access list, version 2: rwx for the owner, rx for user 1000, mask rx.
const ACCESS_LIST: &[u8] = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x05\0\xe8\x03\0\0\x04\0\x05\0\xff\xff\xff\xff\x10\0\x05\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

fn xattr(entry: E, name: &str, value: impl AsRef<[u8]>) -> E {
    entry.pax(&format!("SCHILY.xattr.{name}"), value)
}

pub(super) const CASES: &[Case] = &[
    Case::accepted(
        "meta-setuid",
        "setuid, setgid and sticky bits, on files and directories",
        || {
            Hostile::of([
                E::file("su", "x").mode(0o4755),
                E::file("sg", "x").mode(0o2711),
                E::directory("t").mode(0o1777),
                E::file("none", "x").mode(0),
            ])
        },
        "kept: the guest is a machine of its own",
        &["none 0 \"x\"", "sg 2711 \"x\"", "su 4755 \"x\"", "t/ 1777"],
    ),
    Case::accepted(
        "meta-mode-with-type",
        "a mode that says directory on a file, and the other way round",
        || {
            Hostile::of([
                E::file("f", "x").mode(0o040_644),
                E::directory("d").mode(0o100_755),
            ])
        },
        "the type comes from the entry",
        &["d/ 755", "f 644 \"x\""],
    ),
    Case::accepted(
        "meta-devices",
        "`mem` 1:1, a disk 8:0, the largest numbers Linux has, a fifo",
        || {
            Hostile::of([
                E::device(b'3', "mem", 1, 1).mode(0o600),
                E::device(b'4', "sda", 8, 0).mode(0o660).owner(0, 6),
                E::device(b'4', "large", 4095, 1_048_575),
                E::new(b'6', "fifo"),
            ])
        },
        "kept: they are the guest's devices, not this machine's",
        &[
            "fifo p 644",
            "large b4095:1048575 644",
            "mem c1:1 600",
            "sda b8:0 660 0:6",
        ],
    ),
    Case::refused(
        "meta-device-range",
        "a device 4096:0",
        || Hostile::of([E::device(b'4', "d", 4096, 0)]),
        "no valid header where entry `d` should begin: device number out of range",
    ),
    Case::accepted(
        "meta-large-owner",
        "owners above 2^16, in base 256 and by pax, and the largest there is",
        || {
            Hostile::of([
                E::file("a", "x").owner(3_000_000_000, 70_000),
                E::file("b", "x")
                    .pax("uid", "4294967294")
                    .pax("gid", "4294967294"),
            ])
        },
        "all 32 bits",
        &[
            "a 644 \"x\" 3000000000:70000",
            "b 644 \"x\" 4294967294:4294967294",
        ],
    ),
    Case::refused(
        "meta-owner-nobody-at-all",
        "owner 2^32 - 1, which system calls take for \"no change\"",
        || Hostile::of([E::file("f", "x").pax("uid", "4294967295")]),
        "entry `f` is refused: its owner is the number that means nobody at all",
    ),
    Case::refused(
        "meta-owner-2-32",
        "owner 2^32, which some readers take for root",
        || Hostile::of([E::file("f", "x").pax("uid", "4294967296")]),
        "the metadata of an entry is not usable: a pax uid out of range",
    ),
    Case::refused(
        "meta-owner-negative",
        "owner -1 by pax",
        || Hostile::of([E::file("f", "x").pax("gid", "-1")]),
        "the metadata of an entry is not usable: a pax gid out of range",
    ),
    Case::refused(
        "meta-owner-negative-base-256",
        "owner -2 in base 256",
        || {
            Hostile::of([E::file("f", "x")
                .raw(257, b"ustar  \0")
                .raw(108, b"\xff\xff\xff\xff\xff\xff\xff\xfe")])
        },
        "no valid header where entry `f` should begin: owner",
    ),
    Case::accepted(
        "meta-owner-names",
        "user and group names of this machine",
        || {
            Hostile::of([E::file("f", "x")
                .raw(265, b"daemon")
                .raw(297, b"shadow")
                .owner(5, 6)])
        },
        "only numbers count",
        &["f 644 \"x\" 5:6"],
    ),
    Case::accepted(
        "meta-times",
        "times before 1970, after 2106, with nanoseconds, with more digits than nanoseconds",
        || {
            Hostile::of([
                E::file("a", "x").pax("mtime", "-1.5"),
                E::file("b", "x").mtime(1 << 33),
                E::file("c", "x").pax("mtime", "1234567890.123456789"),
                E::file("d", "x").pax("mtime", "5.0000000019"),
                E::directory("e").mtime(7),
                E::symlink("l", "e").mtime(8),
            ])
        },
        "64 bits and nanoseconds, rounded down",
        &[
            "a 644 \"x\" @-2.5",
            "b 644 \"x\" @8589934592",
            "c 644 \"x\" @1234567890.123456789",
            "d 644 \"x\" @5.000000001",
            "e/ 755 @7",
            "l -> e @8",
        ],
    ),
    Case::refused(
        "meta-time-malformed",
        "a time that is none",
        || Hostile::of([E::file("f", "x").pax("mtime", "1e9")]),
        "the metadata of an entry is not usable: a malformed pax mtime",
    ),
    Case::refused(
        "meta-time-huge",
        "a time of 2^64 seconds",
        || Hostile::of([E::file("f", "x").pax("mtime", "18446744073709551616")]),
        "the metadata of an entry is not usable: a malformed pax mtime",
    ),
    Case::accepted(
        "meta-capability",
        "`security.capability` with line breaks in its bytes",
        || {
            Hostile::of([xattr(
                E::file("ping", "x").mode(0o755),
                "security.capability",
                CAPABILITY,
            )])
        },
        "kept byte by byte",
        &[
            "ping 755 \"x\" {security.capability=\"\\x01\\x00\\x00\\x02\\x00 \\x00\\x00\\x00\\x00\\x00\\x00\\x0a\\x0a\\x00\\x00\\x00\\x00\\x00\\x00\"}",
        ],
    ),
    Case::accepted(
        "meta-xattrs",
        "attributes of every kind, on a file, a directory and a symlink",
        || {
            let file = xattr(E::file("f", "x"), "user.a", "1");
            Hostile::of([
                xattr(xattr(file, "trusted.b", ""), "security.c", b"\0\xff"),
                xattr(E::directory("d"), "user.d", "=\n="),
                xattr(E::symlink("l", "f"), "trusted.e", "2"),
            ])
        },
        "kept",
        &[
            "d/ 755 {user.d=\"=\\x0a=\"}",
            "f 644 \"x\" {security.c=\"\\x00\\xff\",trusted.b=\"\",user.a=\"1\"}",
            "l -> f {trusted.e=\"2\"}",
        ],
    )
    .unlike_umoci("loses attributes without a value"),
    Case::accepted(
        "meta-access-list",
        "a POSIX access list",
        || {
            Hostile::of([xattr(
                E::file("f", "x").mode(0o750),
                "system.posix_acl_access",
                ACCESS_LIST,
            )])
        },
        "kept",
        &["f 750 \"x\" {system.posix_acl_access=#44:231cce8e}"],
    ),
    Case::accepted(
        "meta-xattr-foreign",
        "attributes of another system",
        || Hostile::of([xattr(E::file("f", "x"), "com.apple.quarantine", "1")]),
        "left out, as no Linux could store them",
        &["f 644 \"x\""],
    ),
    Case::refused(
        "meta-xattr-unnamed",
        "the attribute `user.`",
        || Hostile::of([xattr(E::file("f", "x"), "user.", "1")]),
        "entry `f` is refused: an extended attribute is too large or unnamed",
    ),
    Case::refused(
        "meta-xattr-name-256",
        "an attribute name of 256 bytes",
        || {
            Hostile::of([xattr(
                E::file("f", "x"),
                &format!("user.{}", "n".repeat(251)),
                "1",
            )])
        },
        "entry `f` is refused: the name of an extended attribute is too long",
    ),
    Case::refused(
        "meta-xattr-64k",
        "an attribute of 64 KiB",
        || Hostile::of([xattr(E::file("f", "x"), "user.a", vec![b'x'; 1 << 16])]),
        "entry `f` is refused: an extended attribute is too large or unnamed",
    ),
    Case::refused(
        "meta-xattr-1m",
        "an attribute of 1 MiB",
        || Hostile::of([xattr(E::file("f", "x"), "user.a", vec![b'x'; 1 << 20])]),
        "the metadata of an entry is not usable: a pax header or long name of more than 1 MiB",
    ),
    Case::accepted(
        "meta-xattr-5000",
        "5 000 attributes on one file",
        || {
            Hostile::of([(0..5000).fold(E::file("f", "x"), |entry, number| {
                xattr(entry, &format!("user.{number:04}"), "v")
            })])
        },
        "up to 256 KiB for one file",
        &["f 644 \"x\" {5000 attributes:c280f125}"],
    )
    .unlike_umoci("needs a file system that takes them"),
    Case::refused(
        "meta-xattr-5000-large",
        "5 000 attributes of 100 bytes on one file",
        || {
            Hostile::of([(0..5000).fold(E::file("f", "x"), |entry, number| {
                xattr(entry, &format!("user.{number:04}"), vec![b'v'; 100])
            })])
        },
        "entry `f` is refused: its extended attributes are too large together",
    ),
    Case::refused(
        "meta-xattr-all-files",
        "other attributes of 60 KB on each of 400 files",
        || {
            let value =
                |number: usize| [vec![b'v'; 60_000], number.to_string().into_bytes()].concat();
            Hostile::of(
                (0..400).map(|number| {
                    xattr(E::file(format!("f{number}"), ""), "user.x", value(number))
                }),
            )
        },
        "the layer has too much of something at entry `f279`: names or extended attributes",
    ),
];
