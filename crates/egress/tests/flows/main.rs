//! The egress between a fake guest and a fake upstream: real TLS, real HTTP, in one process. What the upstream saw is
//! the proof; what the guest asked for is not.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests start real proxies and say when there are none"
)]

mod denials;
mod grants;
mod http;
mod plain;
mod proxy;
mod rig;
mod splice;
mod streams;
mod upstream;
