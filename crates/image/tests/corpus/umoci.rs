//! The independent opinion: umoci, the reference unpacker of the OCI, unpacks the same layers into a directory.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_vm_image::ImageDigest;
use serde_json::json;

use crate::build::{Hostile, OCI_TAR};
use crate::listing;

/// The tree umoci makes of `image`, or why it makes none.
pub(crate) fn unpacked(image: &Hostile) -> Result<Vec<String>, String> {
    let directory = tempfile::tempdir().unwrap();
    let (layout, tree) = (
        directory.path().join("layout"),
        directory.path().join("tree"),
    );
    write_layout(&layout, image);
    // Directories that only umoci has a time for get the time of now.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let output = Command::new("umoci")
        .args(["raw", "unpack", "--image"])
        .arg(format!("{}:1", layout.display()))
        .arg(&tree)
        .output()
        .unwrap();
    if output.status.success() {
        Ok(listing::list(&tree, i64::try_from(now).unwrap()))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// An image layout (OCI image-spec `image-layout.md`) with the layers uncompressed.
fn write_layout(layout: &Path, image: &Hostile) {
    let blobs = layout.join("blobs/sha256");
    fs_err::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], media_type: &str| {
        let digest = ImageDigest::of(bytes);
        fs_err::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
    };
    let archives: Vec<_> = image
        .layers
        .iter()
        .map(crate::build::Layer::archive)
        .collect();
    let diff_ids: Vec<_> = archives
        .iter()
        .map(|archive| ImageDigest::of(archive).to_string())
        .collect();
    let config = json!({
        "os": "linux", "architecture": crate::build::native(), "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = put(config.to_string().as_bytes(), crate::build::OCI_CONFIG);
    let layers: Vec<_> = archives
        .iter()
        .map(|archive| put(archive, OCI_TAR))
        .collect();
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    let mut manifest = put(manifest.to_string().as_bytes(), crate::build::OCI_MANIFEST);
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "1" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs_err::write(layout.join("index.json"), index.to_string()).unwrap();
    fs_err::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}
