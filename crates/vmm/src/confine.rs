//! Gives up every right the virtual machine does not need. After [`enter`] this process can open
//! nothing but the files it was given, reach no network, start no program, trace nothing and be
//! traced by nobody but root.
//!
//! Order matters: limits and attributes first, then the file system rules (which need system
//! calls the filter forbids), then the system call filter, before any thread exists, so that all
//! of them are bound by it.

use std::os::fd::OwnedFd;

use rustix::process::{DumpableBehavior, Resource, Rlimit};

use crate::disk::OpenDisk;
use crate::spec::Access;

mod files;
mod syscalls;

/// What the file system rules must allow.
pub(crate) struct Grants<'a> {
    pub(crate) disks: &'a [OpenDisk],
    pub(crate) shares: &'a [(OwnedFd, Access)],
}

/// Why this process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfineError {
    #[error("cannot give up privileges: {0}")]
    Privileges(rustix::io::Errno),
    #[error("cannot restrict file access (Landlock, Linux 5.13 or newer): {0}")]
    Files(files::FilesError),
    #[error("cannot restrict system calls (seccomp): {0}")]
    SystemCalls(syscalls::FilterError),
}

/// Confines this process for good. [`limits`] comes before.
///
/// # Errors
/// When any part cannot be enforced; the process must not go on then.
pub(crate) fn enter(grants: &Grants<'_>) -> Result<(), ConfineError> {
    files::restrict(grants).map_err(ConfineError::Files)?;
    syscalls::restrict().map_err(ConfineError::SystemCalls)
}

/// Raises the limits this process needs and gives up the privileges it does not.
///
/// # Errors
/// When the system refuses, which it does not.
pub(crate) fn limits() -> Result<(), ConfineError> {
    give_up().map_err(ConfineError::Privileges)
}

fn give_up() -> rustix::io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    // Also keeps the memory from being dumped or read by processes of the same user.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )?;
    // Every file the guest has looked at may hold a descriptor.
    let files = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: files.maximum,
            maximum: files.maximum,
        },
    )
}
