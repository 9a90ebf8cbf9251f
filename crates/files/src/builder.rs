//! Puts a server together before the process confines itself.

use std::fs::File;
use std::io;

use crate::owner::OwnerMap;
use crate::server::FileServer;
use crate::share::Share;

/// Collects the tree and the limits of a [`FileServer`].
#[derive(Debug)]
pub struct FileServerBuilder {}

/// Why a server could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `/proc/self/fd` cannot be used.
    #[error("cannot open /proc/self/fd")]
    Proc {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The root of a share cannot be examined.
    #[error("cannot examine the root of share {index}")]
    Root {
        /// Position of the share.
        index: usize,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The root of a share is neither a directory nor a regular file.
    #[error("share {index} is neither a directory nor a regular file")]
    Kind {
        /// Position of the share.
        index: usize,
    },
    /// A protected path is absolute, empty, contains `..`, or belongs to a share of one file.
    #[error("protected path {path:?} of share {index} is not a plain relative path in a directory")]
    ProtectedPath {
        /// Position of the share.
        index: usize,
        /// The path.
        path: std::path::PathBuf,
    },
    /// The name of a directory in the root is no plain name, or there twice.
    #[error("{name:?} is no name for a directory in the root")]
    Directory {
        /// The name.
        name: String,
    },
    /// Too few descriptors to serve from.
    #[error("{budget} file descriptors are too few, at least {minimum} are needed")]
    Descriptors {
        /// What was offered.
        budget: usize,
        /// What is needed.
        minimum: usize,
    },
}

#[allow(unused_variables)]
impl FileServerBuilder {
    /// A server whose `/init` has the bytes of `init` (a sealed memfd).
    pub fn new(init: File, owners: OwnerMap) -> Self {
        Self {}
    }
    /// Adds an empty directory (`dev`, `proc`, …) to the root; `shares` is always there.
    #[must_use]
    pub fn directory(self, name: &str) -> Self {
        self
    }
    /// Adds the next share; the first is `/shares/0`.
    #[must_use]
    pub fn share(self, share: Share) -> Self {
        self
    }
    /// How many descriptors the server may hold open: ¾ of `RLIMIT_NOFILE` is a good choice.
    #[must_use]
    pub fn descriptor_budget(self, budget: usize) -> Self {
        self
    }
    /// Makes the server. Must run in the process that serves, before it confines itself.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<FileServer, BuildError> {
        Ok(FileServer {})
    }
}
