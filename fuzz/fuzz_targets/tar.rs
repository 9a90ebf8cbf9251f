//! A layer's archive, all the way to an image in memory.

#![no_main]

mod archive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_image::fuzz_tar(&archive::with_checksums(data)));
