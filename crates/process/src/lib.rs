//! Children with a scrubbed environment and named file descriptors.
//!
//! The only way any process of this project is started. What must hold:
//!
//! - A child's environment is empty unless a variable was named; nothing leaks from the parent's.
//! - A child receives exactly the descriptors that were handed over, plus its three standard ones.
//! - No shell ever interprets a command; a program is an absolute path.
//! - Every child has an owner that kills and reaps it on drop, and every wait and buffer is bounded.
#![forbid(unsafe_code)]

mod child;
mod find;
mod run;

pub use child::{Child, ChildCommand, ChildStdio, SpawnError};
pub use find::find_program;
pub use run::{Captured, CommandSpec, RunError, run_captured};
