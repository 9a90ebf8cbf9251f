//! The images are judged by others: `fsck.erofs`, and the kernel that mounts them.

#![expect(
    clippy::disallowed_methods,
    reason = "tests start the tools that judge"
)]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use super::*;
use crate::archive::Archive;
use crate::convert::{Limits, convert};
use crate::test_archive::{TestArchive, TestEntry};
use crate::test_mount::{Mounted, fsck_file, run};

fn image(archive: &[u8]) -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().unwrap();
    let mut data = DataWriter::new(image.as_file());
    let mut tree = convert(&mut Archive::new(archive), &mut data, &Limits::default()).unwrap();
    write_metadata(&mut tree, data, ImageDigest::of(archive)).unwrap();
    fsck_file(image.path());
    image
}

fn mounted(archive: &[u8]) -> Mounted {
    Mounted::file(image(archive))
}

#[test]
fn kernel_reads_modes_owners_times_and_contents_as_the_archive_says() {
    let large: Vec<u8> = (0..1_000_000_u32)
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let layer = mounted(&TestArchive::of([
        TestEntry::directory("./")
            .mode(0o711)
            .owner(7, 8)
            .mtime(1_700_000_000),
        TestEntry::directory("tmp/").mode(0o1777).mtime(11),
        TestEntry::file("bin/su", b"setuid").mode(0o4755).mtime(12),
        TestEntry::file("bin/wall", b"setgid")
            .mode(0o2755)
            .owner(0, 5),
        TestEntry::file("empty", b""),
        TestEntry::file("block", [b'b'; 4096]),
        TestEntry::file("large", &large),
        TestEntry::file("zeros", vec![0; 3 << 20]),
        TestEntry::file("owned", b"x")
            .pax("uid", "4294967294")
            .pax("gid", "100000"),
        TestEntry::file("times", b"x").pax("mtime", "-1.5"),
        TestEntry::file("late", b"x").pax("mtime", "9000000000.000000001"),
    ]));
    let of = |path: &str| {
        let stat = layer.stat(path);
        (
            stat.mode() & 0o7777,
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
        )
    };
    assert_eq!(of(""), (0o711, 7, 8, 1_700_000_000, 0));
    assert_eq!(of("tmp"), (0o1777, 0, 0, 11, 0));
    assert_eq!(of("bin"), (0o755, 0, 0, 0, 0));
    assert_eq!(of("bin/su"), (0o4755, 0, 0, 12, 0));
    assert_eq!(of("bin/wall"), (0o2755, 0, 5, 0, 0));
    assert_eq!(of("owned"), (0o644, 4_294_967_294, 100_000, 0, 0));
    assert_eq!(of("times"), (0o644, 0, 0, -2, 500_000_000));
    assert_eq!(of("late"), (0o644, 0, 0, 9_000_000_000, 1));
    let content = |path: &str| fs_err::read(layer.at(path)).unwrap();
    assert_eq!(content("empty"), b"");
    assert_eq!(content("block"), [b'b'; 4096]);
    assert!(content("large") == large, "the large file differs");
    assert!(
        content("zeros") == vec![0; 3 << 20],
        "the hole does not read as zeros"
    );
}

#[test]
fn kernel_reads_links_and_special_files() {
    let long_target = "t/".repeat(2000);
    let layer = mounted(&TestArchive::of([
        TestEntry::file("a", b"shared"),
        TestEntry::hard_link("d/b", "./a"),
        TestEntry::hard_link("c", "d/b"),
        TestEntry::symlink("link", "../../outside"),
        TestEntry::symlink("long", &long_target),
        TestEntry::hard_link("link2", "link"),
        TestEntry::device(b'3', "tty", 4, 65),
        TestEntry::device(b'4', "disk", 259, 0x1_2345),
        TestEntry::new(b'6', "pipe").mode(0o600),
    ]));
    assert_eq!(
        (layer.stat("a").nlink(), layer.stat("a").ino()),
        (3, layer.stat("d/b").ino())
    );
    assert_eq!(fs_err::read(layer.at("c")).unwrap(), b"shared");
    assert_eq!(
        fs_err::read_link(layer.at("link")).unwrap(),
        Path::new("../../outside")
    );
    assert_eq!(
        fs_err::read_link(layer.at("long")).unwrap(),
        Path::new(&long_target)
    );
    assert_eq!(layer.stat("link2").nlink(), 2);
    let device = |path: &str| {
        let number = layer.stat(path).rdev();
        (rustix::fs::major(number), rustix::fs::minor(number))
    };
    assert_eq!(
        (
            layer.stat("tty").file_type().is_char_device(),
            device("tty")
        ),
        (true, (4, 65))
    );
    assert_eq!(
        (
            layer.stat("disk").file_type().is_block_device(),
            device("disk")
        ),
        (true, (259, 0x1_2345))
    );
    assert!(layer.stat("pipe").file_type().is_fifo());
    assert_eq!((layer.stat("").nlink(), layer.stat("d").nlink()), (3, 2));
}

#[test]
fn kernel_reads_extended_attributes_also_across_blocks() {
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut many = TestEntry::file("many", b"x");
    for number in 0..200 {
        many = many.pax(&format!("SCHILY.xattr.user.n{number}"), [number; 100]);
    }
    let layer = mounted(&TestArchive::of([
        TestEntry::file("ping", b"x").pax("SCHILY.xattr.security.capability", capability),
        many,
        TestEntry::file("big", b"x").pax("SCHILY.xattr.user.big", [b'v'; 40_000]),
        TestEntry::symlink("link", "x".repeat(500)).pax("SCHILY.xattr.trusted.t", "on a link"),
        TestEntry::directory("dir")
            .pax("SCHILY.xattr.user.empty", "")
            .pax("SCHILY.xattr.com.apple.x", "y"),
        TestEntry::file("dir/.wh..wh..opq", b""),
    ]));
    assert_eq!(
        layer.xattrs("ping"),
        BTreeMap::from([("security.capability".into(), capability.to_vec())])
    );
    let many = layer.xattrs("many");
    assert_eq!(many.len(), 200);
    assert!((0..200_u8).all(|number| many[&format!("user.n{number}")] == [number; 100]));
    assert_eq!(layer.xattrs("big")["user.big"], [b'v'; 40_000]);
    assert_eq!(layer.xattrs("link")["trusted.t"], b"on a link");
    assert_eq!(
        fs_err::read_link(layer.at("link"))
            .unwrap()
            .as_os_str()
            .len(),
        500
    );
    let opaque = [
        ("trusted.agent-vm.opaque".into(), Vec::new()),
        ("user.empty".into(), Vec::new()),
    ];
    assert_eq!(layer.xattrs("dir"), BTreeMap::from(opaque));
}

#[test]
fn kernel_finds_every_name_in_directories_of_every_size() {
    let mut archive = TestArchive::default();
    let mut expected: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
    for count in [0, 1, 2, 30, 250, 3000] {
        archive.push(TestEntry::directory(format!("d{count}")));
        for number in 0..count {
            // Names on both sides of `.` and `..` in the order of bytes, some of full length, some not UTF-8.
            let name = match number % 4 {
                0 => format!("!{number}").into_bytes(),
                1 => format!(".!{number}").into_bytes(),
                2 => [format!("{number}-").as_bytes(), &[0xff; 240]].concat(),
                _ => format!("file-{number}").into_bytes(),
            };
            archive.push(TestEntry::file(
                [format!("d{count}/").as_bytes(), &name].concat(),
                number.to_string(),
            ));
            expected.entry(count).or_default().push(name);
        }
    }
    let layer = mounted(&archive.finish());
    for (count, mut names) in expected {
        let directory = format!("d{count}");
        for (number, name) in names.iter().enumerate() {
            let path = layer.at(&directory).join(std::ffi::OsStr::from_bytes(name));
            assert_eq!(fs_err::read_to_string(path).unwrap(), number.to_string());
        }
        names.sort();
        assert_eq!(layer.names(&directory), names);
        assert!(!layer.at(&directory).join("no such name").exists());
    }
    assert_eq!(layer.names("d0"), Vec::<Vec<u8>>::new());
}

#[test]
fn gnu_tar_finds_no_difference_between_its_archive_and_the_mounted_layer() {
    let source = tempfile::tempdir().unwrap();
    let at = |path: &str| source.path().join(path);
    for directory in ["sub/empty", "sub/deep/er"] {
        fs_err::create_dir_all(at(directory)).unwrap();
    }
    for number in 0..300_usize {
        fs_err::write(
            at(&format!("sub/file{number}")),
            vec![number as u8; number * 97],
        )
        .unwrap();
    }
    fs_err::hard_link(at("sub/file299"), at("sub/deep/same")).unwrap();
    fs_err::os::unix::fs::symlink("file1", at("sub/link")).unwrap();
    let sparse = fs_err::File::create(at("sparse")).unwrap();
    sparse.file().write_all_at(b"middle", 3 << 20).unwrap();
    sparse.set_len(9 << 20).unwrap();
    for format in [
        "gnu",
        "pax",
        "--sparse --sparse-version=0.1 --format=pax",
        "--sparse --format=gnu",
        "--sparse --format=pax",
    ] {
        let mut pack = Command::new("tar");
        pack.args(["--create", "--directory"]).arg(source.path());
        match format.starts_with("--") {
            true => pack.args(format.split(' ')),
            false => pack.arg(format!("--format={format}")),
        };
        let archive = source.path().with_extension("tar");
        run(pack.arg("--file").arg(&archive).arg(".")).unwrap();
        let layer = mounted(&fs_err::read(&archive).unwrap());
        let mut compare = Command::new("tar");
        compare
            .arg("--compare")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(layer.path());
        assert_eq!(run(&mut compare), Ok(String::new()), "{format}");
        fs_err::remove_file(&archive).unwrap();
    }
}

#[test]
fn the_same_archive_makes_the_same_bytes() {
    let archive = TestArchive::of([
        TestEntry::file("a/b", b"x"),
        TestEntry::symlink("l", "a"),
        TestEntry::directory("z"),
    ]);
    let bytes = |file: tempfile::NamedTempFile| fs_err::read(file.path()).unwrap();
    assert_eq!(bytes(image(&archive)), bytes(image(&archive)));
}

#[test]
fn a_layer_is_recognised_only_whole() {
    let archive = TestArchive::of([TestEntry::file("a", b"x")]);
    let file = image(&archive);
    let diff_id = ImageDigest::of(&archive);
    let found = |diff_id| inspect(file.as_file(), diff_id).unwrap();
    let blocks = file.as_file().metadata().unwrap().len() / BLOCK_SIZE;
    assert_eq!(
        found(diff_id).map(|header| u64::from(header.blocks)),
        Some(blocks)
    );
    assert_eq!(found(ImageDigest::of(b"other")), None);
    assert!(!is_merged(file.as_file(), diff_id, 0).unwrap());
    for length in [4096, 4095, 0] {
        file.as_file().set_len(length).unwrap();
        assert_eq!(found(diff_id), None);
    }
}
