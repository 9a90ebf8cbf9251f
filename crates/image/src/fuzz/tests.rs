use agent_vm_test_support::fuzz_corpus;

use super::*;
use crate::test_archive::{TestArchive, TestEntry as E};

#[test]
fn bodies_take_layers_of_every_kind() {
    let lower = TestArchive::of([
        E::file("usr/lib/a", "x"),
        E::symlink("lib", "usr/lib"),
        E::hard_link("b", "usr/lib/a"),
    ]);
    let upper = TestArchive::of([
        E::file("lib/.wh.a", ""),
        E::hard_link("lib/c", "b"),
        E::file("d/.wh..wh..opq", ""),
    ]);
    fuzz_merge(&lower, &upper);
    fuzz_merge(&upper, &lower);
    fuzz_merge(b"", &lower);
    let input = stored_input(&stored(&lower).unwrap());
    fuzz_stored_layer(&input);
    for at in (0..input.len()).step_by(7) {
        let mut damaged = input.clone();
        damaged[at] ^= 0xff;
        fuzz_stored_layer(&damaged);
        fuzz_stored_layer(&input[..at]);
    }
}

/// What [`fuzz_stored_layer`] makes this layer of.
fn stored_input(layer: &[u8]) -> Vec<u8> {
    let (fields, blocks) = erofs::fields_of(layer);
    let input = [&fields[..], blocks].concat();
    assert_eq!(erofs::layer_of(&fields, blocks).len(), layer.len());
    input
}

#[test]
fn inputs_found_by_fuzzing_stored_layers_do_not_panic() {
    fuzz_corpus::replay("stored_layer", fuzz_stored_layer);
}

#[test]
#[ignore = "writes layers with more and more entries as seeds into fuzz/corpus"]
fn write_fuzz_seeds_of_stored_layers() {
    fs_err::create_dir_all(fuzz_corpus::directory("stored_layer")).unwrap();
    let entries = || {
        let many = (0..200).map(|number| E::symlink(format!("many/{number}"), "../usr"));
        [
            E::directory("./").mode(0o711).owner(7, 8).mtime(9),
            E::file("usr/lib/a", "x"),
            E::symlink("lib", "usr/lib"),
            E::hard_link("b", "usr/lib/a"),
            E::hard_link("c", "of/a/lower/layer"),
            E::file("d/.wh..wh..opq", ""),
            E::file("d/.wh.gone", ""),
            E::file(".wh.e", ""),
            E::directory("e/"),
            E::symlink("long", "t".repeat(4000)),
            E::file("f", "").pax("SCHILY.xattr.user.x", "y"),
            E::file("g", "").pax("SCHILY.xattr.security.capability", vec![1; 20]),
            E::new(b'6', "fifo"),
            E::file("n".repeat(255), [7; 5000]),
            E::directory("deep/".repeat(40)),
        ]
        .into_iter()
        .chain(many)
    };
    for count in (1..=entries().count()).filter(|count| *count < 16 || count % 20 == 0) {
        let layer = stored(&TestArchive::of(entries().take(count))).unwrap();
        let seed = fuzz_corpus::directory("stored_layer").join(format!("seed-{count:03}"));
        fs_err::write(seed, stored_input(&layer)).unwrap();
    }
}
