//! The memory budget holds whatever an image is: measured on processes of their own, which do nothing but pull.

use std::io::Write;
use std::ops::Range;
use std::process::Command;

use agent_vm_image::{ImageDigest, PullOptions, Reference, Store, pull};
use agent_vm_test_support::registry::Registry;
use sha2::Digest as _;

use crate::build::{Hostile, Layer, OCI_GZIP, OCI_ZSTD};
use crate::cases::GROUPS;
use crate::served;
use crate::test_archive::{TestArchive, TestEntry as E};

/// The most resident memory of a pulling process (SPECIFICATION: image pull).
const BUDGET_KIB: u64 = 96 << 10;
/// Tells the measured process what to pull: references, one a line.
const REFERENCES_VARIABLE: &str = "AGENT_VM_TEST_MEASURED_PULLS";

/// Pulls all references in one process; gives its peak and how many were accepted.
fn measured(references: &[String]) -> (u64, usize) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "memory::measured_pulls",
            "--ignored",
            "--nocapture",
        ])
        .env(REFERENCES_VARIABLE, references.join("\n"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let number = |key: &str| {
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .expect("the measured process tells it");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (
        number("VmHWM:"),
        usize::try_from(number("accepted:")).unwrap(),
    )
}

#[test]
#[ignore = "the measured half of the tests here"]
fn measured_pulls() {
    let references = std::env::var(REFERENCES_VARIABLE).unwrap();
    let mut accepted = 0;
    for reference in references.lines() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let reference: Reference = reference.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        match runtime.block_on(pull(&store, &reference, &PullOptions::default(), &())) {
            Ok(_) => accepted += 1,
            Err(error) => println!("{reference}: {error:?}"),
        }
    }
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    println!("\n{peak}\naccepted: {accepted}");
}

#[test]
fn no_case_of_the_corpus_takes_more_than_the_budget() {
    let registry = Registry::start().unwrap();
    let cases = GROUPS.iter().flat_map(|(_, cases)| cases.iter());
    let references: Vec<_> = cases
        .map(|case| served::serve(&registry, case.name, &(case.image)()))
        .collect();
    // As the command does it: a process for each pull.
    let measured = references
        .iter()
        .map(|reference| measured(std::slice::from_ref(reference)));
    let (peak, accepted) = measured.fold((0, 0), |(peak, accepted), (one, more)| {
        (one.max(peak), accepted + more)
    });
    println!(
        "highest peak of {} pulls, {accepted} of them accepted: {peak} KiB",
        references.len()
    );
    assert!(accepted > 100, "{accepted}");
    assert!(peak <= BUDGET_KIB, "{peak} KiB");
}

#[test]
fn a_million_tiny_files_are_pulled_within_the_budget() {
    let registry = Registry::start().unwrap();
    let image = Hostile::new(vec![tiny_files(0..1000, "")]);
    let (peak, accepted) = measured(&[served::serve(&registry, "tiny", &image)]);
    println!("peak of a pull of 1 000 000 files: {peak} KiB");
    assert_eq!(accepted, 1);
    assert!(peak <= BUDGET_KIB, "{peak} KiB");
}

#[test]
fn layers_that_have_too_many_entries_together_are_refused_within_the_budget() {
    let registry = Registry::start().unwrap();
    let layers = [0..1000, 1000..2000, 2000..3000].map(|some| tiny_files(some, ""));
    let image = Hostile::new(layers.into());
    let (peak, accepted) = measured(&[served::serve(&registry, "tiny", &image)]);
    println!("peak of a pull of 3 x 1 000 000 files: {peak} KiB");
    assert_eq!(accepted, 0, "an image of 3 000 000 files");
    assert!(peak <= BUDGET_KIB, "{peak} KiB");
}

#[test]
fn a_million_tiny_files_behind_the_largest_window_are_pulled_within_the_budget() {
    let registry = Registry::start().unwrap();
    let image = Hostile::new(vec![tiny_files_behind_windows(0..1000, 26)]);
    let (peak, accepted) = measured(&[served::serve(&registry, "tiny", &image)]);
    println!("peak of a pull of 1 000 000 files behind a window of 64 MiB: {peak} KiB");
    assert_eq!(accepted, 1);
    assert!(peak <= BUDGET_KIB, "{peak} KiB");
}

#[test]
fn layers_with_the_largest_windows_and_many_files_wait_for_each_other_within_the_budget() {
    let registry = Registry::start().unwrap();
    let layers =
        [0..250, 250..500, 500..750, 750..1000].map(|some| tiny_files_behind_windows(some, 26));
    let image = Hostile::new(layers.into());
    let (peak, accepted) = measured(&[served::serve(&registry, "tiny", &image)]);
    println!("peak of a pull of 4 x 250 000 files behind windows of 64 MiB: {peak} KiB");
    assert_eq!(accepted, 1);
    assert!(peak <= BUDGET_KIB, "{peak} KiB");
}

/// Blocks of that size are what malloc would keep in the arena of each thread.
#[test]
fn what_a_layer_has_freed_is_free_for_the_next() {
    let registry = Registry::start().unwrap();
    let layers = [
        0..125,
        125..250,
        250..375,
        375..500,
        500..625,
        625..750,
        750..875,
        875..1000,
    ]
    .map(|some| tiny_files_behind_windows(some, 24));
    let image = Hostile::new(layers.into());
    let (peak, accepted) = measured(&[served::serve(&registry, "tiny", &image)]);
    println!("peak of a pull of 8 x 125 000 files behind windows of 16 MiB: {peak} KiB");
    assert_eq!(accepted, 1);
    assert!(peak <= BUDGET_KIB, "{peak} KiB");
}

#[test]
fn as_many_files_as_there_is_room_for_are_pulled_within_the_budget() {
    let registry = Registry::start().unwrap();
    let image = Hostile::new(vec![tiny_files(0..1000, "-15-letters")]);
    let (peak, accepted) = measured(&[served::serve(&registry, "tiny", &image)]);
    println!("peak of a pull of 1 000 000 files with longer names: {peak} KiB");
    assert_eq!(accepted, 1);
    assert!(peak <= BUDGET_KIB, "{peak} KiB");
}

#[test]
fn files_that_have_nothing_in_common_are_refused_within_the_budget() {
    let registry = Registry::start().unwrap();
    let entries = (0..750_000_u64)
        .map(|number| E::file(format!("{number:08}-long-name"), "").owner(number, number));
    let image = Hostile::new(vec![Layer::gzip(&TestArchive::of(entries))]);
    let (peak, accepted) = measured(&[served::serve(&registry, "tiny", &image)]);
    println!("peak of a pull of 750 000 owners: {peak} KiB");
    assert_eq!(accepted, 0, "750 000 files, each with another owner");
    assert!(peak <= BUDGET_KIB, "{peak} KiB");
}

/// A thousand files `f123` and the suffix in each of these directories, every hundredth with a byte in it.
fn tiny_files(directories: Range<u32>, suffix: &str) -> Layer {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let diff_id = write_tiny_files(directories, suffix, &mut encoder);
    Layer {
        media_type: OCI_GZIP,
        blob: encoder.finish().unwrap(),
        diff_id,
    }
}

/// The same, compressed so that a decoder must hold 2^`window_log` bytes.
fn tiny_files_behind_windows(directories: Range<u32>, window_log: u32) -> Layer {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(window_log).unwrap();
    let diff_id = write_tiny_files(directories, "", &mut encoder);
    Layer {
        media_type: OCI_ZSTD,
        blob: encoder.finish().unwrap(),
        diff_id,
    }
}

/// Compressed as it is made; gives the diff id.
fn write_tiny_files(
    directories: Range<u32>,
    suffix: &str,
    encoder: &mut impl Write,
) -> ImageDigest {
    let mut hasher = sha2::Sha256::new();
    let mut write = |bytes: &[u8]| {
        hasher.update(bytes);
        encoder.write_all(bytes).unwrap();
    };
    let header = |content: &str| TestArchive::of([E::file("d0000/f000", content)])[..512].to_vec();
    let mut content = [0; 512];
    content[0] = b'x';
    let (empty, full) = (header(""), header("x"));
    for directory in directories {
        for file in 0..1000 {
            let has_content = file % 100 == 0;
            let mut header = if has_content {
                full.clone()
            } else {
                empty.clone()
            };
            let name = format!("d{directory:04}/f{file:03}{suffix}");
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            write(&header);
            if has_content {
                write(&content);
            }
        }
    }
    write(&[0; 1024]);
    let digest: [u8; 32] = hasher.finalize().into();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}").parse().unwrap()
}
