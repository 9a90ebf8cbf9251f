//! What fuzzing has found interesting (`fuzz/corpus`), tried again at each test run.

use std::path::PathBuf;

/// Fewer inputs than this mean that a corpus was lost.
const MIN_INPUTS: usize = 20;

/// The inputs of a fuzz target.
#[must_use]
pub fn directory(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../fuzz/corpus", target]
        .iter()
        .collect()
}

/// Runs `body` on every input of a target.
///
/// # Panics
/// When `body` does, an input cannot be read, or there are too few.
pub fn replay(target: &str, body: impl Fn(&[u8])) {
    let entries = fs_err::read_dir(directory(target)).expect("the corpus is part of the checkout");
    let inputs: Vec<_> = entries
        .map(|entry| entry.expect("its directory can be read").path())
        .collect();
    assert!(inputs.len() >= MIN_INPUTS, "{target}: {}", inputs.len());
    for input in inputs {
        body(&fs_err::read(input).expect("it can be read"));
    }
}
