//! The egress between a fake guest and a fake upstream: real TLS, real HTTP, in one process. What the upstream saw is
//! the proof; what the guest asked for is not.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests start real proxies"
)]

mod asks;
mod binding;
mod canary;
mod cuts;
mod datagrams;
mod denials;
mod echo;
mod expectations;
mod foreign;
mod grants;
mod http;
mod leaks;
mod plain;
mod proxy;
mod pseudo_headers;
mod renewal;
mod rig;
mod sharing;
mod smuggling;
mod splice;
mod streams;
mod upstream;
mod usage;
