//! Debian's `docker-registry`, as an operator would run it.

use std::os::unix::fs::FileExt as _;

use agent_vm_image::{ImageDigest, PullOptions, Reference, check_api};
use agent_vm_test_support::registry::Registry;
use serde_json::json;

use crate::case::{
    DOCKER_GZIP, DOCKER_INDEX, DOCKER_MANIFEST, Layer, OCI_GZIP, OCI_INDEX, OCI_MANIFEST, OCI_TAR,
    OCI_ZSTD, Seen, TestStore, archive, config, descriptor, extracted, manifest, native, push,
    told,
};

fn layers() -> Vec<Layer> {
    vec![
        Layer::new(OCI_GZIP, &archive(&[("etc/os", b"gzip")])),
        Layer::new(
            OCI_ZSTD,
            &archive(&[("etc/os2", b"zstd"), ("big", &[7; 300_000])]),
        ),
        Layer::new(OCI_TAR, &archive(&[("plain", b"plain")])),
    ]
}

#[test]
fn pulls_layers_of_every_compression_and_records_the_image() {
    let (registry, store) = (Registry::start().unwrap(), TestStore::new());
    let layers = layers();
    let manifest = push(&registry, "team/app", "1", &layers, false);
    let seen = Seen::default();
    let image = store
        .pull_with(
            &registry.reference("team/app", "1"),
            &PullOptions::default(),
            &seen,
        )
        .unwrap();
    assert_eq!(
        (image.digest, image.manifest_digest),
        (ImageDigest::of(&manifest), ImageDigest::of(&manifest))
    );
    assert_eq!(
        (&image.config.env[..], &image.config.entrypoint[..]),
        (
            &["PATH=/bin".to_owned()][..],
            &["/bin/agent".to_owned()][..]
        )
    );
    assert_eq!(check_api(&image, 1), Ok(()));
    let names: Vec<_> = image
        .layers()
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let expected: Vec<_> = layers
        .iter()
        .map(|layer| format!("{}.erofs", layer.diff_id.hex()))
        .collect();
    assert_eq!(names, expected, "layers are listed bottom first");
    let content = |layer: usize, file: &str| {
        fs_err::read(
            extracted(&image.layers()[layer])
                .path()
                .join("x")
                .join(file),
        )
        .unwrap()
    };
    assert_eq!(content(0, "etc/os"), b"gzip");
    assert_eq!(
        (content(1, "etc/os2"), content(1, "big")),
        (b"zstd".to_vec(), vec![7; 300_000])
    );
    assert_eq!(content(2, "plain"), b"plain");
    let events = seen.events();
    assert_eq!(events[0], "resolved 3");
    assert!(
        (0..3).all(|layer| events.contains(&format!("done {layer}"))),
        "{events:?}"
    );
    assert_eq!(store.files("tmp"), Vec::<String>::new());
}

#[test]
fn a_launch_finds_the_image_by_tag_and_by_digest_without_the_registry() {
    let (registry, store) = (Registry::start().unwrap(), TestStore::new());
    let digest = ImageDigest::of(&push(&registry, "app", "1", &layers(), false));
    let name = registry.reference("app", "1");
    let pulled = store.pull(&name).unwrap();
    drop(registry);
    let tagged: Reference = name.parse().unwrap();
    assert_eq!(store.store.image(&tagged).unwrap(), Some(pulled.clone()));
    assert_eq!(
        store.store.image(&tagged.pinned(digest)).unwrap(),
        Some(pulled)
    );
    let both: Reference = format!("{name}@{digest}").parse().unwrap();
    assert_eq!(store.store.image(&both).unwrap().unwrap().digest, digest);
    assert_eq!(
        store
            .store
            .image(&tagged.pinned(ImageDigest::of(b"other")))
            .unwrap(),
        None
    );
}

#[test]
fn a_second_pull_downloads_only_what_changed() {
    let (registry, store) = (Registry::start().unwrap(), TestStore::new());
    push(&registry, "app", "1", &layers(), false);
    let first = store.pull(&registry.reference("app", "1")).unwrap();
    let mut changed = layers();
    changed[1] = Layer::new(OCI_ZSTD, &archive(&[("etc/os2", b"changed")]));
    push(&registry, "app", "1", &changed, false);
    let seen = Seen::default();
    let second = store
        .pull_with(
            &registry.reference("app", "1"),
            &PullOptions::default(),
            &seen,
        )
        .unwrap();
    let mut events = seen.events();
    events.sort();
    assert_eq!(
        events,
        ["done 1", "resolved 3", "reused 0", "reused 2", "started 1"]
    );
    assert_eq!(
        (&second.layers()[0], &second.layers()[2]),
        (&first.layers()[0], &first.layers()[2])
    );
    let tagged: Reference = registry.reference("app", "1").parse().unwrap();
    assert_eq!(
        store.store.image(&tagged).unwrap().unwrap().digest,
        second.digest
    );
    assert_eq!(
        store
            .store
            .image(&tagged.pinned(first.digest))
            .unwrap()
            .unwrap()
            .layers(),
        first.layers()
    );
}

#[test]
fn an_index_gives_the_manifest_of_this_platform_in_both_dialects() {
    let registry = Registry::start().unwrap();
    for (docker, index_type, manifest_type) in [
        (false, OCI_INDEX, OCI_MANIFEST),
        (true, DOCKER_INDEX, DOCKER_MANIFEST),
    ] {
        let store = TestStore::new();
        let media_type = if docker { DOCKER_GZIP } else { OCI_GZIP };
        let layers = [Layer::new(media_type, &archive(&[("a", b"mine")]))];
        let mine = push(&registry, "multi", "mine", &layers, docker);
        let theirs = push(
            &registry,
            "multi",
            "theirs",
            &[Layer::new(media_type, &archive(&[("a", b"theirs")]))],
            docker,
        );
        let entry = |bytes: &[u8], architecture: &str, variant: Option<&str>| {
            let mut entry = descriptor(manifest_type, bytes);
            entry["platform"] =
                json!({ "os": "linux", "architecture": architecture, "variant": variant });
            entry
        };
        let entries = json!([
            entry(&theirs, "riscv64", None),
            entry(&theirs, native(), Some("v99")),
            entry(&mine, native(), None)
        ]);
        let index = json!({ "schemaVersion": 2, "mediaType": index_type, "manifests": entries })
            .to_string();
        let index_digest = registry
            .put_manifest("multi", "latest", index_type, index.as_bytes())
            .unwrap();
        let image = store
            .pull(&format!("{}/multi", registry.address()))
            .unwrap();
        assert_eq!(image.digest.to_string(), index_digest);
        assert_eq!(image.manifest_digest, ImageDigest::of(&mine));
        let pinned = format!("{}/multi@{index_digest}", registry.address());
        assert_eq!(store.pull(&pinned).unwrap(), image);
        let by_manifest = format!("{}/multi@{}", registry.address(), image.manifest_digest);
        assert_eq!(
            store.store.image(&by_manifest.parse().unwrap()).unwrap(),
            Some(image)
        );
    }
}

#[test]
fn what_the_registry_lacks_is_told_with_registry_and_image() {
    let (registry, store) = (Registry::start().unwrap(), TestStore::new());
    let name = registry.reference("no/such", "1");
    let error = told(&store.pull(&name).unwrap_err());
    assert!(
        error.contains(&format!("{} has no {name} (404", registry.address())),
        "{error}"
    );
    assert_eq!(store.store.image(&name.parse().unwrap()).unwrap(), None);
}

/// Flips a byte of, or cuts, the stored blob behind the registry's back.
fn tamper(registry: &Registry, digest: ImageDigest, change: impl Fn(&std::fs::File, u64)) {
    let hex = digest.hex();
    let path = registry
        .data()
        .join("docker/registry/v2/blobs/sha256")
        .join(&hex[..2])
        .join(&hex)
        .join("data");
    let file = fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let length = file.metadata().unwrap().len();
    change(file.file(), length);
}

fn flip_last(file: &std::fs::File, length: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, length - 1).unwrap();
    file.write_all_at(&[byte[0] ^ 1], length - 1).unwrap();
}

#[test]
fn changed_bytes_are_refused_and_leave_nothing() {
    for media_type in [OCI_TAR, OCI_GZIP, OCI_ZSTD] {
        let (registry, store) = (Registry::start().unwrap(), TestStore::new());
        let layer = Layer::new(media_type, &archive(&[("a", &[1; 10_000])]));
        let digest = ImageDigest::of(&layer.blob);
        push(&registry, "app", "1", &[layer], false);
        tamper(&registry, digest, flip_last);
        let error = told(&store.pull(&registry.reference("app", "1")).unwrap_err());
        assert!(
            error.contains(&format!("layer {digest} of")) && error.contains("have the digest"),
            "{media_type}: {error}"
        );
        assert_eq!(
            (
                store.files("layers"),
                store.files("refs"),
                store.files("tmp")
            ),
            (vec![], vec![], vec![])
        );
    }
}

#[test]
fn a_cut_blob_is_refused() {
    let (registry, store) = (Registry::start().unwrap(), TestStore::new());
    let layer = Layer::new(OCI_GZIP, &archive(&[("a", &[1; 10_000])]));
    let digest = ImageDigest::of(&layer.blob);
    push(&registry, "app", "1", &[layer], false);
    tamper(&registry, digest, |file, length| {
        file.set_len(length - 5).unwrap()
    });
    let error = told(&store.pull(&registry.reference("app", "1")).unwrap_err());
    assert!(error.contains("the manifest says"), "{error}");
    assert_eq!(
        (store.files("layers"), store.files("tmp")),
        (vec![], vec![])
    );
}

#[test]
fn a_wrong_size_digest_or_number_of_layers_is_refused() {
    let registry = Registry::start().unwrap();
    let good = Layer::new(OCI_GZIP, &archive(&[("a", b"x")]));
    let push_raw = |tag: &str, config: &[u8], change: &dyn Fn(&mut serde_json::Value)| {
        registry.put_blob("app", config).unwrap();
        registry.put_blob("app", &good.blob).unwrap();
        let mut document: serde_json::Value =
            serde_json::from_slice(&manifest(config, &[], false)).unwrap();
        document["layers"] = json!([good.descriptor()]);
        change(&mut document);
        registry
            .put_manifest("app", tag, OCI_MANIFEST, document.to_string().as_bytes())
            .unwrap();
    };
    let right = config(&[good.diff_id]);
    let wrong = config(&[ImageDigest::of(b"something else")]);
    let size = good.blob.len();
    push_raw("long", &right, &|document| {
        document["layers"][0]["size"] = json!(size - 1)
    });
    push_raw("short", &right, &|document| {
        document["layers"][0]["size"] = json!(size + 1)
    });
    push_raw("config", &right, &|document| {
        document["config"]["size"] = json!(right.len() + 1)
    });
    push_raw("diff", &wrong, &|_| {});
    push_raw("none", &config(&[]), &|_| {});
    for (tag, said) in [
        ("long", "sends more than the"),
        ("short", "bytes, the manifest says"),
        ("config", "its descriptor says"),
        ("diff", "uncompressed content has the digest"),
        ("none", "the configuration names 0 layers, the manifest 1"),
    ] {
        let store = TestStore::new();
        let error = told(&store.pull(&registry.reference("app", tag)).unwrap_err());
        assert!(error.contains(said), "{tag}: {error}");
        assert_eq!(
            (
                store.files("layers"),
                store.files("refs"),
                store.files("tmp")
            ),
            (vec![], vec![], vec![]),
            "{tag}"
        );
    }
}

#[test]
fn a_hostile_entry_is_refused_by_layer_and_name() {
    let (registry, store) = (Registry::start().unwrap(), TestStore::new());
    let mut hostile = archive(&[("x", b"")]);
    hostile[..9].copy_from_slice(b"a/../\x1b[2J");
    let sum: u32 = hostile[..512]
        .iter()
        .enumerate()
        .map(|(at, &byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u32::from(byte)
            }
        })
        .sum();
    hostile[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let layer = Layer::new(OCI_TAR, &hostile);
    let digest = ImageDigest::of(&layer.blob);
    push(&registry, "app", "1", &[layer], false);
    let error = told(&store.pull(&registry.reference("app", "1")).unwrap_err());
    assert!(
        error.contains(&digest.to_string())
            && error.contains(r"entry `a/../\x1b[2J` cannot be used: its name goes up"),
        "{error}"
    );
    assert!(
        !error.contains('\x1b'),
        "a hostile name must not reach the terminal"
    );
}

#[test]
fn two_pulls_of_one_image_share_the_work() {
    let (registry, store) = (Registry::start().unwrap(), TestStore::new());
    push(&registry, "app", "1", &layers(), false);
    let reference: Reference = registry.reference("app", "1").parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (one, two) = (Seen::default(), Seen::default());
    let options = PullOptions::default();
    let other = agent_vm_image::Store::open(store.directory.path()).unwrap();
    let both = async {
        tokio::join!(
            agent_vm_image::pull(&store.store, &reference, &options, &one),
            agent_vm_image::pull(&other, &reference, &options, &two),
        )
    };
    let (first, second) = runtime.block_on(both);
    assert_eq!(first.unwrap(), second.unwrap());
    let started = [one.events(), two.events()]
        .concat()
        .iter()
        .filter(|event| event.starts_with("started"))
        .count();
    assert_eq!(started, 3, "each layer is downloaded once");
}
