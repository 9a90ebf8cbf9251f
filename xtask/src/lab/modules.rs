//! Which kernel modules the emulated host loads before its root disk is mounted, and in which order.

use std::collections::HashMap;

use anyhow::{Context as _, Result};

/// Loaded before the root disk is mounted. Everything else is on the root disk for `modprobe`.
pub(crate) const WANTED: &[&str] = &["virtio_pci", "virtio_blk", "virtio_console", "kvm-amd"];

/// Paths of the modules to load, each after those it needs, from the text of `modules.dep` and `modules.builtin`.
///
/// # Errors
/// When one of `wanted` is neither a module nor built in.
pub(crate) fn load_order(dep: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let needs: HashMap<&str, (&str, Vec<&str>)> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| {
            (
                module_name(path),
                (path, needs.split_whitespace().collect()),
            )
        })
        .collect();
    let mut order: Vec<String> = Vec::new();
    for wanted in wanted {
        if builtin.lines().any(|path| module_name(path) == *wanted) {
            continue;
        }
        let (path, needs) = needs
            .get(wanted)
            .with_context(|| format!("the kernel package has no module {wanted}"))?;
        // depmod lists what a module needs transitively, the innermost last.
        for path in needs.iter().rev().chain([path]) {
            if !order.iter().any(|known| known == path) {
                order.push((*path).to_owned());
            }
        }
    }
    Ok(order)
}

fn module_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split_once(".ko").map_or(file, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "k/virtio/virtio.ko:\nk/virtio/virtio_ring.ko: k/virtio/virtio.ko\n\
        k/virtio/virtio_pci.ko: k/virtio/virtio_ring.ko k/virtio/virtio.ko\n\
        k/block/virtio_blk.ko: k/virtio/virtio_ring.ko k/virtio/virtio.ko\n";

    #[test]
    fn loads_each_module_once_and_after_those_it_needs() {
        let order = load_order(DEP, "", &["virtio_pci", "virtio_blk"]).unwrap();
        let names: Vec<_> = order.iter().map(|path| module_name(path)).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_pci", "virtio_blk"]);
    }

    #[test]
    fn skips_what_is_built_in_and_names_what_is_missing() {
        let order = load_order(DEP, "k/fs/ext4/ext4.ko\n", &["ext4"]).unwrap();
        assert!(order.is_empty());
        let error = load_order(DEP, "", &["kvm-amd"]).unwrap_err();
        assert!(error.to_string().contains("kvm-amd"));
    }
}
