//! The table of what archives become: accepted with these results, or refused with these words.

use proptest::prelude::*;

use super::*;
use crate::test_archive::{TestArchive, TestEntry};
use crate::tree::{ROOT, S_IFMT, Tree};

fn tree(archive: &[u8]) -> Result<Tree, ConvertError> {
    let mut data = DataWriter::new(Nowhere);
    convert(
        &mut Archive::new(archive),
        &mut data,
        &Limits::new(10_000, 1 << 30),
    )
}

struct Nowhere;

impl BlockOutput for Nowhere {
    fn write_at(&mut self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_length(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// All that can be reached, one line each: `a/ 755`, `a/~` (implied), `a/! 755` (opaque), `a/f 644 #5` (size), `l -> t`, `-w` (whiteout),
/// `h => t` (link to a lower file).
fn listing(tree: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    let mut ahead = vec![(ROOT, String::new())];
    while let Some((directory, path)) = ahead.pop() {
        for dentry in tree
            .dentries()
            .iter()
            .filter(|dentry| dentry.parent == directory)
        {
            let node = tree.node(dentry.node);
            let path = format!("{path}{}", String::from_utf8_lossy(tree.name(dentry)));
            let mode = tree.attributes(dentry.node).mode;
            lines.push(match mode & S_IFMT {
                S_IFDIR => {
                    ahead.push((dentry.node, format!("{path}/")));
                    let opaque = if node.is_opaque() { "!" } else { "" };
                    match node.is_implied() {
                        true => format!("{path}/{opaque}~"),
                        false => format!("{path}/{opaque} {:o}", mode & !S_IFMT),
                    }
                }
                S_IFLNK => format!(
                    "{path} -> {}",
                    String::from_utf8_lossy(tree.link_target(dentry.node))
                ),
                S_IFCHR if node.is_whiteout() => format!("-{path}"),
                S_IFREG if node.is_lower_link() => format!(
                    "{path} => {}",
                    String::from_utf8_lossy(tree.link_target(dentry.node))
                ),
                S_IFREG => format!("{path} {:o} #{}", mode & !S_IFMT, node.size),
                other => format!("{path} {other:o}"),
            });
        }
    }
    lines.sort();
    lines
}

fn accepted(entries: impl IntoIterator<Item = TestEntry>) -> Vec<String> {
    listing(&tree(&TestArchive::of(entries)).unwrap())
}

fn refused(entries: impl IntoIterator<Item = TestEntry>) -> String {
    let error = tree(&TestArchive::of(entries))
        .map(|tree| listing(&tree))
        .unwrap_err();
    let source = std::error::Error::source(&error)
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    format!("{error}{source}")
}

use TestEntry as E;

#[test]
fn names_are_normalised() {
    assert_eq!(
        accepted([E::file("./a//b/./c", "x"), E::file("/etc/f", "xy")]),
        ["a/b/c 644 #1", "a/b/~", "a/~", "etc/f 644 #2", "etc/~"]
    );
    assert_eq!(
        accepted([E::file([0xff, 0x1b], "")]),
        ["\u{fffd}\x1b 644 #0"]
    );
    let long = format!("{}/{}", "d".repeat(255), "n".repeat(255));
    assert_eq!(accepted([E::file(&long, "")]).len(), 2);
}

#[test]
fn names_that_lead_out_or_cannot_be_are_refused() {
    for (entry, said) in [
        (E::file("../x", ""), "goes up with `..`"),
        (E::file("a/../../x", ""), "goes up with `..`"),
        (E::directory("a/.."), "goes up with `..`"),
        (E::hard_link("x", "../../etc/shadow"), "goes up with `..`"),
        (E::file("n".repeat(256), ""), "longer than 255"),
        (E::file("d/".repeat(3000), ""), "longer than 4095"),
        (
            E::file("d/".repeat(300) + "f", ""),
            "more than 256 directories",
        ),
        (E::file("x", "").pax("path", "a\0b"), "NUL"),
        (E::symlink("x", "").pax("linkpath", "a\0b"), "NUL"),
        (E::symlink("x", ""), "target is empty"),
        (E::symlink("x", "t".repeat(5000)), "longer than 4095"),
        (E::file("./", "x"), "place of the root"),
        (E::symlink(".", "x"), "place of the root"),
        (E::file(".wh.", ""), "whiteout of no possible name"),
        (E::file("a/.wh...", ""), "whiteout of no possible name"),
        (E::file(".wh.a/b", ""), "whiteout of no possible name"),
    ] {
        let error = refused([entry]);
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn the_last_entry_of_a_name_wins() {
    assert_eq!(
        accepted([E::file("f", "old"), E::file("f", "newer").mode(0o600)]),
        ["f 600 #5"]
    );
    assert_eq!(
        accepted([E::file("d", "x"), E::directory("d/"), E::file("d/f", "")]),
        ["d/ 755", "d/f 644 #0"]
    );
    assert_eq!(
        accepted([E::file("d/a/b", "x"), E::file("d", "file")]),
        ["d 644 #4"]
    );
    assert_eq!(
        accepted([E::symlink("d", "/etc"), E::directory("d")]),
        ["d/ 755"]
    );
    assert_eq!(
        accepted([
            E::file("d/f", ""),
            E::directory("d").mode(0o700),
            E::directory("d").mode(0o1777)
        ]),
        ["d/ 1777", "d/f 644 #0"]
    );
    assert_eq!(
        accepted([
            E::file("d/f", ""),
            E::symlink("d", "x"),
            E::directory("x"),
            E::file("d/g", "")
        ]),
        ["d -> x", "x/ 755", "x/g 644 #0"]
    );
}

#[test]
fn parents_are_followed_through_symlinks_inside_the_layer_only() {
    assert_eq!(
        accepted([E::symlink("lib", "usr/lib"), E::file("lib/x", "")]),
        ["lib -> usr/lib", "usr/lib/x 644 #0", "usr/lib/~", "usr/~"]
    );
    assert_eq!(
        accepted([E::symlink("a/up", "../../../../b"), E::file("a/up/x", "")]),
        ["a/up -> ../../../../b", "a/~", "b/x 644 #0", "b/~"]
    );
    assert_eq!(
        accepted([E::symlink("abs", "/etc"), E::file("abs/passwd", "")]),
        ["abs -> /etc", "etc/passwd 644 #0", "etc/~"]
    );
    assert_eq!(
        accepted([E::symlink("l", "d"), E::file("l", "x")]),
        ["l 644 #1"]
    );
    for (loops, said) in [
        (
            vec![E::symlink("a", "a"), E::file("a/x", "")],
            "do not come to an end",
        ),
        (
            vec![
                E::symlink("a", "b"),
                E::symlink("b", "a"),
                E::file("a/x", ""),
            ],
            "do not come to an end",
        ),
        (
            vec![E::symlink("a", "a/".repeat(200)), E::file("a/x", "")],
            "more than 256 directories",
        ),
        (
            vec![E::file("f", ""), E::file("f/x", "")],
            "not a directory",
        ),
        (
            vec![E::symlink("a", "n".repeat(300)), E::file("a/x", "")],
            "longer than 255",
        ),
    ] {
        let error = refused(loops);
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn whiteouts_take_away_lower_names_never_own_ones() {
    assert_eq!(accepted([E::file("d/.wh.f", "")]), ["-d/f", "d/~"]);
    assert_eq!(
        accepted([E::file("f", "x"), E::file(".wh.f", "")]),
        ["f 644 #1"]
    );
    assert_eq!(
        accepted([E::file(".wh.f", ""), E::file("f", "x")]),
        ["f 644 #1"]
    );
    assert_eq!(
        accepted([E::directory("d"), E::file(".wh.d", "")]),
        ["d/! 755"]
    );
    assert_eq!(
        accepted([E::file(".wh.d", ""), E::directory("d")]),
        ["d/! 755"]
    );
    assert_eq!(
        accepted([E::file(".wh.d", ""), E::file("d/f", "")]),
        ["d/! 755", "d/f 644 #0"]
    );
    assert_eq!(
        accepted([E::file("d/f", ""), E::file(".wh.d", "")]),
        ["d/! 755", "d/f 644 #0"]
    );
    assert_eq!(
        accepted([E::file("d/f", ""), E::file("d/.wh..wh..opq", "")]),
        ["d/!~", "d/f 644 #0"]
    );
    assert_eq!(
        accepted([E::file("d/.wh..wh..opq", ""), E::directory("d").mode(0o700)]),
        ["d/! 700"]
    );
    assert_eq!(
        accepted([E::symlink("l", "d"), E::file("l/.wh.f", "")]),
        ["-d/f", "d/~", "l -> d"]
    );
    assert_eq!(
        accepted([
            E::directory(".wh..wh.plnk"),
            E::file(".wh..wh.plnk/1.2", "x"),
            E::file(".wh..wh.aufs", "")
        ]),
        Vec::<String>::new()
    );
    let root = tree(&TestArchive::of([E::file(".wh..wh..opq", "")])).unwrap();
    assert!(root.node(ROOT).is_opaque());
}

#[test]
fn hard_links_name_earlier_files_of_the_layer() {
    assert_eq!(
        accepted([E::file("a", "x"), E::hard_link("b/c", "./a")]),
        ["a 644 #1", "b/c 644 #1", "b/~"]
    );
    assert_eq!(
        accepted([E::symlink("a", "t"), E::hard_link("b", "a")]),
        ["a -> t", "b -> t"]
    );
    assert_eq!(
        accepted([
            E::file("a", "x"),
            E::hard_link("b", "a"),
            E::file("a", "new")
        ]),
        ["a 644 #3", "b 644 #1"]
    );
    assert_eq!(
        accepted([
            E::symlink("l", "d"),
            E::file("d/f", "x"),
            E::hard_link("h", "l/f")
        ]),
        ["d/f 644 #1", "d/~", "h 644 #1", "l -> d"]
    );
    for (entries, said) in [
        (
            vec![E::file("f", ""), E::hard_link("a", "f/x")],
            "a parent of its hard link target is not a directory",
        ),
        (
            vec![E::symlink("l", "l"), E::hard_link("a", "l/x")],
            "do not come to an end",
        ),
        (
            vec![E::file("a", ""), E::hard_link("a", "./a")],
            "to itself",
        ),
        (
            vec![E::directory("d"), E::hard_link("a", "d")],
            "not a file",
        ),
        (vec![E::hard_link("a", "/")], "not a file"),
        (vec![E::hard_link("a", "")], "not a file"),
    ] {
        let error = refused(entries);
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn hard_links_to_what_the_layer_does_not_have_are_left_to_the_merge() {
    for (entries, listed) in [
        (
            vec![E::hard_link("b", "a"), E::file("a", "x")],
            vec!["a 644 #1", "b => a"],
        ),
        (
            vec![E::hard_link("b", "./etc//passwd"), E::hard_link("c", "b")],
            vec!["b => etc/passwd", "c => etc/passwd"],
        ),
        (
            vec![E::symlink("l", "../d/../e"), E::hard_link("b", "l/x/y")],
            vec!["b => d/../e/x/y", "l -> ../d/../e"],
        ),
        (
            vec![
                E::directory("d"),
                E::symlink("l", "d"),
                E::hard_link("b", "l/x"),
            ],
            vec!["b => d/x", "d/ 755", "l -> d"],
        ),
        (
            vec![E::file(".wh.w", ""), E::hard_link("a", "w")],
            vec!["-w", "a => w"],
        ),
        (
            vec![E::hard_link("b", "a"), E::file("b", "own")],
            vec!["b 644 #3"],
        ),
    ] {
        assert_eq!(accepted(entries), listed);
    }
}

#[test]
fn what_would_fool_the_overlay_is_refused() {
    assert!(refused([E::device(b'3', "w", 0, 0)]).contains("would hide a file of a lower layer"));
    for name in ["opaque", "redirect", "metacopy", "origin"] {
        let entry = E::directory("d").pax(&format!("SCHILY.xattr.trusted.overlay.{name}"), "y");
        assert!(
            refused([entry]).contains("overlay file system itself"),
            "{name}"
        );
    }
    let forged = E::directory("d").pax("SCHILY.xattr.trusted.agent-vm.implied", "");
    assert!(refused([forged]).contains("of the image store itself"));
}

#[test]
fn attributes_out_of_range_are_refused_by_name() {
    for (entry, said) in [
        (
            E::device(b'4', "e", 1 << 12, 0),
            "device number out of range",
        ),
        (
            E::device(b'4', "e", 0, 1 << 20),
            "device number out of range",
        ),
        (
            E::file("e", "").pax("uid", "4294967296"),
            "pax uid out of range",
        ),
        (E::file("e", "").pax("uid", "-1"), "pax uid out of range"),
        (E::file("e", "").owner(1 << 40, 0), "owner out of range"),
        (E::file("e", "").pax("mtime", "soon"), "malformed pax mtime"),
        (
            E::file("e", "").pax("SCHILY.xattr.user.big", vec![b'x'; 65_536]),
            "too large or unnamed",
        ),
        (
            E::file("e", "").pax(&format!("SCHILY.xattr.user.{}", "n".repeat(300)), "x"),
            "too long",
        ),
        (
            E::file("e", "").pax("gid", "4294967295"),
            "means nobody at all",
        ),
        (E::new(b'Z', "e"), "unknown entry type"),
        (E::new(b'M', "e"), "unknown entry type"),
    ] {
        let error = refused([entry]);
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn too_much_is_refused() {
    let entries = (0..10_001).map(|number| E::file(format!("f{number}"), ""));
    assert!(refused(entries).contains("too much of something at entry `f10000`: entries"));
    let parents = (0..50).map(|number| E::file(format!("{number}/{}", "d/".repeat(250)), ""));
    assert!(refused(parents).contains("entries"));
    let bomb = E::file("bomb", "")
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.realsize", "1099511627776");
    let bomb = bomb.body(b"0\n").size(512);
    assert!(refused([bomb]).contains("bytes in files"));
    let xattrs = (0..400).map(|number| {
        let value = [vec![b'v'; 60_000], number.to_string().into_bytes()].concat();
        E::file(format!("x{number}"), "").pax("SCHILY.xattr.user.x", value)
    });
    assert!(refused(xattrs).contains("names or extended attributes"));
}

#[test]
fn hostile_names_are_escaped_and_cut_in_messages() {
    let error = refused([E::file(format!("\x1b]0;{}/..", "n".repeat(2000)), "")]);
    assert!(
        error.contains("entry `\\x1b]0;nnn") && error.len() < 500 && !error.contains('\x1b'),
        "{error}"
    );
}

fn any_entry() -> impl Strategy<Value = (u8, String, String)> {
    let kind = prop_oneof![Just(b'0'), Just(b'1'), Just(b'2'), Just(b'5'), Just(b'6')];
    (kind, "(\\.wh\\.)?[ab./]{1,6}", "[ab./]{0,6}")
}

proptest! {
    #[test]
    fn any_archive_is_refused_or_makes_a_tree_without_escapes(entries in proptest::collection::vec(any_entry(), 0..20)) {
        let archive = TestArchive::of(entries.iter().map(|(kind, path, target)| match kind {
            b'1' => E::hard_link(path, target),
            b'2' => E::symlink(path, target),
            kind => E::new(*kind, path),
        }));
        crate::layer::fuzz_tar(&archive);
        if let Ok(tree) = tree(&archive) {
            for dentry in tree.dentries().iter() {
                let name = tree.name(dentry);
                prop_assert!(!name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.starts_with(b".wh."));
            }
        }
    }

    #[test]
    fn damaged_archives_never_panic(at in 0..2048_usize, byte: u8) {
        let mut archive = TestArchive::of([E::file("a", "content").pax("mtime", "5"), E::symlink("l", "a")]);
        archive[at] = byte;
        crate::layer::fuzz_tar(&archive);
    }
}
