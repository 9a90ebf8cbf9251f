//! File system and network rules by Landlock: the kernel's own list of what may be opened, which
//! holds for the file server as well, whatever names a guest makes up.

use std::os::fd::{AsFd, OwnedFd};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{FileType, Mode, OFlags};

use super::Grants;
use crate::disk::OpenDisk;
use crate::spec::Access;

/// The newest set of rules this code knows; older kernels enforce the part they know.
const NEWEST: ABI = ABI::V6;
const KVM_DEVICE: &str = "/dev/kvm";

/// Why file access cannot be restricted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error("this kernel does not enforce it")]
    NotEnforced,
    #[error("{KVM_DEVICE} cannot be granted: {0}")]
    Kvm(rustix::io::Errno),
    #[error("a file cannot be looked at: {0}")]
    Look(rustix::io::Errno),
    #[error("{0}")]
    Rules(#[from] RulesetError),
}

/// Restricts this thread and all it will start.
pub(crate) fn restrict(grants: &Grants<'_>) -> Result<(), FilesError> {
    let mut rules = Ruleset::default()
        // Without this one there is no confinement worth the name.
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let kvm = rustix::fs::open(KVM_DEVICE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(FilesError::Kvm)?;
    rules = allow(
        rules,
        &kvm,
        AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
    )?;
    // Memory files need no rule: they are on no file system anybody could name.
    for (file, access) in grants.disks.iter().flat_map(OpenDisk::files) {
        rules = allow(rules, file, file_rights(access))?;
    }
    for (root, access) in grants.shares {
        let stat = rustix::fs::fstat(root).map_err(FilesError::Look)?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let rights = if directory {
            tree_rights(*access)
        } else {
            file_rights(*access)
        };
        rules = allow(rules, root, rights)?;
    }
    let status = rules.restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(FilesError::NotEnforced);
    }
    Ok(())
}

fn allow(
    rules: RulesetCreated,
    fd: &OwnedFd,
    rights: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    rules.add_rule(PathBeneath::new(fd.as_fd(), rights))
}

fn file_rights(access: Access) -> BitFlags<AccessFs> {
    match access {
        Access::ReadOnly => AccessFs::ReadFile.into(),
        Access::ReadWrite => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate,
    }
}

/// Everything a guest may do in a share: no program is ever started from it here, and device
/// nodes are never made.
fn tree_rights(access: Access) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    match access {
        Access::ReadOnly => read,
        Access::ReadWrite => {
            read | file_rights(access)
                | AccessFs::MakeReg
                | AccessFs::MakeDir
                | AccessFs::MakeSym
                | AccessFs::MakeFifo
                | AccessFs::MakeSock
                | AccessFs::RemoveFile
                | AccessFs::RemoveDir
                | AccessFs::Refer
        }
    }
}
