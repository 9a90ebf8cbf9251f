//! What the kernel shows of a pulled image. Mounting is done by a child in a mount namespace of its own, so nothing stays mounted
//! whatever happens to the test; the child then turns into this program and lists the tree.

use std::path::Path;
use std::process::Command;

use agent_vm_image::Image;

use crate::listing;

/// Tells the child where it mounted the image.
const MOUNTED_VARIABLE: &str = "AGENT_VM_TEST_MOUNTED";
/// Begins each line of the listing.
const MARK: &str = "| ";

/// The tree of `image` as the kernel shows it, or why it does not.
pub(crate) fn mounted(image: &Image) -> Result<Vec<String>, String> {
    let directory = tempfile::tempdir().unwrap();
    let device = directory.path().join("device");
    concatenate(image, &device);
    fsck(&device)?;
    list_in_child(
        directory.path(),
        "set -e; cd \"$1\"; mkdir tree; mount -t erofs -o ro,loop device tree\n",
    )
}

/// The image as the one disk a guest gets.
fn concatenate(image: &Image, device: &Path) {
    let mut device = fs_err::File::create(device).unwrap();
    for extent in &image.extents {
        std::io::copy(&mut fs_err::File::open(extent).unwrap(), &mut device).unwrap();
    }
}

fn list_in_child(directory: &Path, script: &str) -> Result<Vec<String>, String> {
    let this = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!(
            "{script}exec \"$2\" --exact view::list_mounted --ignored --nocapture"
        ))
        .arg("sh")
        .arg(directory)
        .arg(this)
        .env(MOUNTED_VARIABLE, directory.join("tree"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!(
            "cannot mount it (these tests need root, unshare, loop devices and a kernel with EROFS): {}{said}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(said
        .lines()
        .filter_map(|line| line.strip_prefix(MARK))
        .map(str::to_owned)
        .collect())
}

#[test]
#[ignore = "the mounting half of every case"]
fn list_mounted() {
    let mounted = std::env::var_os(MOUNTED_VARIABLE).unwrap();
    println!();
    for line in listing::list(Path::new(&mounted), i64::MAX - 3600) {
        println!("{MARK}{line}");
    }
}

/// `fsck.erofs` on one file of the store: what the tools of the file system's authors find wrong with it.
pub(crate) fn fsck(file: &Path) -> Result<(), String> {
    let output = Command::new("fsck.erofs").arg(file).output().unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "fsck.erofs refuses {}: {}",
            file.display(),
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}
