//! Text that may hold a placeholder in any encoding.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_egress::fuzz_placeholder_scan(data));
