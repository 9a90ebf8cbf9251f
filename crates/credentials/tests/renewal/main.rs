//! Logins renewed by real processes at a real TLS server that replaces refresh tokens and refuses used ones.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests start processes of their own"
)]

mod crash;
mod engine;
mod processes;
mod rig;
