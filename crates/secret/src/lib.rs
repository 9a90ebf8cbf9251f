//! Secrets, placeholders and redaction.
//!
//! A [`Secret`] is a real token: it never leaves the launcher process, is never printed and is wiped when dropped.
//! A [`Placeholder`] is what the guest holds in its stead: worthless anywhere but at the egress, which exchanges it
//! in one header of an authorised request. [`PlaceholderScanner`] finds placeholders in bytes that a guest sends.

#![forbid(unsafe_code)]

mod placeholder;
mod redact;
mod scanner;
mod secret;

pub use placeholder::{MAX_PREFIX_BYTES, MintError, Placeholder, PlaceholderError};
pub use redact::Redactor;
pub use scanner::{PlaceholderScanner, StreamScanner};
pub use secret::{MAX_SECRET_BYTES, Secret, SecretError};
