//! A manifest, index or configuration from a registry.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_image::fuzz_manifest(data));
