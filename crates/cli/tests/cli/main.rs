//! The command as a person sees it: standard output, standard error and exit code, in a home of its
//! own, for everything that needs no virtual machine.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr)]

mod environment;

mod base;
mod credentials;
mod egress_check;
mod egress_log;
mod explain;
mod host;
mod image;
mod model_usage;
mod network;
mod progress;
mod publish;
mod pull;
mod store_faults;
mod usage;
