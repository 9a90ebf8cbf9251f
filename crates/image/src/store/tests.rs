use super::*;

struct Fixture {
    store: Store,
    directory: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    Fixture {
        store: Store::open(directory.path()).unwrap(),
        directory,
    }
}

fn reference() -> Reference {
    "localhost:5000/app:1".parse().unwrap()
}

/// Records an image without layers; gives its digest.
fn record(store: &Store, label: &str) -> ImageDigest {
    let native = Architecture::native();
    let config = format!(
        r#"{{"os":"linux","architecture":"{}","rootfs":{{"type":"layers","diff_ids":[]}},"config":{{"User":"{label}"}}}}"#,
        native.oci_name()
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[]}}"#,
        ImageDigest::of(config.as_bytes()),
        config.len()
    );
    let digest = ImageDigest::of(manifest.as_bytes());
    let resolved = Resolved {
        digest,
        manifest: digest,
        architecture: native,
        policy: None,
    };
    store
        .record(
            &reference(),
            resolved,
            manifest.as_bytes(),
            config.as_bytes(),
        )
        .unwrap();
    digest
}

#[test]
fn an_unknown_reference_is_no_image() {
    assert_eq!(fixture().store.image(&reference()).unwrap(), None);
}

#[test]
fn a_tag_moves_and_a_digest_stays() {
    let fixture = fixture();
    let (old, new) = (record(&fixture.store, "old"), record(&fixture.store, "new"));
    let user = |reference: &Reference| {
        fixture
            .store
            .image(reference)
            .unwrap()
            .unwrap()
            .config
            .user
            .unwrap()
    };
    assert_eq!(user(&reference()), "new");
    assert_eq!(
        (
            user(&reference().pinned(old)),
            user(&reference().pinned(new))
        ),
        ("old".into(), "new".into())
    );
}

#[test]
fn the_store_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = fixture();
    assert_eq!(
        fs_err::metadata(fixture.directory.path())
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
}

#[test]
fn damaged_files_are_found_out() {
    for (part, what) in [
        ("manifests", "damaged"),
        ("configs", "damaged"),
        ("refs", "damaged"),
    ] {
        let fixture = fixture();
        record(&fixture.store, "x");
        for entry in fs_err::read_dir(fixture.directory.path().join(part)).unwrap() {
            fs_err::write(entry.unwrap().path(), "{}").unwrap();
        }
        let error = fixture.store.image(&reference()).unwrap_err().to_string();
        assert!(
            error.contains(what) && error.contains("pull the image again"),
            "{part}: {error}"
        );
    }
}

#[test]
fn a_missing_manifest_is_damage_not_absence() {
    let fixture = fixture();
    let digest = record(&fixture.store, "x");
    fs_err::remove_file(fixture.store.content_path("manifests", digest)).unwrap();
    assert!(matches!(
        fixture.store.image(&reference()),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn leftovers_of_the_dead_are_removed_and_files_of_the_living_are_not() {
    let fixture = fixture();
    let living = fixture.store.temporary().unwrap();
    let dead = fixture.directory.path().join("tmp/part-dead");
    fs_err::write(&dead, "half a layer").unwrap();
    let again = Store::open(fixture.directory.path()).unwrap();
    assert!(!dead.exists() && living.path().exists());
    again
        .publish(living, &again.layer_path(ImageDigest::of(b"x")))
        .unwrap();
}

#[test]
fn an_unpublished_file_removes_itself() {
    let fixture = fixture();
    let path = fixture.store.temporary().unwrap().path().to_owned();
    assert!(!path.exists());
}

#[test]
fn one_layer_has_one_maker() {
    let fixture = fixture();
    let layer = ImageDigest::of(b"layer");
    let held = fixture.store.try_lock_layer(layer).unwrap().unwrap();
    assert!(fixture.store.try_lock_layer(layer).unwrap().is_none());
    assert!(
        fixture
            .store
            .try_lock_layer(ImageDigest::of(b"other"))
            .unwrap()
            .is_some()
    );
    drop(held);
    assert!(fixture.store.try_lock_layer(layer).unwrap().is_some());
}

#[test]
fn a_cut_layer_does_not_count() {
    let fixture = fixture();
    let layer = ImageDigest::of(b"layer");
    fs_err::write(fixture.store.layer_path(layer), [0; 5000]).unwrap();
    assert_eq!(fixture.store.layer(layer).unwrap(), None);
}
