//! DNS for the guest: one server, at the gateway, that answers questions of every type from the host's name servers.
//!
//! A question goes: names that are answered here ([`special`]), names that policy denies (they do not exist), names the
//! user has overridden (a synthetic address that only this guest's connections know), reverse names of addresses that
//! policy forbids (they do not exist), then the resolver: the host's tables, what is remembered ([`cache`]), the host's
//! name servers. Every answer passes the rebinding filter ([`filter`]); the addresses it tells are remembered with their
//! name, so the gateway can say which name a connection's address stands for ([`name_table`]).

mod cache;
pub(crate) mod filter;
pub(crate) mod fuzz;
mod host_files;
pub(crate) mod host_resolver;
mod hosts_file;
pub(crate) mod message;
pub(crate) mod name_server;
pub(crate) mod name_table;
mod pace;
mod resolv_conf;
pub(crate) mod resolver;
mod reverse;
pub(crate) mod server;
mod server_order;
pub(crate) mod server_reply;
mod special;
mod stand_in;

#[cfg(test)]
mod test_server;
