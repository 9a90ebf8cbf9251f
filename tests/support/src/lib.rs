//! Fakes and environments for tests.

#![forbid(unsafe_code)]

pub mod upstream;
