//! The hostile corpus: every way an image can be wrong or strange that we know of, each with its documented result
//! (`docs/image-corpus.md`, made from the same table). Each case is a real pull; what is accepted is mounted by the
//! kernel and compared with what another implementation makes of it, what is refused must say where and why.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "what the cases share may panic as the cases do, and starts the tools that judge"
)]

mod build;
mod case;
mod cases;
mod debian;
mod document;
mod judge;
mod listing;
mod memory;
mod oci;
mod random;
mod replay;
mod served;
#[allow(
    dead_code,
    reason = "shared with the unit tests, which use other parts"
)]
#[path = "../../src/test_archive.rs"]
mod test_archive;
mod umoci;
mod view;
