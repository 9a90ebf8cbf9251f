//! PID 1 of the guest, as a library so that its parts are tested natively (also by the launcher's session tests).
//!
//! Boot: [`init`] connects to the host, learns everything in one `Boot` message, builds the root file system
//! ([`root`]), network ([`network`]) and files ([`identity`], [`trust`]) of an image that fits ([`image_version`]), sees the network refuse what it must
//! ([`canary`]), then serves programs with the [`engine`]
//! until the host says `Shutdown` or goes away, and ends the machine in order ([`power_off`]).
//!
//! A second thread serves connections of the host to ports of the guest, when any are published ([`forward`]).
//!
//! Programs have one thread with one `poll` loop, every buffer bounded by the credit windows of the protocol. The host is trusted
//! with the machine, but a malformed message still only powers off. `sys` holds all unsafe code.
#![deny(unsafe_code)]

pub mod canary;
pub mod control;
pub mod data_root;
pub mod engine;
pub mod forward;
pub mod identity;
pub mod image_version;
pub mod init;
pub mod kernel_log;
pub mod kernel_settings;
mod listeners;
mod netlink;
pub mod network;
pub mod power_off;
pub mod root;
pub mod sys;
pub mod tree;
pub mod trust;
pub mod users;
