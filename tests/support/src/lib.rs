//! Fakes and environments for tests.

#![forbid(unsafe_code)]

pub mod canary;
pub mod upstream;
