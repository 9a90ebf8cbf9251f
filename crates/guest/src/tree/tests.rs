//! Nothing in the image leads out of the tree.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn tree() -> (tempfile::TempDir, Tree) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("root")).unwrap();
    let tree = Tree::open(directory.path().join("root").to_str().unwrap()).unwrap();
    (directory, tree)
}

fn path(text: &str) -> GuestPath {
    GuestPath::new(text).unwrap()
}

#[test]
fn an_absolute_link_of_the_image_stays_inside() {
    let (outer, tree) = tree();
    let root = outer.path().join("root");
    std::fs::create_dir(root.join("data")).unwrap();
    symlink("/data", root.join("link")).unwrap();
    tree.directory(&path("/link/new/deep")).unwrap();
    assert!(root.join("data/new/deep").is_dir());
}

#[test]
fn a_link_upwards_stays_inside() {
    let (outer, tree) = tree();
    let root = outer.path().join("root");
    symlink("../../..", root.join("up")).unwrap();
    tree.write(&path("/up/file"), b"x", Attributes::PLAIN)
        .unwrap();
    assert_eq!(fs_err::read(root.join("file")).unwrap(), b"x");
    assert!(!outer.path().join("file").exists());
}

#[test]
fn a_written_file_replaces_a_link_and_not_its_target() {
    let (outer, tree) = tree();
    let root = outer.path().join("root");
    fs_err::write(root.join("target"), "old").unwrap();
    symlink("target", root.join("link")).unwrap();
    tree.write(
        &path("/link"),
        b"new",
        Attributes {
            mode: 0o750,
            uid: 0,
            gid: 0,
        },
    )
    .unwrap();
    assert_eq!(fs_err::read(root.join("target")).unwrap(), b"old");
    let meta = std::fs::symlink_metadata(root.join("link")).unwrap();
    assert!(meta.is_file());
    assert_eq!(meta.permissions().mode() & 0o7777, 0o750);
}

#[test]
fn a_dangling_link_is_an_error_not_a_new_file_elsewhere() {
    let (outer, tree) = tree();
    symlink("/nowhere", outer.path().join("root/link")).unwrap();
    assert!(matches!(
        tree.directory(&path("/link")),
        Err(TreeError::Io { .. })
    ));
    assert!(matches!(
        tree.file(&path("/link")),
        Err(TreeError::Io { .. })
    ));
    assert!(!outer.path().join("root/nowhere").exists());
}

#[test]
fn a_mount_point_for_a_file_is_made_once_and_kept() {
    let (outer, tree) = tree();
    tree.file(&path("/etc/deep/файл name")).unwrap();
    fs_err::write(outer.path().join("root/etc/deep/файл name"), "kept").unwrap();
    tree.file(&path("/etc/deep/файл name")).unwrap();
    assert_eq!(tree.read("/etc/deep/файл name").unwrap().unwrap(), b"kept");
    assert!(tree.file(&path("/etc")).is_err());
}

#[test]
fn reading_what_is_not_there_is_none() {
    let (_outer, tree) = tree();
    assert!(tree.read("/etc/none").unwrap().is_none());
}

#[test]
fn the_root_itself_is_a_directory_and_no_file() {
    let (_outer, tree) = tree();
    tree.directory(&GuestPath::root()).unwrap();
    assert!(
        tree.write(&GuestPath::root(), b"", Attributes::PLAIN)
            .is_err()
    );
}
