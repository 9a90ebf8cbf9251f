//! The egress between a fake guest and a fake upstream: real TLS, real HTTP, in one process. What the upstream saw is
//! the proof; what the guest asked for is not.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests start real proxies"
)]

mod canary;
mod datagrams;
mod denials;
mod grants;
mod http;
mod plain;
mod proxy;
mod renewal;
mod rig;
mod splice;
mod streams;
mod upstream;
