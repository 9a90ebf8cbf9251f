//! Puts a server together before the process confines itself.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::component::Component;
use crate::descriptor_cache::DescriptorCache;
use crate::guard::{Guards, plain_components};
use crate::handle_table::HandleTable;
use crate::host::{self, ProcFd, TYPE_DIRECTORY, TYPE_REGULAR};
use crate::node::{Identity, Node, ShareState};
use crate::node_table::{NODES_MAX, NodeTable};
use crate::owner::{MemoryRecords, OwnerMap};
use crate::server::FileServer;
use crate::share::{Share, WhenMissing};
use crate::synthetic::SyntheticTree;

/// Descriptors kept free for those open during one request, of several threads.
const TRANSIENT_DESCRIPTORS: usize = 16;

/// Fewest descriptors to work with, on top of the shares.
const WORKING_DESCRIPTORS: usize = 64;

/// Descriptors if nothing else is said: ¾ of the usual soft limit.
const DEFAULT_BUDGET: usize = 768;

/// Collects the tree and the limits of a [`FileServer`].
#[derive(Debug)]
pub struct FileServerBuilder {
    init: File,
    owners: OwnerMap,
    directories: Vec<String>,
    shares: Vec<Share>,
    budget: usize,
    nodes: usize,
}

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
    /// The bytes of `/init` cannot be examined.
    #[error("cannot examine the init file")]
    Init {
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
        path: PathBuf,
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

impl FileServerBuilder {
    /// A server whose `/init` has the bytes of `init` (a sealed memfd).
    pub fn new(init: File, owners: OwnerMap) -> Self {
        Self {
            init,
            owners,
            directories: Vec::new(),
            shares: Vec::new(),
            budget: DEFAULT_BUDGET,
            nodes: NODES_MAX,
        }
    }

    /// Adds an empty directory (`dev`, `proc`, …) to the root; `shares` is always there.
    #[must_use]
    pub fn directory(mut self, name: &str) -> Self {
        self.directories.push(name.to_owned());
        self
    }

    /// Adds the next share; the first is `/shares/0`.
    #[must_use]
    pub fn share(mut self, share: Share) -> Self {
        self.shares.push(share);
        self
    }

    /// How many descriptors the server may hold open, those of the shares included: ¾ of
    /// `RLIMIT_NOFILE` is a good choice. 768 if not set.
    #[must_use]
    pub fn descriptor_budget(mut self, budget: usize) -> Self {
        self.budget = budget;
        self
    }

    /// How many nodes the guest may hold; about 300 bytes each. 4 Mi if not set.
    #[must_use]
    pub fn node_limit(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Makes the server. Must run in the process that serves, before it confines itself: it opens
    /// `/proc/self/fd`.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<FileServer, BuildError> {
        let minimum = self.shares.len() + WORKING_DESCRIPTORS;
        if self.budget < minimum {
            return Err(BuildError::Descriptors {
                budget: self.budget,
                minimum,
            });
        }
        let free = self.budget - self.shares.len() - TRANSIENT_DESCRIPTORS;
        let empty = directory_names(self.directories)?;
        let nodes = NodeTable::new(
            SyntheticTree::first_free_id(empty.len()),
            self.nodes.saturating_add(self.shares.len()),
        );
        let mut shares = Vec::with_capacity(self.shares.len());
        for (index, share) in self.shares.into_iter().enumerate() {
            shares.push(add_share(&nodes, index, share)?);
        }
        let io_error = |source: Errno| io::Error::from(source);
        Ok(FileServer {
            proc: ProcFd::open()
                .map_err(io_error)
                .map_err(|source| BuildError::Proc { source })?,
            owners: self.owners,
            tree: SyntheticTree {
                init_meta: host::stat_fd(&self.init)
                    .map_err(io_error)
                    .map_err(|source| BuildError::Init { source })?,
                init: self.init,
                empty,
                shares,
            },
            nodes,
            descriptors: DescriptorCache::new(free / 2),
            handles: HandleTable::new(free - free / 2),
        })
    }
}

fn directory_names(names: Vec<String>) -> Result<Vec<CString>, BuildError> {
    let mut found: Vec<CString> = Vec::with_capacity(names.len());
    for name in names {
        let taken = ["init", "shares"].contains(&name.as_str());
        match CString::new(name.as_bytes()) {
            Ok(c_name)
                if !taken && Component::parse(&c_name).is_ok() && !found.contains(&c_name) =>
            {
                found.push(c_name);
            }
            _ => return Err(BuildError::Directory { name }),
        }
    }
    Ok(found)
}

fn add_share(nodes: &NodeTable, index: usize, share: Share) -> Result<Arc<Node>, BuildError> {
    let meta = host::stat_fd(&share.root).map_err(|source| BuildError::Root {
        index,
        source: source.into(),
    })?;
    if !matches!(meta.kind(), TYPE_DIRECTORY | TYPE_REGULAR) {
        return Err(BuildError::Kind { index });
    }
    let mut guards = Guards::default();
    let mut protected = Vec::new();
    for path in &share.protected {
        let wrong = || BuildError::ProtectedPath {
            index,
            path: path.path.clone(),
        };
        let components = plain_components(&path.path).ok_or_else(wrong)?;
        if meta.kind() != TYPE_DIRECTORY {
            return Err(wrong());
        }
        let missing = host::resolve_beneath(&share.root, &path.path).err() == Some(Errno::NOENT);
        if missing && path.when_missing == WhenMissing::LeaveFree {
            continue;
        }
        guards.protect(&components);
        protected.push(components);
    }
    for components in protected {
        remember_identities(&mut guards, &share, &components);
    }
    let index = index as u32;
    let identity = Identity::of(index, &meta);
    let state = Arc::new(ShareState {
        index,
        access: share.access,
        guards,
        root_dev: meta.dev,
        other_devs: Mutex::default(),
        takes_xattrs: AtomicBool::new(true),
        memory_records: MemoryRecords::default(),
    });
    Ok(nodes.add_root(identity, |id| Node::root(id, state, identity, share.root)))
}

/// Notes what lies on a protected path now, wherever links on it lead inside the share.
fn remember_identities(guards: &mut Guards, share: &Share, components: &[&OsStr]) {
    use std::os::unix::ffi::OsStrExt;
    let mut guard = guards.root();
    for length in 1..=components.len() {
        guard = guards.child(guard, components[length - 1].as_bytes());
        let path: PathBuf = components[..length].iter().map(Path::new).collect();
        if let Ok(meta) = host::resolve_beneath(&share.root, &path).and_then(host::stat_fd) {
            guards.remember(meta.dev, meta.ino, guard);
        }
    }
}
