#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent_vm_gateway::fuzz_frames(bytes));
