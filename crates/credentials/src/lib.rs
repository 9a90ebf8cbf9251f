//! Host credentials found, placeholders minted.
//!
//! Must hold: a real token is only ever inside a `Secret`; what is made for the guest is built from
//! an allow-list of fields and holds placeholders; every read is bounded; the environment is what
//! the caller passed, never the process's.
#![forbid(unsafe_code)]

mod credential;

pub use credential::{AuthScheme, Collected, Credential, GuestFile, HeaderSpec};
