//! The control stream between launcher and guest.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_vm_protocol::fuzz_decoder(data));
