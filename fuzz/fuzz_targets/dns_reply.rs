//! A reply of a resolver of the host.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_gateway::fuzz_dns_reply(data));
