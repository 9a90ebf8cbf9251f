//! An OCI image layout on disk: what its manifest and configuration say, and whether two images have the same layers.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// One image of a layout.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) directory: PathBuf,
    pub(crate) manifest_digest: String,
    /// Bottom layer first.
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Config,
}

/// A layer as the manifest and the configuration describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) digest: String,
    pub(crate) media_type: String,
    pub(crate) bytes: u64,
    pub(crate) diff_id: String,
}

/// What decides whether two images are the same to those who use them (OCI image specification, "Image Configuration").
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Config {
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) config: serde_json::Value,
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct RootFs {
    pub(crate) diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Layout {
    /// Reads the one image of `directory`.
    ///
    /// # Errors
    /// When a file is missing or not as the specification has it.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let index: Index = serde_json::from_slice(&fs_err::read(directory.join("index.json"))?)?;
        let [one] = &index.manifests[..] else {
            anyhow::bail!("{} holds not one image", directory.display());
        };
        let blob = |digest: &str| {
            let name = digest
                .strip_prefix("sha256:")
                .context("a digest is no sha256")?;
            Ok::<_, anyhow::Error>(fs_err::read(directory.join("blobs/sha256").join(name))?)
        };
        let manifest: Manifest = serde_json::from_slice(&blob(&one.digest)?)?;
        let config: Config = serde_json::from_slice(&blob(&manifest.config.digest)?)?;
        ensure!(
            config.rootfs.diff_ids.len() == manifest.layers.len(),
            "the image has {} layers but {} diff ids",
            manifest.layers.len(),
            config.rootfs.diff_ids.len()
        );
        let layers = manifest.layers.into_iter().zip(&config.rootfs.diff_ids);
        let layers = layers.map(|(layer, diff_id)| Layer {
            digest: layer.digest,
            media_type: layer.media_type,
            bytes: layer.size,
            diff_id: diff_id.clone(),
        });
        Ok(Self {
            directory: directory.to_path_buf(),
            manifest_digest: one.digest.clone(),
            layers: layers.collect(),
            config,
        })
    }

    /// Checks that every layer is compressed as asked: tools take over blobs they know in another compression.
    ///
    /// # Errors
    /// When one is not.
    pub(crate) fn ensure_compressed_by(&self, compression: &str) -> Result<()> {
        for layer in &self.layers {
            ensure!(
                layer.media_type.ends_with(&format!("+{compression}")),
                "layer {} is {}, not {compression}",
                layer.digest,
                layer.media_type
            );
        }
        Ok(())
    }

    /// A line for each layer: diff id, compressed digest, compressed bytes.
    pub(crate) fn table(&self) -> String {
        let line =
            |layer: &Layer| format!("{} {} {:>11}\n", layer.diff_id, layer.digest, layer.bytes);
        self.layers.iter().map(line).collect()
    }

    /// Compressed bytes of all layers.
    pub(crate) fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a layout with one layer for each diff id.
    fn layout(
        directory: &Path,
        diff_ids: &[&str],
        media_type: &str,
        layers: usize,
    ) -> Result<Layout> {
        let blobs = directory.join("blobs/sha256");
        fs_err::create_dir_all(&blobs)?;
        let config = serde_json::json!({"architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        fs_err::write(blobs.join("c"), config.to_string())?;
        let layer = serde_json::json!({"mediaType": media_type, "digest": "sha256:l", "size": 7});
        let manifest = serde_json::json!({
            "config": {"mediaType": "x", "digest": "sha256:c", "size": 1}, "layers": vec![layer; layers],
        });
        fs_err::write(blobs.join("m"), manifest.to_string())?;
        let index =
            serde_json::json!({"manifests": [{"mediaType": "x", "digest": "sha256:m", "size": 1}]});
        fs_err::write(directory.join("index.json"), index.to_string())?;
        Layout::read(directory)
    }

    const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

    #[test]
    fn layers_carry_their_diff_ids_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let read = layout(directory.path(), &["sha256:a", "sha256:b"], ZSTD, 2).unwrap();
        let ids: Vec<_> = read
            .layers
            .iter()
            .map(|layer| layer.diff_id.as_str())
            .collect();
        assert_eq!((ids, read.bytes()), (vec!["sha256:a", "sha256:b"], 14));
    }

    #[test]
    fn a_layer_without_diff_id_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(layout(directory.path(), &["sha256:a"], ZSTD, 2).is_err());
    }

    #[test]
    fn a_layer_in_another_compression_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        let read = layout(directory.path(), &["sha256:a"], gzip, 1).unwrap();
        assert!(read.ensure_compressed_by("gzip").is_ok());
        assert!(read.ensure_compressed_by("zstd").is_err());
    }
}
