//! The table of what layers become together, as the kernel that mounts the result sees it.

use crate::archive::Archive;
use crate::convert::{Limits, convert};
use crate::erofs::{BLOCK_SIZE, DataWriter, write_merged, write_metadata};
use crate::test_archive::{TestArchive, TestEntry as E};
use crate::test_mount::{Mounted, fsck};

use super::*;

/// A stored layer in memory.
fn layer(archive: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut data = DataWriter::new(&mut bytes);
    let mut tree = convert(&mut Archive::new(archive), &mut data, &Limits::default()).unwrap();
    write_metadata(&mut tree, data, ImageDigest::of(archive)).unwrap();
    bytes
}

/// The whole device of an image: merged metadata, then the layers.
fn device(layers: &[Vec<E>]) -> Result<Vec<u8>, String> {
    let layers = layers.iter().map(|entries| {
        let entries = entries.iter().cloned();
        layer(&TestArchive::of(entries))
    });
    merged(&layers.collect::<Vec<_>>())
}

fn merged(layers: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    let told = |error: MergeError| {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        format!("{error}{}", source.unwrap_or_default())
    };
    let mut merge = Merge::new();
    let mut contents = Vec::new();
    for bytes in layers {
        let base = u32::try_from(contents.len() as u64 / BLOCK_SIZE).unwrap();
        let layer = ImageDigest::of(bytes);
        merge
            .add_layer(layer, bytes.as_slice(), base)
            .map_err(told)?;
        contents.extend_from_slice(bytes);
    }
    let mut device = Vec::new();
    let blocks = contents.len() as u64 / BLOCK_SIZE;
    let identity = ImageDigest::of(b"image");
    write_merged(&mut merge.into_tree(), &mut device, identity, blocks).unwrap();
    device.extend_from_slice(&contents);
    Ok(device)
}

/// All of the image as the kernel shows it, one line a file: `a/ 755`, `a/f 644 "content"`, `l -> t`; owners, several links and extended
/// attributes where there are any.
fn image(layers: &[Vec<E>]) -> Vec<String> {
    let device = device(layers).unwrap();
    fsck(&device);
    Mounted::new(&device).listing()
}

fn refused(layers: &[Vec<E>]) -> String {
    device(layers).map(|_| ()).unwrap_err()
}

fn dir(path: &str, mode: u32) -> E {
    E::directory(path).mode(mode)
}

/// A root that is named, so that no test depends on what an image without one gets.
fn root() -> E {
    dir("./", 0o755)
}

#[test]
fn files_of_all_layers_are_found_and_upper_ones_win() {
    assert_eq!(
        image(&[
            vec![
                root(),
                dir("d", 0o755),
                E::file("d/a", "old"),
                E::file("d/b", "below")
            ],
            vec![E::file("d/a", "new").mode(0o600).owner(7, 8)],
            vec![E::symlink("d/l", "a"), E::file("e", "")],
        ]),
        [
            "./ 755",
            "d/ 755",
            "d/a 600 7:8 \"new\"",
            "d/b 644 \"below\"",
            "d/l -> a",
            "e 644 \"\""
        ]
    );
}

#[test]
fn whiteouts_count_before_what_the_layer_adds_in_any_order() {
    let below = || {
        vec![
            root(),
            dir("d", 0o700),
            E::file("d/f", "1"),
            E::file("g", "2"),
        ]
    };
    for order in [[0, 1], [1, 0]] {
        let entries = [E::file(".wh.g", ""), E::file("g", "own")];
        let upper = order.map(|at| entries[at].clone()).to_vec();
        assert_eq!(
            image(&[below(), upper]),
            ["./ 755", "d/ 700", "d/f 644 \"1\"", "g 644 \"own\""]
        );
        let entries = [E::file(".wh.d", ""), E::file("d/n", "own")];
        let upper = order.map(|at| entries[at].clone()).to_vec();
        assert_eq!(
            image(&[below(), upper]),
            ["./ 755", "d/ 755", "d/n 644 \"own\"", "g 644 \"2\""]
        );
        let entries = [E::file("d/.wh..wh..opq", ""), E::file("d/n", "own")];
        let upper = order.map(|at| entries[at].clone()).to_vec();
        assert_eq!(
            image(&[below(), upper]),
            ["./ 755", "d/ 700", "d/n 644 \"own\"", "g 644 \"2\""],
            "an opaque directory that is only implied keeps its attributes"
        );
    }
    assert_eq!(
        image(&[
            below(),
            vec![E::file(".wh.d", ""), E::file(".wh.nothing", "")]
        ]),
        ["./ 755", "g 644 \"2\""]
    );
    assert_eq!(
        image(&[
            below(),
            vec![E::file("d/.wh.f", "")],
            vec![E::file("d/f", "3")]
        ]),
        ["./ 755", "d/ 700", "d/f 644 \"3\"", "g 644 \"2\""]
    );
}

#[test]
fn opaque_directories_hide_what_is_below_at_the_root_as_well() {
    assert_eq!(
        image(&[
            vec![
                dir("./", 0o711),
                dir("d", 0o755),
                E::file("d/f", "1"),
                E::file("g", "2")
            ],
            vec![E::file(".wh..wh..opq", ""), E::file("d/n", "own")],
        ]),
        ["./ 711", "d/ 755", "d/n 644 \"own\""]
    );
    assert_eq!(
        image(&[
            vec![root(), E::file("d/e/f", "1")],
            vec![
                dir("d", 0o700),
                E::file("d/.wh..wh..opq", ""),
                E::file("d/.wh.e", "")
            ],
            vec![E::file("d/e/g", "2")],
        ]),
        ["./ 755", "d/ 700", "d/e/ 755", "d/e/g 644 \"2\""]
    );
}

#[test]
fn kinds_change_both_ways() {
    assert_eq!(
        image(&[
            vec![
                root(),
                E::file("a", "1"),
                E::file("b/f", "2"),
                E::symlink("c", "b"),
                E::file("e", "x")
            ],
            vec![
                dir("a", 0o755),
                E::file("a/f", "3"),
                E::file("b", "4"),
                dir("c", 0o700),
                E::file("e/f", "5")
            ],
        ]),
        [
            "./ 755",
            "a/ 755",
            "a/f 644 \"3\"",
            "b 644 \"4\"",
            "c/ 700",
            "e/ 755",
            "e/f 644 \"5\""
        ]
    );
}

#[test]
fn implied_parents_keep_what_lower_layers_say() {
    assert_eq!(
        image(&[
            vec![
                dir("./", 0o751),
                dir("root", 0o700).owner(3, 4),
                dir("tmp", 0o1777).pax("SCHILY.xattr.user.x", "y"),
            ],
            vec![E::file("root/f", ""), E::file("tmp/new/g", "")],
        ]),
        [
            "./ 751",
            "root/ 700 3:4",
            "root/f 644 \"\"",
            "tmp/ 1777 {user.x=y}",
            "tmp/new/ 755",
            "tmp/new/g 644 \"\""
        ]
    );
}

#[test]
fn implied_parents_follow_lower_symlinks_inside_the_image() {
    let below = || {
        vec![
            root(),
            dir("usr", 0o755),
            dir("usr/lib", 0o711),
            E::file("usr/lib/old", "1"),
            E::symlink("lib", "usr/lib"),
            E::symlink("abs", "/../../usr/./lib/"),
            E::symlink("usr/up", "../../../lib"),
            E::symlink("dangling", "usr/none/deep"),
        ]
    };
    let with = |more: &[&'static str]| {
        let mut lines: Vec<_> = [
            "./ 755",
            "abs -> /../../usr/./lib/",
            "dangling -> usr/none/deep",
            "lib -> usr/lib",
            "usr/ 755",
            "usr/lib/ 711",
            "usr/up -> ../../../lib",
        ]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
        lines.sort_unstable();
        lines
    };
    let old = "usr/lib/old 644 \"1\"";
    for path in ["lib/x", "abs/x", "usr/up/x"] {
        assert_eq!(
            image(&[below(), vec![E::file(path, "2")]]),
            with(&[old, "usr/lib/x 644 \"2\""]),
            "{path}"
        );
    }
    assert_eq!(
        image(&[below(), vec![E::file("dangling/x", "2")]]),
        with(&[
            old,
            "usr/none/ 755",
            "usr/none/deep/ 755",
            "usr/none/deep/x 644 \"2\""
        ])
    );
    assert_eq!(
        image(&[
            below(),
            vec![E::file("lib/.wh.old", ""), E::file("usr/lib/x", "2")]
        ]),
        with(&["usr/lib/x 644 \"2\""])
    );
    assert_eq!(
        image(&[
            below(),
            vec![E::file("lib/.wh..wh..opq", ""), E::file("usr/lib/x", "2")]
        ]),
        with(&["usr/lib/x 644 \"2\""])
    );
}

#[test]
fn whiteouts_and_named_directories_take_the_place_of_symlinks() {
    let below = || {
        vec![
            root(),
            E::symlink("lib", "usr/lib"),
            E::file("usr/lib/old", "1"),
        ]
    };
    let rest = ["usr/ 755", "usr/lib/ 755", "usr/lib/old 644 \"1\""];
    let with = |lines: &[&'static str]| [&["./ 755"], lines, &rest].concat();
    assert_eq!(
        image(&[below(), vec![E::file(".wh.lib", ""), E::file("lib/x", "2")]]),
        with(&["lib/ 755", "lib/x 644 \"2\""])
    );
    assert_eq!(
        image(&[below(), vec![dir("lib", 0o700), E::file("lib/x", "2")]]),
        with(&["lib/ 700", "lib/x 644 \"2\""])
    );
    assert_eq!(
        image(&[below(), vec![E::file(".wh.lib", ""), E::file("lib", "2")]]),
        with(&["lib 644 \"2\""])
    );
}

#[test]
fn an_opaque_directory_behind_a_symlink_to_the_root_empties_the_root() {
    assert_eq!(
        image(&[
            vec![
                root(),
                E::file("a", "1"),
                E::symlink("top", "/"),
                dir("d", 0o755)
            ],
            vec![E::file("top/.wh..wh..opq", ""), E::file("b", "2")],
        ])[..2],
        ["./ 755", "b 644 \"2\""]
    );
}

#[test]
fn hard_links_to_lower_files_are_more_names_of_them() {
    assert_eq!(
        image(&[
            vec![
                root(),
                E::file("a", "1").mode(0o4755).owner(5, 6),
                E::symlink("s", "a"),
                E::symlink("lib", "d"),
                E::file("d/f", "2")
            ],
            vec![
                E::hard_link("b", "a").mode(0o600),
                E::hard_link("c", "b"),
                E::hard_link("t", "s"),
                E::hard_link("g", "lib/f"),
            ],
            vec![E::hard_link("h", "c"), E::file("c", "own")],
        ]),
        [
            "./ 755",
            "a 4755 5:6 x3 \"1\"",
            "b 4755 5:6 x3 \"1\"",
            "c 644 \"own\"",
            "d/ 755",
            "d/f 644 x2 \"2\"",
            "g 644 x2 \"2\"",
            "h 4755 5:6 x3 \"1\"",
            "lib -> d",
            "s -> a x2",
            "t -> a x2"
        ]
    );
}

#[test]
fn hard_links_name_lower_files_as_they_were_before_the_layer() {
    for order in [[0, 1], [1, 0]] {
        let entries = [E::hard_link("b", "a"), E::file(".wh.a", "")];
        assert_eq!(
            image(&[
                vec![root(), E::file("a", "1")],
                order.map(|at| entries[at].clone()).to_vec()
            ]),
            ["./ 755", "b 644 \"1\""]
        );
    }
    assert_eq!(
        image(&[
            vec![root(), E::file("a", "1")],
            vec![E::hard_link("b", "a"), E::file("a", "2")]
        ]),
        ["./ 755", "a 644 \"2\"", "b 644 \"1\""]
    );
}

#[test]
fn hard_links_to_nothing_and_symlinks_without_an_end_are_refused_by_name() {
    for (layers, said) in [
        (vec![vec![E::hard_link("d/b", "a")]], "entry `d/b`"),
        (
            vec![
                vec![E::file("a", "")],
                vec![E::file(".wh.a", "")],
                vec![E::hard_link("b", "a")],
            ],
            "neither an earlier entry nor in a layer below",
        ),
        (
            vec![vec![E::directory("d")], vec![E::hard_link("b", "d")]],
            "neither an earlier entry nor in a layer below",
        ),
        (
            vec![vec![E::symlink("l", "l")], vec![E::hard_link("b", "l/x")]],
            "neither an earlier entry nor in a layer below",
        ),
        (
            vec![
                vec![E::symlink("x/l", "m"), E::symlink("x/m", "l")],
                vec![E::file("x/l/f", "")],
            ],
            "entry `x/l` of layer",
        ),
        (
            vec![vec![E::symlink("l", "l")], vec![E::file("l/f", "")]],
            "do not come to an end",
        ),
    ] {
        let error = refused(&layers);
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn a_symlink_to_a_file_does_not_make_a_directory_of_the_file() {
    assert_eq!(
        image(&[
            vec![root(), E::file("f", "1"), E::symlink("l", "f")],
            vec![E::file("l/x", "2")]
        ]),
        ["./ 755", "f 644 \"1\"", "l/ 755", "l/x 644 \"2\""]
    );
}

#[test]
fn devices_capabilities_and_times_come_through() {
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let device = device(&[
        vec![
            root().mtime(5),
            E::device(b'3', "null", 1, 3).mode(0o666),
            E::device(b'4', "disk", 259, 0x1_2345),
            E::new(b'6', "pipe").mode(0o600),
            E::file("ping", "x").pax("SCHILY.xattr.security.capability", capability),
            E::file("late", "x").pax("mtime", "9000000000.000000001"),
            E::symlink("long", "t/".repeat(2000)),
        ],
        vec![
            E::file("zeros", vec![0; 3 << 20]),
            E::file("more", [7; 5000]),
        ],
    ])
    .unwrap();
    fsck(&device);
    let mounted = Mounted::new(&device);
    use std::os::unix::fs::MetadataExt as _;
    let stat = |path: &str| mounted.stat(path);
    let number = |path: &str| {
        let number = stat(path).rdev();
        (rustix::fs::major(number), rustix::fs::minor(number))
    };
    assert_eq!((number("null"), number("disk")), ((1, 3), (259, 0x1_2345)));
    assert_eq!(stat("pipe").mode(), 0o010_600);
    assert_eq!(mounted.xattrs("ping")["security.capability"], capability);
    assert_eq!(
        (
            stat("late").mtime(),
            stat("late").mtime_nsec(),
            stat("").mtime()
        ),
        (9_000_000_000, 1, 5)
    );
    assert_eq!(
        fs_err::read_link(mounted.at("long"))
            .unwrap()
            .as_os_str()
            .len(),
        4000
    );
    assert!(fs_err::read(mounted.at("zeros")).unwrap() == vec![0; 3 << 20]);
    assert_eq!(fs_err::read(mounted.at("more")).unwrap(), [7; 5000]);
}

#[test]
fn marks_and_bookkeeping_of_layers_do_not_show() {
    let lines = image(&[
        vec![
            E::file("d/f", "1"),
            E::directory(".wh..wh.plnk"),
            E::file(".wh..wh.plnk/1.2", "x"),
        ],
        vec![
            E::file("d/g", "2"),
            E::file("d/.wh..wh..opq", ""),
            E::hard_link("h", "d/f"),
        ],
    ]);
    assert_eq!(lines, ["./ 755", "d/ 755", "d/g 644 \"2\"", "h 644 \"1\""]);
}

#[test]
fn an_image_of_nothing_is_an_empty_directory() {
    assert_eq!(image(&[]), ["./ 755"]);
    assert_eq!(image(&[vec![], vec![]]), ["./ 755"]);
}

#[test]
fn many_layers_of_large_directories_are_merged() {
    let layers: Vec<_> = (0..127)
        .map(|layer| {
            (0..40)
                .map(|file| E::file(format!("d/{file:03}-{layer:03}"), layer.to_string()))
                .chain([E::file(format!("d/.wh.000-{:03}", layer - 1), "")])
                .collect()
        })
        .collect();
    let lines = image(&layers);
    assert_eq!(lines.len(), 2 + 127 * 40 - 126);
    assert!(lines.contains(&"d/039-126 644 \"126\"".to_owned()));
    assert!(!lines.iter().any(|line| line.starts_with("d/000-125")));
}

#[test]
fn damaged_layers_are_errors_never_panics() {
    let below = layer(&TestArchive::of([E::file("a/b", "x"), E::file("c", "y")]));
    let sound = layer(&TestArchive::of([
        E::directory("d").pax("SCHILY.xattr.user.a", "b"),
        E::symlink("d/l", "x"),
        E::file("a/.wh.b", ""),
        E::file("a/.wh..wh..opq", ""),
        E::hard_link("h", "c"),
    ]));
    let begin = (0..sound.len()).find(|&at| at >= 4096 && sound[at] != 0);
    let places = (1024..1152).step_by(7).chain(begin.unwrap()..sound.len());
    let mut refused = 0;
    for at in places.filter(|&at| at < 4096 || sound[at] != 0) {
        for flip in [1, 0xff] {
            let mut damaged = sound.clone();
            damaged[at] ^= flip;
            refused += u32::from(merged(&[below.clone(), damaged]).is_err());
        }
    }
    assert!(refused > 100, "{refused}");
    for length in [0, 1000, 4096, sound.len() - 4096] {
        let error = merged(&[sound[..length].to_vec()]).unwrap_err();
        assert!(error.contains("is damaged"), "{error}");
    }
}
