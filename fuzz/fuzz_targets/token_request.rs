//! What a guest sends to a token endpoint.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_egress::fuzz_token_request(data));
