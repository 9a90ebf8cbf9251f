//! What the cases share: images made by hand, a store in a directory of its own, a pull.

use std::cell::RefCell;
use std::io::Write as _;
use std::path::Path;

use agent_vm_image::{
    Image, ImageDigest, PullError, PullEvent, PullObserver, PullOptions, Reference, Store, pull,
};
use agent_vm_test_support::registry::Registry;
use serde_json::{Value, json};

pub(crate) use crate::oci::{
    OCI_CONFIG, OCI_GZIP, OCI_INDEX, OCI_MANIFEST, OCI_TAR, OCI_ZSTD, native, told,
};

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A store that goes with its directory.
pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) directory: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            store: Store::open(directory.path()).unwrap(),
            directory,
        }
    }

    /// Names of the files in a part of the store.
    pub(crate) fn files(&self, part: &str) -> Vec<String> {
        let entries = fs_err::read_dir(self.directory.path().join(part)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn pull(&self, reference: &str) -> Result<Image, PullError> {
        self.pull_with(reference, &PullOptions::default(), &())
    }

    pub(crate) fn pull_with(
        &self,
        reference: &str,
        options: &PullOptions,
        observer: &dyn PullObserver,
    ) -> Result<Image, PullError> {
        let reference: Reference = reference.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(pull(&self.store, &reference, options, observer))
    }
}

/// Writes down what happens.
#[derive(Default)]
pub(crate) struct Seen(pub(crate) RefCell<Vec<String>>);

impl PullObserver for Seen {
    fn event(&self, event: PullEvent<'_>) {
        let text = match event {
            PullEvent::Resolved { layers, .. } => format!("resolved {}", layers.len()),
            PullEvent::LayerReused { layer } => format!("reused {layer}"),
            PullEvent::LayerStarted { layer } => format!("started {layer}"),
            PullEvent::LayerProgress { .. } => return,
            PullEvent::LayerRetried { layer, .. } => format!("retried {layer}"),
            PullEvent::LayerDone { layer } => format!("done {layer}"),
        };
        self.0.borrow_mut().push(text);
    }
}

impl Seen {
    pub(crate) fn events(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}

/// An uncompressed archive of files.
pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap()
}

/// One layer as it is to be pushed, and the diff id the configuration will have.
pub(crate) struct Layer {
    pub(crate) media_type: &'static str,
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: ImageDigest,
}

impl Layer {
    pub(crate) fn new(media_type: &'static str, archive: &[u8]) -> Self {
        let blob = match media_type {
            OCI_GZIP | DOCKER_GZIP => gzip(archive),
            OCI_ZSTD => zstd(archive),
            _ => archive.to_vec(),
        };
        Self {
            media_type,
            blob,
            diff_id: ImageDigest::of(archive),
        }
    }

    pub(crate) fn descriptor(&self) -> Value {
        descriptor(self.media_type, &self.blob)
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": ImageDigest::of(bytes).to_string(), "size": bytes.len() })
}

/// A configuration for this machine with these diff ids.
pub(crate) fn config(diff_ids: &[ImageDigest]) -> Vec<u8> {
    let diff_ids: Vec<_> = diff_ids.iter().map(ToString::to_string).collect();
    let config = json!({
        "os": "linux", "architecture": native(),
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "config": { "Env": ["PATH=/bin"], "Entrypoint": ["/bin/agent"], "Labels": { "dev.agent-vm.image-api": "1" } },
    });
    config.to_string().into_bytes()
}

/// A manifest and its configuration, in OCI or Docker words.
pub(crate) fn manifest(config: &[u8], layers: &[Layer], docker: bool) -> Vec<u8> {
    let (media_type, config_type) = if docker {
        (DOCKER_MANIFEST, DOCKER_CONFIG)
    } else {
        (OCI_MANIFEST, OCI_CONFIG)
    };
    let layers: Vec<_> = layers.iter().map(Layer::descriptor).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": descriptor(config_type, config), "layers": layers,
    });
    manifest.to_string().into_bytes()
}

/// Pushes an image; gives its manifest.
pub(crate) fn push(
    registry: &Registry,
    name: &str,
    tag: &str,
    layers: &[Layer],
    docker: bool,
) -> Vec<u8> {
    let config = config(&layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>());
    for blob in layers.iter().map(|layer| &layer.blob).chain([&config]) {
        registry.put_blob(name, blob).unwrap();
    }
    let manifest = manifest(&config, layers, docker);
    let media_type = if docker {
        DOCKER_MANIFEST
    } else {
        OCI_MANIFEST
    };
    registry
        .put_manifest(name, tag, media_type, &manifest)
        .unwrap();
    manifest
}

/// The contents of a stored layer, by `fsck.erofs --extract`: what another implementation finds in it.
#[expect(
    clippy::disallowed_methods,
    reason = "tests start the tool that judges the image"
)]
pub(crate) fn extracted(layer: &Path) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("x");
    let mut extract = std::process::Command::new("fsck.erofs");
    let output = extract
        .arg(format!("--extract={}", target.display()))
        .arg(layer)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    directory
}
