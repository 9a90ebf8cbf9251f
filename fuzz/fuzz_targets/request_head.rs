//! The head of an HTTP request from the guest.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_egress::fuzz_request_head(data));
