//! Pulls from the real registry server, and from one that misbehaves.

mod case;
mod misbehaving;
mod real_registry;
mod server;
