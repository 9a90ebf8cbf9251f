//! The small image with many more layers on top, which do to each other what layers may: whiteouts, opaque directories, changes of kind,
//! implied parents, parents behind symlinks, hard links to files of lower layers.

use anyhow::Result;

use crate::image_tree::{Encoding, ImageTree, LayerBuilder, encode};

/// Layers that each add a file to `/opt/many`; every other one removes that of the layer below.
pub const MANY: u32 = 40;

/// The image: three layers of the small one, four with one change each, then [`MANY`].
///
/// # Errors
/// As [`ImageTree::small`].
pub fn layered() -> Result<ImageTree> {
    let mut layers = ImageTree::small()?.layers;
    let mut archives = vec![below()?, hides()?, changes()?, links()?];
    for number in 0..MANY {
        archives.push(one_of_many(number)?);
    }
    for archive in archives {
        layers.push(encode(Encoding::Zstd, archive)?);
    }
    Ok(ImageTree::from_layers(layers))
}

/// What the next layers are about; `lib` is a symlink to `usr/lib` in the small image, `root` has the mode 0700.
fn below() -> Result<Vec<u8>> {
    let mut layer = LayerBuilder::default();
    layer
        .file("lib/layered/in-usr", 0o644, b"usrmerge\n")?
        .file("root/implied", 0o600, b"kept\n")?
        .file("opt/gone", 0o644, b"old\n")?
        .file("opt/again/old", 0o644, b"old\n")?
        .file("opt/opaque/old", 0o644, b"old\n")?
        .file("opt/kind/file", 0o644, b"old\n")?
        .file("opt/kind-of-file", 0o644, b"old\n")?
        .file("opt/target", 0o4755, b"shared\n")?;
    layer.finish()
}

fn hides() -> Result<Vec<u8>> {
    let mut layer = LayerBuilder::default();
    layer
        .file("opt/again/new", 0o644, b"new\n")?
        .file("opt/.wh.again", 0o644, b"")?
        .file("opt/.wh.gone", 0o644, b"")?
        .file("opt/opaque/new", 0o644, b"new\n")?
        .file("opt/opaque/.wh..wh..opq", 0o644, b"")?;
    layer.finish()
}

fn changes() -> Result<Vec<u8>> {
    let mut layer = LayerBuilder::default();
    layer
        .file("opt/kind", 0o644, b"a file\n")?
        .directory("opt/kind-of-file", 0o750)?
        .file("opt/kind-of-file/inside", 0o644, b"inside\n")?;
    layer.finish()
}

fn links() -> Result<Vec<u8>> {
    let mut layer = LayerBuilder::default();
    layer.hard_link("opt/other-name", "opt/target")?;
    layer.finish()
}

fn one_of_many(number: u32) -> Result<Vec<u8>> {
    let mut layer = LayerBuilder::default();
    let content = format!("{number}\n");
    layer.file(&format!("opt/many/{number}"), 0o644, content.as_bytes())?;
    if number % 2 == 1 {
        layer.file(&format!("opt/many/.wh.{}", number - 1), 0o644, b"")?;
    }
    layer.finish()
}
