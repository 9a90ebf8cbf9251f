//! Fakes and environments for tests.

#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests start the programs they test against"
)]

pub mod canary;
pub mod fuzz_corpus;
pub mod image_tree;
pub mod issuer;
pub mod layered_image;
pub mod providers;
pub mod registry;
pub mod upstream;
