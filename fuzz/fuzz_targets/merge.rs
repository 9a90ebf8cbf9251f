//! Two layers, one above the other: the input is both archives, halved at a block by its first byte.

#![no_main]

mod archive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (lower, upper) = archive::two(data);
    agent_vm_image::fuzz_merge(&lower, &upper);
});
