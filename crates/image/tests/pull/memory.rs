//! The memory budget: a pull holds a stream, not a layer. Measured on a process of its own, which does nothing but pull.

use std::process::Command;

use agent_vm_image::ImageDigest;
use agent_vm_test_support::registry::Registry;

use crate::case::{Layer, OCI_GZIP, OCI_ZSTD, TestStore, archive, push};

/// The most resident memory of a pulling process (SPECIFICATION: image pull).
const BUDGET_KIB: u64 = 96 << 10;
/// Tells the measured process what to pull.
const REFERENCE_VARIABLE: &str = "AGENT_VM_TEST_MEASURED_PULL";

/// Bytes no compressor makes smaller.
pub(crate) fn incompressible(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Pulls two layers in a process of its own; gives its peak in KiB.
#[expect(clippy::disallowed_methods, reason = "measures a process of its own")]
fn peak(layers: &[Layer]) -> u64 {
    let registry = Registry::start().unwrap();
    push(&registry, "big", "1", layers, false);
    let measured = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "memory::measured_pull",
            "--ignored",
            "--nocapture",
        ])
        .env(REFERENCE_VARIABLE, registry.reference("big", "1"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&measured.stdout);
    assert!(
        measured.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&measured.stderr)
    );
    let peak = said
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("the measured process tells its peak");
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn layers_larger_than_the_budget_are_pulled_within_it() {
    let layer = |media_type, mebibytes: usize| {
        Layer::new(
            media_type,
            &archive(&[("big", &incompressible(mebibytes << 20, 1))]),
        )
    };
    let peak = peak(&[layer(OCI_ZSTD, 110), layer(OCI_GZIP, 30)]);
    println!("peak of a pull of 140 MiB: {peak} KiB");
    assert!(peak <= BUDGET_KIB, "{peak} KiB");
}

#[test]
fn layers_with_the_largest_windows_are_pulled_within_the_budget() {
    let layer = |seed| {
        let archive = archive(&[("big", &incompressible(72 << 20, seed))]);
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(26).unwrap();
        std::io::Write::write_all(&mut encoder, &archive).unwrap();
        Layer {
            media_type: OCI_ZSTD,
            blob: encoder.finish().unwrap(),
            diff_id: ImageDigest::of(&archive),
        }
    };
    let peak = peak(&[layer(1), layer(2)]);
    println!("peak of a pull with two windows of 64 MiB: {peak} KiB");
    assert!(peak <= BUDGET_KIB, "{peak} KiB");
}

#[test]
#[ignore = "the measured half of the test above"]
fn measured_pull() {
    let reference = std::env::var(REFERENCE_VARIABLE).unwrap();
    let store = TestStore::new();
    let image = store.pull(&reference).unwrap();
    assert_eq!(image.layers().len(), 2);
    assert_ne!(image.digest, ImageDigest::of(b""));
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    println!(
        "\n{}",
        status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap()
    );
}
