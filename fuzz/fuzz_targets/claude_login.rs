//! The login file of an agent on the host.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_credentials::fuzz_claude_login(data));
