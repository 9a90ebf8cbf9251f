//! A DNS question from the guest.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_gateway::fuzz_dns_query(data));
