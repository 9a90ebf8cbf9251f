//! Where things lie in this checkout.

use std::path::PathBuf;

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.parent().expect("xtask lies below the root");
    root.to_path_buf()
}

/// Caches that outlive builds and do not depend on cargo's target directory: `target/NAME` of the checkout.
pub(crate) fn cache(name: &str) -> PathBuf {
    root().join("target").join(name)
}
