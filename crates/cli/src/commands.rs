//! One file per command.

pub(crate) mod base;
pub(crate) mod egress;
pub(crate) mod explain;
pub(crate) mod image;
pub(crate) mod link;
pub(crate) mod pull;
pub(crate) mod run_agent;
pub(crate) mod setup;
pub(crate) mod usage;
