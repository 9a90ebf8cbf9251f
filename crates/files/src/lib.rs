//! The file server behind the one virtio-fs device.
#![forbid(unsafe_code)]

mod builder;
mod owner;
mod reply;
mod server;
mod share;

pub use builder::{BuildError, FileServerBuilder};
pub use owner::OwnerMap;
pub use reply::*;
pub use server::FileServer;
pub use share::{Access, ProtectedPath, Share, WhenMissing};
