//! The file server behind the one virtio-fs device.
//!
//! A synthetic read-only tree (`/init`, empty mount points) into which host directories and files are
//! grafted as `/shares/N`. Everything the guest sends is untrusted: names are single components,
//! everything is resolved beneath its share, read-only shares and protected paths are enforced here,
//! ownership the host cannot give is recorded, and descriptors, nodes and handles are bounded.
//!
//! [`FileServer`] has one method for each FUSE request and knows nothing of the device; see
//! [`FileServerBuilder`] to put one together.
#![forbid(unsafe_code)]

mod builder;
mod component;
mod descriptor_cache;
mod directory_stream;
mod guard;
mod handle_table;
mod host;
mod node;
mod node_table;
mod owner;
mod reply;
mod server;
mod share;
mod synthetic;

pub use builder::{BuildError, FileServerBuilder};
pub use component::fuzz_component;
pub use owner::{OwnerMap, fuzz_owner_record};
pub use reply::*;
pub use server::{FileServer, HOST_TIMEOUT};
pub use share::{Access, ProtectedPath, Share, WhenMissing};
