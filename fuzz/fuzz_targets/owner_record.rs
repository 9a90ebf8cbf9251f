//! The extended attribute that keeps the owner a guest has set.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_files::fuzz_owner_record(data));
