//! Pulls from the real registry server, and from one that misbehaves.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "what the cases share may panic as the cases do"
)]

mod case;
mod faults;
mod memory;
mod misbehaving;
#[path = "../corpus/oci.rs"]
mod oci;
mod real_registry;
mod server;
mod signatures;
