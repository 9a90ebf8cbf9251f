//! Every feature row that involves a guest, on a real virtual machine. Run by `cargo xtask boot`.

#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests start programs as a user does"
)]

mod agents;
mod bases;
mod confinement;
mod credentials;
mod egress;
mod endings;
mod escape;
mod exit_codes;
mod explain;
mod fail_closed;
mod grants;
mod images;
mod integrity;
mod layers;
mod ports;
mod shares;
mod streams;
mod terminal;
