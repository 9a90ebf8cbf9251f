//! The first bytes of a TLS connection from the guest.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_egress::fuzz_client_hello(data));
