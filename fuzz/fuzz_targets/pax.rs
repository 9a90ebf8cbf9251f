//! pax records and sparse maps in front of a file with content.

#![no_main]

mod archive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_image::fuzz_tar(&archive::with_records(data)));
