use super::*;
use crate::image::Image;
use crate::manifest::Architecture;
use crate::store::{Claim, LeaseHolder, Resolved};

struct Fixture {
    store: Store,
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            store: Store::open(directory.path()).unwrap(),
            directory,
        }
    }

    /// Records an image of these layers, as a pull does; gives the digest of its manifest.
    fn record(&self, name: &str, layers: &[&str]) -> ImageDigest {
        let diff_ids: Vec<_> = layers.iter().map(|layer| self.layer(layer)).collect();
        let quoted: Vec<_> = diff_ids.iter().map(|id| format!("\"{id}\"")).collect();
        let config = format!(
            r#"{{"os":"linux","architecture":"{}","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            Architecture::native().oci_name(),
            quoted.join(",")
        );
        let blobs: Vec<_> = quoted
            .iter()
            .map(|id| format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":{id},"size":1}}"#))
            .collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{}]}}"#,
            ImageDigest::of(config.as_bytes()),
            config.len(),
            blobs.join(",")
        );
        let digest = ImageDigest::of(manifest.as_bytes());
        let merged = self.directory.path().join("images");
        fs_err::write(merged.join(format!("{}.erofs", digest.hex())), [1; 4096]).unwrap();
        let resolved = Resolved {
            digest,
            manifest: digest,
            architecture: Architecture::native(),
            policy: None,
        };
        let (manifest, config) = (manifest.as_bytes(), config.as_bytes());
        let store = &self.store;
        store
            .record(&reference(name), resolved, manifest, config)
            .unwrap();
        digest
    }

    fn layer(&self, content: &str) -> ImageDigest {
        let diff_id = ImageDigest::of(content.as_bytes());
        fs_err::write(self.store.layer_path(diff_id), [7; 100_000]).unwrap();
        diff_id
    }

    fn has(&self, layer: &str) -> bool {
        let diff_id = ImageDigest::of(layer.as_bytes());
        self.store.layer_path(diff_id).exists()
    }

    fn count(&self, part: &str) -> usize {
        fs_err::read_dir(self.directory.path().join(part))
            .unwrap()
            .count()
    }

    fn names(&self) -> Vec<String> {
        let images = self.store.inventory().unwrap().images;
        images
            .into_iter()
            .flat_map(|image| image.references)
            .collect()
    }

    fn prune(&self, scope: PruneScope) -> Removed {
        self.store.prune(scope, PruneMode::Remove).unwrap()
    }

    /// An image as a launch has it, as far as a lease looks at it.
    fn image(&self, manifest: ImageDigest) -> Image {
        self.record("host.test/any:1", &[]);
        let mut image = self
            .store
            .image(&reference("host.test/any:1"))
            .unwrap()
            .unwrap();
        self.store.remove(&[reference("host.test/any:1")]).unwrap();
        image.manifest_digest = manifest;
        image.extents.clear();
        image
    }
}

fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}

#[test]
fn prune_removes_the_image_whose_name_went_to_a_newer_one() {
    let fixture = Fixture::new();
    let old = fixture.record("host.test/app:1", &["shared", "old"]);
    fixture.record("host.test/app:1", &["shared", "new"]);
    assert!(fixture.names().contains(&format!("host.test/app@{old}")));
    let removed = fixture.prune(PruneScope::Unnamed);
    assert_eq!(removed.images, [old]);
    assert!(removed.bytes >= 100_000, "{removed:?}");
    assert!(fixture.has("shared") && fixture.has("new") && !fixture.has("old"));
    assert_eq!(fixture.names(), ["host.test/app:1"]);
    assert_eq!(
        ["images", "manifests", "configs", "tmp"].map(|part| fixture.count(part)),
        [1, 1, 1, 0]
    );
}

#[test]
fn prune_keeps_an_image_that_was_asked_for_by_its_digest() {
    let fixture = Fixture::new();
    let old = fixture.record("host.test/app:1", &["old"]);
    let by_digest = format!("host.test/app@{old}");
    fixture.record(&by_digest, &["old"]);
    fixture.record("host.test/app:1", &["new"]);
    assert_eq!(fixture.prune(PruneScope::Unnamed).images, []);
    assert_eq!(fixture.names(), ["host.test/app:1".to_owned(), by_digest]);
}

#[test]
fn prune_removes_what_pulls_that_did_not_end_left() {
    let fixture = Fixture::new();
    fixture.record("host.test/app:1", &["used"]);
    let lost = fixture.layer("lost");
    drop(fixture.store.try_lock_layer(lost).unwrap().unwrap());
    fs_err::write(fixture.directory.path().join("tmp/part-dead"), "x").unwrap();
    assert!(fixture.store.inventory().unwrap().unreferenced_bytes >= 100_000);
    fixture.prune(PruneScope::Unnamed);
    assert!(!fixture.has("lost") && fixture.has("used"));
    assert_eq!(["locks", "leases"].map(|part| fixture.count(part)), [0, 0]);
    assert_eq!(fixture.store.inventory().unwrap().unreferenced_bytes, 0);
}

#[test]
fn prune_all_leaves_what_a_live_machine_uses_and_takes_it_when_the_machine_is_gone() {
    let fixture = Fixture::new();
    let used = fixture.record("host.test/used:1", &["shared", "a"]);
    fixture.record("host.test/idle:1", &["shared", "b"]);
    let lease = fixture.store.lease(&fixture.image(used)).unwrap();
    fixture.prune(PruneScope::All);
    assert_eq!(fixture.names(), ["host.test/used:1"]);
    assert!(fixture.has("shared") && fixture.has("a") && !fixture.has("b"));
    let listed = &fixture.store.inventory().unwrap().images[0];
    assert_eq!(
        listed.users,
        [LeaseHolder::Machine {
            pid: std::process::id()
        }]
    );
    drop(lease);
    fixture.prune(PruneScope::All);
    assert_eq!(fixture.names(), Vec::<String>::new());
    assert_eq!(
        ["layers", "refs", "leases"].map(|part| fixture.count(part)),
        [0, 0, 0]
    );
}

#[test]
fn prune_all_leaves_what_is_being_pulled_though_no_name_leads_to_it() {
    let fixture = Fixture::new();
    let (layer, other) = (fixture.layer("arriving"), ImageDigest::of(b"document"));
    let claim = Claim {
        manifest: other,
        config: other,
        layers: vec![layer],
    };
    let pull = fixture.store.claim(claim).unwrap();
    fixture.prune(PruneScope::All);
    assert!(fixture.has("arriving"));
    drop(pull);
    fixture.prune(PruneScope::All);
    assert!(!fixture.has("arriving"));
}

#[test]
fn a_pinned_image_stays_until_it_is_unpinned() {
    let fixture = Fixture::new();
    let base = fixture.record("host.test/app:1", &["old"]);
    fixture
        .store
        .pin("base of /home/u/p", &fixture.image(base))
        .unwrap();
    fixture.record("host.test/app:1", &["new"]);
    fixture.prune(PruneScope::All);
    assert!(fixture.has("old") && !fixture.has("new"));
    let refused = fixture
        .store
        .remove(&[reference("host.test/app").pinned(base)])
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .ends_with("is in use: base of /home/u/p is derived from it"),
        "{refused}"
    );
    fixture.store.unpin("base of /home/u/p").unwrap();
    fixture.store.unpin("base of /home/u/p").unwrap();
    fixture.prune(PruneScope::All);
    assert!(!fixture.has("old"));
}

#[test]
fn remove_takes_one_name_and_the_image_with_its_last_one() {
    let fixture = Fixture::new();
    let image = fixture.record("host.test/app:1", &["a"]);
    fixture.record("host.test/app:2", &["a"]);
    let first = fixture
        .store
        .remove(&[reference("host.test/app:1")])
        .unwrap();
    assert_eq!(
        (first.references, first.images, first.bytes),
        (vec!["host.test/app:1".to_owned()], vec![], 0)
    );
    assert!(fixture.has("a"));
    let last = fixture
        .store
        .remove(&[reference("host.test/app:2")])
        .unwrap();
    assert_eq!(last.images, [image]);
    assert_eq!(
        ["layers", "refs", "manifests"].map(|part| fixture.count(part)),
        [0, 0, 0]
    );
}

#[test]
fn remove_by_digest_takes_all_names_of_the_repository() {
    let fixture = Fixture::new();
    let image = fixture.record("host.test/app:1", &["a"]);
    fixture.record("host.test/app:2", &["a"]);
    fixture
        .store
        .remove(&[reference("host.test/app").pinned(image)])
        .unwrap();
    assert_eq!((fixture.count("refs"), fixture.has("a")), (0, false));
}

#[test]
fn remove_refuses_all_when_one_is_in_use_or_unknown() {
    let fixture = Fixture::new();
    let used = fixture.record("host.test/used:1", &["a"]);
    fixture.record("host.test/idle:1", &["b"]);
    let _lease = fixture.store.lease(&fixture.image(used)).unwrap();
    let both = [reference("host.test/idle:1"), reference("host.test/used:1")];
    assert!(matches!(
        fixture.store.remove(&both),
        Err(RemoveError::InUse { .. })
    ));
    let unknown = [reference("host.test/idle:1"), reference("host.test/no:1")];
    assert!(matches!(
        fixture.store.remove(&unknown),
        Err(RemoveError::NotFound { .. })
    ));
    assert_eq!(fixture.names(), ["host.test/idle:1", "host.test/used:1"]);
}

#[test]
fn remove_leaves_what_an_interrupted_pull_of_another_image_has_already() {
    let fixture = Fixture::new();
    fixture.record("host.test/app:1", &["a"]);
    fixture.layer("half of another");
    fixture
        .store
        .remove(&[reference("host.test/app:1")])
        .unwrap();
    assert!(fixture.has("half of another"));
}

#[test]
fn dry_run_says_what_would_go_and_removes_nothing() {
    let fixture = Fixture::new();
    fixture.record("host.test/app:1", &["a"]);
    let would = fixture
        .store
        .prune(PruneScope::All, PruneMode::DryRun)
        .unwrap();
    assert!(fixture.has("a") && fixture.names() == ["host.test/app:1"]);
    assert_eq!(fixture.prune(PruneScope::All), would);
}

#[test]
fn shared_layers_are_counted_once_and_are_nobodys_own() {
    let fixture = Fixture::new();
    fixture.record("host.test/a:1", &["shared", "a"]);
    fixture.record("host.test/b:1", &["shared", "b"]);
    let inventory = fixture.store.inventory().unwrap();
    let layer = inventory.images[0].layers[0].bytes.unwrap();
    let sum: u64 = inventory.images.iter().map(|image| image.bytes).sum();
    assert_eq!(inventory.total_bytes, sum - layer);
    assert_eq!(
        inventory.images[0].bytes - inventory.images[0].own_bytes,
        layer
    );
    let uses: Vec<_> = inventory.images[0]
        .layers
        .iter()
        .map(|layer| layer.images)
        .collect();
    assert_eq!(uses, [2, 1]);
}

#[test]
fn size_is_what_is_allocated_not_the_length() {
    let fixture = Fixture::new();
    let manifest = fixture.record("host.test/a:1", &["sparse"]);
    let path = fixture.store.layer_path(ImageDigest::of(b"sparse"));
    let file = fs_err::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(1 << 40).unwrap();
    let image = &fixture.store.inventory().unwrap().images[0];
    assert_eq!(image.manifest_digest, manifest);
    assert!(
        (100_000..10_000_000).contains(&image.bytes),
        "{}",
        image.bytes
    );
}

#[test]
fn a_damaged_image_is_listed_as_such_and_can_be_removed() {
    let fixture = Fixture::new();
    let manifest = fixture.record("host.test/a:1", &["a"]);
    let path = fixture
        .directory
        .path()
        .join(format!("manifests/{}.json", manifest.hex()));
    fs_err::write(path, "{}").unwrap();
    assert!(!fixture.store.inventory().unwrap().images[0].whole);
    fixture.store.remove(&[reference("host.test/a:1")]).unwrap();
    fixture.prune(PruneScope::Unnamed);
    assert_eq!((fixture.count("refs"), fixture.count("layers")), (0, 0));
}

#[test]
fn nothing_is_removed_while_a_record_cannot_be_understood() {
    for part in ["refs", "pins"] {
        let fixture = Fixture::new();
        fixture.layer("lost");
        fs_err::write(fixture.directory.path().join(part).join("x.json"), "newer").unwrap();
        let refused = fixture.store.prune(PruneScope::All, PruneMode::Remove);
        assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{part}");
        assert!(fixture.has("lost"));
    }
}

#[test]
fn files_that_are_not_ours_are_left_alone() {
    let fixture = Fixture::new();
    let foreign = ["layers/README", "layers/abc.erofs", "images/x.json"];
    for name in foreign {
        fs_err::write(fixture.directory.path().join(name), "x").unwrap();
    }
    fixture.prune(PruneScope::All);
    assert!(
        foreign
            .iter()
            .all(|name| fixture.directory.path().join(name).exists())
    );
}

#[test]
fn a_lease_of_an_image_that_was_just_removed_is_refused() {
    let fixture = Fixture::new();
    let manifest = fixture.record("host.test/a:1", &["a"]);
    let image = fixture.image(manifest);
    fixture.store.remove(&[reference("host.test/a:1")]).unwrap();
    assert!(fixture.store.lease(&image).is_err());
    assert_eq!(fixture.count("leases"), 0);
}

#[test]
fn the_lease_of_a_dead_holder_is_a_leftover() {
    let fixture = Fixture::new();
    fixture.record("host.test/a:1", &["a"]);
    let dead = fixture.directory.path().join("leases/part-dead");
    fs_err::write(&dead, "whatever").unwrap();
    assert_eq!(fixture.store.inventory().unwrap().images[0].users, []);
    Store::open(fixture.directory.path()).unwrap();
    assert!(!dead.exists());
}

#[test]
fn a_lease_comes_before_a_removal_or_after_it_never_in_between() {
    let fixture = Fixture::new();
    let (mut kept, mut refused) = (0, 0);
    for round in 0..60 {
        let manifest = fixture.record("host.test/a:1", &["a"]);
        let image = fixture.image(manifest);
        let store = fixture.store.clone();
        let removal = std::thread::spawn(move || store.remove(&[reference("host.test/a:1")]));
        if round % 3 > 0 {
            std::thread::sleep(std::time::Duration::from_micros(round * 50));
        }
        let lease = fixture.store.lease(&image);
        let removed = removal.join().unwrap();
        match (lease, removed) {
            (Ok(lease), Err(RemoveError::InUse { .. })) => {
                assert!(fixture.has("a"));
                drop(lease);
                kept += 1;
            }
            (Err(_), Ok(_)) => {
                assert!(!fixture.has("a"));
                refused += 1;
            }
            both => panic!("{both:?}"),
        }
    }
    assert_eq!(kept + refused, 60);
}
