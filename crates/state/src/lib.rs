//! What agent-vm keeps on the host: which project a directory belongs to, where state and images
//! live, one private directory per launch, and file locks.
//!
//! Must hold: nothing here reads the environment (the caller passes every value), nothing runs a
//! program in an untrusted tree, and no path below a directory the guest can write is followed.
#![forbid(unsafe_code)]

mod directories;
mod lock;
mod project;
mod session;

pub use directories::{BaseDirectories, HostDirectories};
pub use lock::{FileLock, LockError, PassingLock};
pub use project::{Project, ProjectError, ProjectId};
pub use session::{SessionDirectory, SessionError, SessionId};
