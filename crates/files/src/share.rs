//! What a share is: one host directory or file, how it may be used, and what in it stays untouched.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Whether the guest may change a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every change answers `EROFS`, whatever the guest's kernel thinks.
    ReadOnly,
    /// Changes are allowed except to protected paths.
    ReadWrite,
}

/// What happens when a protected path does not exist at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenMissing {
    /// The guest cannot create it.
    DenyCreation,
    /// It is not protected in this session.
    LeaveFree,
}

/// A path in a read-write share that stays read-only, with everything beneath it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedPath {
    /// Relative to the share's root, plain components only (`.git/hooks`).
    pub path: PathBuf,
    /// What happens when it does not exist.
    pub when_missing: WhenMissing,
}

/// One host directory or regular file to serve as `/shares/N`.
#[derive(Debug)]
pub struct Share {
    /// `O_PATH` descriptor of the directory or file.
    pub root: OwnedFd,
    /// Read-only or read-write.
    pub access: Access,
    /// Paths kept read-only; only for directories.
    pub protected: Vec<ProtectedPath>,
}
