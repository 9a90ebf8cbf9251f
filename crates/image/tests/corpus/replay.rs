//! What fuzzing has found interesting is tried again at each test run, and the corpus is what fuzzing begins with.

use agent_vm_image::{fuzz_manifest, fuzz_merge, fuzz_tar};
use agent_vm_test_support::fuzz_corpus;

use crate::cases::GROUPS;

#[path = "../../../../fuzz/fuzz_targets/archive.rs"]
mod archive;

/// The largest archive that is worth fuzzing with.
const MAX_SEED: usize = 8 << 10;

#[test]
fn inputs_found_by_fuzzing_archives_do_not_panic() {
    fuzz_corpus::replay("tar", |bytes| fuzz_tar(&archive::with_checksums(bytes)));
}

#[test]
fn inputs_found_by_fuzzing_pax_records_do_not_panic() {
    fuzz_corpus::replay("pax", |bytes| fuzz_tar(&archive::with_records(bytes)));
}

#[test]
fn inputs_found_by_fuzzing_stacks_of_layers_do_not_panic() {
    fuzz_corpus::replay("merge", |bytes| {
        let (lower, upper) = archive::two(bytes);
        fuzz_merge(&lower, &upper);
    });
}

#[test]
fn inputs_found_by_fuzzing_documents_do_not_panic() {
    fuzz_corpus::replay("manifest", fuzz_manifest);
}

#[test]
#[ignore = "writes the cases as seeds into fuzz/corpus"]
fn write_fuzz_seeds() {
    for target in ["tar", "manifest"] {
        fs_err::create_dir_all(fuzz_corpus::directory(target)).unwrap();
    }
    for case in GROUPS.iter().flat_map(|(_, cases)| cases.iter()) {
        let image = (case.image)();
        let put = |target: &str, part: &str, bytes: &[u8]| {
            if bytes.len() <= MAX_SEED {
                fs_err::write(
                    fuzz_corpus::directory(target).join(format!("{}-{part}", case.name)),
                    bytes,
                )
                .unwrap();
            }
        };
        for (number, layer) in image.layers.iter().enumerate().take(3) {
            put("tar", &number.to_string(), &layer.blob);
        }
        put("manifest", "config", &image.config);
        for (number, document) in image.documents.iter().enumerate().take(3) {
            put("manifest", &number.to_string(), &document.bytes);
        }
    }
}
