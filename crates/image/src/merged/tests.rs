//! The merged image of a store: made when it is missing, anew when it is of other layers, and refused by name.

use crate::archive::Archive;
use crate::convert::{Limits, convert};
use crate::erofs::{DataWriter, write_metadata};
use crate::test_archive::{TestArchive, TestEntry};
use crate::test_mount::Mounted;

use super::*;

struct Fixture {
    store: Store,
    _directory: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    Fixture {
        store: Store::open(directory.path()).unwrap(),
        _directory: directory,
    }
}

impl Fixture {
    /// Puts a layer into the store; `padding` is unused room in front of its contents, as another converter might leave.
    fn layer(&self, entries: impl IntoIterator<Item = TestEntry>, padding: u64) -> ImageDigest {
        let archive = TestArchive::of(entries);
        let diff_id = ImageDigest::of(&archive);
        let file = self.store.temporary().unwrap();
        let mut data = DataWriter::new(file.as_file());
        data.zeros(padding).unwrap();
        let mut reader = Archive::new(archive.as_slice());
        let mut tree = convert(&mut reader, &mut data, &Limits::default()).unwrap();
        write_metadata(&mut tree, data, diff_id).unwrap();
        let path = self.store.layer_path(diff_id);
        self.store.publish(file, &path).unwrap();
        diff_id
    }

    fn extents(&self, layers: &[ImageDigest]) -> Result<Vec<PathBuf>, StoreError> {
        let reference = "localhost:5000/app:1".parse().unwrap();
        self.store
            .extents(&reference, ImageDigest::of(b"manifest"), layers)
    }
}

fn mounted(extents: &[PathBuf]) -> Vec<String> {
    let device: Vec<_> = extents
        .iter()
        .map(|path| fs_err::read(path).unwrap())
        .collect();
    Mounted::new(&device.concat()).listing()
}

#[test]
fn it_is_made_once_and_found_again() {
    let fixture = fixture();
    let layers = [
        fixture.layer([TestEntry::file("a", "1")], 0),
        fixture.layer([TestEntry::file("b", "2")], 0),
    ];
    let first = fixture.extents(&layers).unwrap();
    assert_eq!(first.len(), 3);
    assert_eq!(mounted(&first), ["./ 755", "a 644 \"1\"", "b 644 \"2\""]);
    let made = fs_err::metadata(&first[0]).unwrap();
    assert_eq!(fixture.extents(&layers).unwrap(), first);
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(fs_err::metadata(&first[0]).unwrap().ino(), made.ino());
}

#[test]
fn a_layer_that_comes_twice_is_one_extent() {
    let fixture = fixture();
    let (a, b) = (
        fixture.layer([TestEntry::file("a", "1"), TestEntry::file(".wh.b", "")], 0),
        fixture.layer([TestEntry::file("b", "2")], 0),
    );
    let extents = fixture.extents(&[a, b, a]).unwrap();
    assert_eq!(extents.len(), 3);
    assert_eq!(mounted(&extents), ["./ 755", "a 644 \"1\""]);
}

#[test]
fn it_is_made_anew_when_missing_cut_or_of_other_layer_files() {
    let fixture = fixture();
    let layers = [fixture.layer([TestEntry::file("a", "1")], 0)];
    let path = fixture.extents(&layers).unwrap().remove(0);
    fs_err::remove_file(&path).unwrap();
    let listing = || mounted(&fixture.extents(&layers).unwrap());
    assert_eq!(listing(), ["./ 755", "a 644 \"1\""]);
    for damage in [&b""[..], &[0; 4096], &[7; 5000]] {
        fs_err::write(&path, damage).unwrap();
        assert_eq!(listing(), ["./ 755", "a 644 \"1\""]);
    }
    // The same archive converted to another layout.
    assert_eq!(fixture.layer([TestEntry::file("a", "1")], 8192), layers[0]);
    assert_eq!(listing(), ["./ 755", "a 644 \"1\""]);
}

#[test]
fn missing_and_damaged_layers_are_told_by_name() {
    let fixture = fixture();
    let missing = ImageDigest::of(b"missing");
    let error = fixture.extents(&[missing]).unwrap_err().to_string();
    assert!(
        error.contains(&missing.to_string()) && error.contains("agent-vm pull"),
        "{error}"
    );

    let layer = fixture.layer([TestEntry::file("a", "1")], 0);
    let path = fixture.store.layer_path(layer);
    let mut bytes = fs_err::read(&path).unwrap();
    let inodes = bytes.len() - 4096;
    bytes[inodes..].fill(0xa5);
    fs_err::write(&path, bytes).unwrap();
    let error = fixture.extents(&[layer]).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains(&layer.to_string()) && source.contains("is damaged"),
        "{source}"
    );
    assert!(
        !fixture
            .store
            .merged_path(ImageDigest::of(b"manifest"))
            .exists()
    );
}

#[test]
fn layers_that_do_not_fit_together_leave_nothing() {
    let fixture = fixture();
    let layer = fixture.layer([TestEntry::hard_link("b", "a")], 0);
    let error = fixture.extents(&[layer]).unwrap_err();
    assert!(matches!(error, StoreError::Merge { .. }), "{error}");
    assert!(
        !fixture
            .store
            .merged_path(ImageDigest::of(b"manifest"))
            .exists()
    );
}
