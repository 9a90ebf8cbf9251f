//! The file of a layer in the store, damaged in any way.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_image::fuzz_stored_layer(data));
