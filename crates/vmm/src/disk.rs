//! Disks in the child: one file, or several joined to one disk by a descriptor the engine reads (VMDK, "flat" extents).
//!
//! The engine opens files by path. A path here is always `/proc/self/fd/N` of a descriptor this process owns, so that neither the
//! launcher's names nor the rules for files matter.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use msb_krun_devices::virtio::block::{BlockBackendSpec, BlockLayerSpec, ImageType, SyncMode};
use rustix::fs::FileType;

use crate::memory_file::sealed_memory_file;
use crate::spec::Access;

/// VMDK counts in sectors of so many bytes, as virtio disks do.
const SECTOR: u64 = 512;

/// A disk of the machine.
#[derive(Debug)]
pub(crate) enum OpenDisk {
    /// One raw image.
    Raw { image: OwnedFd, access: Access },
    /// What differs from a raw image, which is only read.
    Changed { base: OwnedFd, changes: OwnedFd },
    /// Read-only files, one after the other.
    Joined {
        /// A memory file that names the parts by their descriptors.
        descriptor: OwnedFd,
        parts: Vec<OwnedFd>,
    },
}

impl OpenDisk {
    /// Joins files to one disk.
    ///
    /// # Errors
    /// When a part is not a regular file of whole sectors, or there is no memory for the descriptor.
    pub(crate) fn join(parts: Vec<OwnedFd>) -> io::Result<Self> {
        let text = describe(&parts)?;
        Ok(Self::Joined {
            descriptor: sealed_memory_file("disk", text.as_bytes())?,
            parts,
        })
    }

    /// The files the machine reads or writes.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&OwnedFd, Access)> {
        let (files, written, access) = match self {
            Self::Raw { image, access } => (std::slice::from_ref(image), None, *access),
            Self::Changed { base, changes } => {
                (std::slice::from_ref(base), Some(changes), Access::ReadOnly)
            }
            Self::Joined { parts, .. } => (parts.as_slice(), None, Access::ReadOnly),
        };
        let files = files.iter().map(move |file| (file, access));
        files.chain(written.map(|file| (file, Access::ReadWrite)))
    }

    pub(crate) fn access(&self) -> Access {
        match self {
            Self::Raw { access, .. } => *access,
            Self::Changed { .. } => Access::ReadWrite,
            Self::Joined { .. } => Access::ReadOnly,
        }
    }

    /// What the engine opens, and as what.
    pub(crate) fn source(&self) -> (PathBuf, ImageType) {
        match self {
            Self::Raw { image, .. } => (fd_path(image), ImageType::Raw),
            Self::Changed { changes, .. } => (fd_path(changes), ImageType::Qcow2),
            Self::Joined { descriptor, .. } => (fd_path(descriptor), ImageType::Vmdk),
        }
    }

    /// The files of a changed disk as the engine wants them named: each by itself, so that nothing in them names another.
    pub(crate) fn chain(&self) -> Option<BlockBackendSpec> {
        let Self::Changed { base, changes } = self else {
            return None;
        };
        let layers = vec![
            BlockLayerSpec::new(fd_path(base), ImageType::Raw),
            BlockLayerSpec::new(fd_path(changes), ImageType::Qcow2),
        ];
        Some(BlockBackendSpec::new(layers).sync_mode(SyncMode::Relaxed))
    }
}

/// A path that opens the file behind `fd` again.
pub(crate) fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The VMDK descriptor of the parts.
fn describe(parts: &[OwnedFd]) -> io::Result<String> {
    let mut text = String::from(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n",
    );
    for part in parts {
        let stat = rustix::fs::fstat(part)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !regular || size == 0 || !size.is_multiple_of(SECTOR) {
            let reason = "a part of a joined disk is not a file of whole sectors";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let path = fd_path(part);
        writeln!(
            text,
            "RDONLY {} FLAT \"{}\" 0",
            size / SECTOR,
            path.display()
        )
        .expect("a String takes everything");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use rustix::fs::MemfdFlags;

    use super::*;

    fn part(bytes: &[u8]) -> OwnedFd {
        let file = File::from(rustix::fs::memfd_create("part", MemfdFlags::CLOEXEC).unwrap());
        file.write_all_at(bytes, 0).unwrap();
        file.into()
    }

    #[test]
    fn parts_are_named_by_descriptor_with_their_sectors() {
        let parts = vec![part(&[1; 512]), part(&[2; 8192])];
        let (first, second) = (parts[0].as_raw_fd(), parts[1].as_raw_fd());
        let disk = OpenDisk::join(parts).unwrap();
        let (path, kind) = disk.source();
        assert_eq!((kind, disk.access()), (ImageType::Vmdk, Access::ReadOnly));
        let text = fs_err::read_to_string(path).unwrap();
        let extents: Vec<_> = text.lines().filter(|line| line.starts_with("RD")).collect();
        assert_eq!(
            extents,
            [
                format!("RDONLY 1 FLAT \"/proc/self/fd/{first}\" 0"),
                format!("RDONLY 16 FLAT \"/proc/self/fd/{second}\" 0")
            ]
        );
    }

    #[test]
    fn a_changed_disk_only_reads_what_lies_below() {
        let (base, changes) = (part(&[1; 512]), part(&[2; 512]));
        let (below, above) = (fd_path(&base), fd_path(&changes));
        let disk = OpenDisk::Changed { base, changes };
        let files: Vec<_> = disk
            .files()
            .map(|(file, access)| (fd_path(file), access))
            .collect();
        assert_eq!(
            files,
            [
                (below.clone(), Access::ReadOnly),
                (above.clone(), Access::ReadWrite)
            ]
        );
        let chain = disk.chain().unwrap();
        let layers: Vec<_> = chain
            .layers
            .iter()
            .map(|layer| layer.path.clone())
            .collect();
        assert_eq!((layers, chain.read_only), (vec![below, above], false));
        assert_eq!(disk.access(), Access::ReadWrite);
    }

    #[test]
    fn parts_of_a_sector_and_a_half_empty_ones_and_devices_are_refused() {
        let null = fs_err::File::open("/dev/null").unwrap().into_parts().0;
        for bad in [part(&[0; 768]), part(b""), null.into()] {
            let error = OpenDisk::join(vec![part(&[0; 512]), bad]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
