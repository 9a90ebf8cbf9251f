//! The login files of agents on the host.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_credentials::fuzz_login_files(data));
