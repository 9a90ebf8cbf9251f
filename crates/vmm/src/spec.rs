//! What a VM is made of, and how that reaches the confined process.
//!
//! The launcher describes a VM with open descriptors only; no path, token or name of a user
//! crosses. The description travels as a sealed memory file on the child's standard input:
//! [`WIRE_VERSION`], then postcard. Numbers in it refer to descriptors the child inherited.

use std::io::{self, Read};
use std::os::fd::{OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use crate::memory::SizeError;
use crate::memory_file::sealed_memory_file;

/// Most disks of a VM: with the devices every VM has, as many as the kernel's interrupt controller has lines for.
pub const MAX_DISKS: usize = 5;
/// Most parts of a joined disk: the merged metadata and 127 layers of an image.
pub const MAX_PARTS: usize = 128;
/// Most shares of a VM.
pub const MAX_SHARES: usize = 128;
/// Most protected paths of one share.
pub const MAX_PROTECTED: usize = 64;
/// Bytes of one protected path.
pub const MAX_PROTECTED_LEN: usize = 4096;

/// Version of the description; launcher and child are the same binary, so it only tells a mistake.
const WIRE_VERSION: u8 = 3;
/// Bytes of a description.
const MAX_WIRE: u64 = 1 << 20;

/// Whether the guest may change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Reading only.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// One virtio disk. The guest sees them in order as `/dev/vda`, `/dev/vdb`, …
#[derive(Debug)]
pub enum Disk {
    /// One file.
    Raw {
        /// The raw image, a regular file opened for reading (and writing when it is writable).
        image: OwnedFd,
        /// Whether the guest may write to it.
        access: Access,
    },
    /// A writable disk that begins as another one, which stays as it is.
    Changed {
        /// The disk below: a raw image, a regular file opened for reading.
        base: OwnedFd,
        /// What differs: a QCOW2 image without a backing file's name, a regular file opened for reading and writing.
        changes: OwnedFd,
    },
    /// Several files, one after the other, that the guest may only read.
    Joined {
        /// 1 to [`MAX_PARTS`] regular files opened for reading, each a multiple of 512 bytes long and not empty.
        parts: Vec<OwnedFd>,
    },
}

/// One host directory or file the guest sees as `/shares/N`, numbered in order from 0.
#[derive(Debug)]
pub struct Share {
    /// The directory or regular file, opened with `O_PATH`.
    pub root: OwnedFd,
    /// Whether the guest may change it.
    pub access: Access,
    /// Paths below the root the guest may read but not change; only in a directory.
    pub protected: Vec<ProtectedPath>,
}

/// A path in a writable share that stays as it is, with everything beneath it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectedPath {
    /// Relative to the share's root, plain components only, as in `.git/hooks`.
    pub path: String,
    /// What happens when there is nothing at this path.
    pub when_missing: WhenMissing,
}

/// What happens when a protected path does not exist at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenMissing {
    /// The guest cannot create it.
    DenyCreation,
    /// It is not protected for this VM.
    LeaveFree,
}

/// Whose files the launching user's files are in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestOwner {
    /// User id in the guest.
    pub uid: u32,
    /// Group id in the guest.
    pub gid: u32,
}

/// A VM to be started.
#[derive(Debug)]
pub struct VmSpec {
    /// Virtual processors, 1 to 64.
    pub vcpus: u8,
    /// Guest memory in MiB; see [`crate::MIN_MEMORY_MIB`].
    pub memory_mib: u32,
    /// The pinned kernel file, a `libkrunfw.so.5`.
    pub kernel: OwnedFd,
    /// The guest's first program: a static executable in a sealed memory file.
    pub init: OwnedFd,
    /// Disks, in the guest's order.
    pub disks: Vec<Disk>,
    /// Shares, in the guest's order.
    pub shares: Vec<Share>,
    /// Who owns the launching user's files in the guest.
    pub owner: GuestOwner,
    /// One end of a `SOCK_SEQPACKET` pair; see [`crate`] for what it carries.
    pub network: OwnedFd,
    /// One end of a connected `SOCK_STREAM` pair, joined to the guest's vsock connection.
    pub control: OwnedFd,
    /// One end of another such pair, joined to the connection of the guest's forwarder; only when ports are published.
    pub forward: Option<OwnedFd>,
    /// The writing end of a pipe for the kernel log and the engine's messages.
    pub console: OwnedFd,
}

/// Why a description cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The VM's size is out of bounds.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Too many of something.
    #[error("a VM has at most {limit} {what}, not {count}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The number asked for.
        count: usize,
        /// The most there can be.
        limit: usize,
    },
    /// A protected path that is empty, absolute, too long, or leaves its share.
    #[error("{path:?} is not a path below its share")]
    ProtectedPath {
        /// The path.
        path: String,
    },
}

impl VmSpec {
    /// Checks every bound that can be checked without looking at the descriptors.
    ///
    /// # Errors
    /// See [`SpecError`].
    pub fn check(&self) -> Result<(), SpecError> {
        crate::memory::check(self.vcpus, self.memory_mib)?;
        at_most("disks", self.disks.len(), MAX_DISKS)?;
        for disk in &self.disks {
            if let Disk::Joined { parts } = disk {
                at_most("parts of a disk", parts.len(), MAX_PARTS)?;
            }
        }
        at_most("shares", self.shares.len(), MAX_SHARES)?;
        for share in &self.shares {
            at_most(
                "protected paths in a share",
                share.protected.len(),
                MAX_PROTECTED,
            )?;
            if let Some(path) = share
                .protected
                .iter()
                .find(|protected| !is_below(&protected.path))
            {
                return Err(SpecError::ProtectedPath {
                    path: path.path.clone(),
                });
            }
        }
        Ok(())
    }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), SpecError> {
    if count > limit {
        Err(SpecError::TooMany { what, count, limit })
    } else {
        Ok(())
    }
}

fn is_below(path: &str) -> bool {
    let plain =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    path.len() <= MAX_PROTECTED_LEN && path.split('/').all(plain)
}

/// The description as the child reads it: descriptors by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireSpec {
    pub(crate) vcpus: u8,
    pub(crate) memory_mib: u32,
    pub(crate) kernel: RawFd,
    pub(crate) init: RawFd,
    pub(crate) disks: Vec<WireDisk>,
    pub(crate) shares: Vec<WireShare>,
    pub(crate) owner: GuestOwner,
    pub(crate) network: RawFd,
    pub(crate) control: RawFd,
    pub(crate) forward: Option<RawFd>,
    /// Where the child reports how it ended.
    pub(crate) status: RawFd,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireDisk {
    Raw {
        image: RawFd,
        access: Access,
    },
    /// The disk below, then what differs.
    Changed {
        files: [RawFd; 2],
    },
    Joined {
        parts: Vec<RawFd>,
    },
}

impl WireDisk {
    fn numbers(&self) -> &[RawFd] {
        match self {
            Self::Raw { image, .. } => std::slice::from_ref(image),
            Self::Changed { files } => files,
            Self::Joined { parts } => parts,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireShare {
    pub(crate) root: RawFd,
    pub(crate) access: Access,
    pub(crate) protected: Vec<ProtectedPath>,
}

impl WireSpec {
    /// Every descriptor number, unsorted, possibly repeated in a bad description.
    pub(crate) fn numbers(&self) -> Vec<RawFd> {
        let fixed = [
            self.kernel,
            self.init,
            self.network,
            self.control,
            self.status,
        ];
        let disks = self.disks.iter().flat_map(WireDisk::numbers).copied();
        let shares = self.shares.iter().map(|share| share.root);
        fixed
            .into_iter()
            .chain(self.forward)
            .chain(disks)
            .chain(shares)
            .collect()
    }

    fn within_bounds(&self) -> bool {
        crate::memory::check(self.vcpus, self.memory_mib).is_ok()
            && self.disks.len() <= MAX_DISKS
            && self
                .disks
                .iter()
                .all(|disk| disk.numbers().len() <= MAX_PARTS)
            && self.shares.len() <= MAX_SHARES
            && self.shares.iter().all(|share| {
                share.protected.len() <= MAX_PROTECTED
                    && share
                        .protected
                        .iter()
                        .all(|protected| is_below(&protected.path))
            })
    }

    /// Writes the description to a sealed memory file positioned at its beginning.
    pub(crate) fn to_memory_file(&self) -> io::Result<OwnedFd> {
        let spec = postcard::to_extend(self, vec![WIRE_VERSION]).map_err(io::Error::other)?;
        sealed_memory_file("vm-spec", &spec)
    }

    /// Reads a description; bounded, and checked against the same limits as in the launcher.
    pub(crate) fn read_from(input: impl Read) -> io::Result<Self> {
        let bad = |reason: &'static str| io::Error::new(io::ErrorKind::InvalidData, reason);
        let mut bytes = Vec::new();
        input.take(MAX_WIRE).read_to_end(&mut bytes)?;
        let Some((&WIRE_VERSION, body)) = bytes.split_first() else {
            return Err(bad("not a VM description of this version"));
        };
        let (spec, rest) =
            postcard::take_from_bytes::<Self>(body).map_err(|_| bad("not a VM description"))?;
        if !rest.is_empty() || !spec.within_bounds() {
            return Err(bad("a VM description out of bounds"));
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests;
