//! A name in a file request of the guest.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_files::fuzz_component(data));
