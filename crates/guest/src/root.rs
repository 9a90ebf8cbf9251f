//! The root file system: the image's EROFS under an overlay with a writable disk or memory, the kernel's file systems,
//! the shares, and the switch into it.
//!
//! Disks appear in the order the protocol fixes: the image, then the writable disk. The boot file system is read-only
//! and offers the empty directories used here.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use agent_vm_protocol::{Access, Lower, Root, Share, ShareKind, Upper};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use thiserror::Error;

use crate::data_root;
use crate::kernel_log::{Level, log};
use crate::sys;
use crate::tree::{Tree, TreeError};

/// How long a disk may take to appear.
const DISK_WAIT: Duration = Duration::from_secs(5);

/// Where the new root is put together.
const NEW_ROOT: &str = "/root";

/// Where the writable file system is.
pub(crate) const DISK: &str = "/disk";
const IMAGE: &str = "/image";

const IMAGE_DEVICE: &str = "/dev/vda";
const OVERLAY_OPTIONS: &str = "lowerdir=/image,upperdir=/disk/upper,workdir=/disk/work";

/// A step of the mounts did not work.
#[derive(Debug, Error)]
pub enum RootError {
    /// One mount.
    #[error("cannot mount {what} on {target}")]
    Mount {
        /// What.
        what: String,
        /// Where.
        target: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A directory for a mount.
    #[error("cannot make {path}")]
    Directory {
        /// Which.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A mount point inside the image.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The switch into the new root.
    #[error("cannot enter the new root")]
    Switch(#[source] io::Error),
}

/// The assembled root, before and after the switch.
#[derive(Debug)]
pub struct Assembled {
    /// Paths inside it.
    pub tree: Tree,
    /// The writable disk's file system, to be made clean at power-off.
    pub disk: Option<OwnedFd>,
    /// Growing the disk could not be begun; it works at its old size. What fails later is in the kernel log.
    pub grow_failure: Option<io::Error>,
    /// What could not be mounted but is not needed by everybody.
    pub warnings: Vec<String>,
}

/// Mounts what the boot itself needs: `/proc` and `/dev`, unless the kernel already did.
///
/// # Errors
/// A mount fails for another reason than being there.
pub fn mount_early() -> Result<(), RootError> {
    mount("proc", "/proc", "proc", MountFlags::empty(), "")?;
    match mount(
        "devtmpfs",
        "/dev",
        "devtmpfs",
        MountFlags::NOSUID,
        "mode=0755",
    ) {
        Err(RootError::Mount { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {
            Ok(())
        }
        other => other,
    }
}

/// Puts the root together at its place.
///
/// # Errors
/// A disk is missing or does not hold its file system, or a mount point cannot be made.
pub fn assemble(root: Root, shares: &[Share]) -> Result<Assembled, RootError> {
    let (disk, grow_failure) = mount_writable(root)?;
    mount_stack(root)?;
    let tree = Tree::open(NEW_ROOT)?;
    mount_kernel_file_systems(&tree)?;
    let warnings = data_root::bind(&tree);
    for share in shares {
        bind(&tree, share)?;
    }
    Ok(Assembled {
        tree,
        disk,
        grow_failure,
        warnings,
    })
}

/// Makes the assembled root `/` of this process and everything it starts.
///
/// # Errors
/// The kernel's.
pub fn switch() -> Result<(), RootError> {
    let enter = || -> Result<(), Errno> {
        rustix::process::chdir(NEW_ROOT)?;
        rustix::mount::mount_move(NEW_ROOT, "/")?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")
    };
    enter().map_err(|errno| RootError::Switch(errno.into()))
}

fn mount_writable(root: Root) -> Result<(Option<OwnedFd>, Option<io::Error>), RootError> {
    let (fd, failure) = match root.upper {
        Upper::Tmpfs => {
            mount("tmpfs", DISK, "tmpfs", MountFlags::empty(), "mode=0755")?;
            (None, None)
        }
        Upper::Disk | Upper::KeptDisk => {
            let device = match root.lower {
                Lower::Empty => "/dev/vda",
                Lower::Image => "/dev/vdb",
            };
            wait_for(device)?;
            mount(device, DISK, "ext4", MountFlags::NOATIME, "")?;
            let fd = rustix::fs::open(DISK, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| directory(DISK, errno))?;
            let grown = match root.upper {
                Upper::KeptDisk => grow(device, &fd),
                Upper::Tmpfs | Upper::Disk => grow_later(device, &fd),
            };
            let failure = grown.err();
            (Some(fd), failure)
        }
    };
    for path in ["/disk/upper", "/disk/work"] {
        make_directory(path)?;
    }
    Ok((fd, failure))
}

fn mount_stack(root: Root) -> Result<(), RootError> {
    if root.lower == Lower::Empty {
        return rustix::mount::mount_bind("/disk/upper", NEW_ROOT)
            .map_err(|errno| mount_error("/disk/upper", NEW_ROOT, errno));
    }
    wait_for(IMAGE_DEVICE)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV;
    mount(IMAGE_DEVICE, IMAGE, "erofs", flags, "")?;
    mount(
        "overlay",
        NEW_ROOT,
        "overlay",
        MountFlags::empty(),
        OVERLAY_OPTIONS,
    )
}

fn mount_kernel_file_systems(tree: &Tree) -> Result<(), RootError> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let temporary = MountFlags::NOSUID | MountFlags::NODEV;
    let all = [
        ("/proc", "proc", safe, ""),
        ("/sys", "sysfs", safe, ""),
        ("/sys/fs/cgroup", "cgroup2", safe, "nsdelegate"),
        ("/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755"),
        (
            "/dev/pts",
            "devpts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            "gid=5,mode=0620,ptmxmode=0666",
        ),
        ("/dev/shm", "tmpfs", temporary, "mode=1777"),
        ("/tmp", "tmpfs", temporary, "mode=1777"),
        ("/run", "tmpfs", temporary, "mode=0755"),
    ];
    for (path, kind, flags, options) in all {
        let target = tree.directory_at(path)?;
        let mounted = mount(kind, &Tree::handle(&target), kind, flags, options);
        mounted.map_err(|error| named(error, path))?;
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        tree.link(link, target)?;
    }
    Ok(())
}

fn bind(tree: &Tree, share: &Share) -> Result<(), RootError> {
    let source = format!("/shares/{}", share.index);
    let shown = share.guest_path.to_string();
    let point = match share.kind {
        ShareKind::Directory => tree.directory(&share.guest_path)?,
        ShareKind::File => tree.file(&share.guest_path)?,
    };
    rustix::mount::mount_bind(&source, Tree::handle(&point))
        .map_err(|errno| mount_error(&source, &shown, errno))?;
    if share.access == Access::ReadOnly {
        // Opened again: the descriptor from before is what lies under the mount.
        let mounted = match share.kind {
            ShareKind::Directory => tree.directory(&share.guest_path)?,
            ShareKind::File => tree.file(&share.guest_path)?,
        };
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        rustix::mount::mount_remount(Tree::handle(&mounted), flags, "")
            .map_err(|errno| mount_error(&source, &shown, errno))?;
    }
    Ok(())
}

fn wait_for(device: &str) -> Result<(), RootError> {
    let deadline = Instant::now() + DISK_WAIT;
    loop {
        match rustix::fs::stat(device) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2))
            }
            Err(errno) => return Err(mount_error(device, "the root", errno)),
        }
    }
}

/// Grows the disk beside everything else, at the lowest priority: it takes as long as the rest of the boot, and the
/// first program needs none of the new room. What goes wrong is in the kernel log; the old size stays usable.
fn grow_later(device: &'static str, mount: &OwnedFd) -> io::Result<()> {
    let mount = mount.try_clone()?;
    let work = move || {
        // On Linux the priority is the thread's own.
        let _ = rustix::process::setpriority_process(None, GROW_NICE);
        if let Err(error) = grow(device, &mount) {
            log(Level::Error, &format!("the disk keeps its size: {error}"));
        }
    };
    std::thread::Builder::new()
        .name("grow".to_owned())
        .spawn(work)?;
    Ok(())
}

/// Grows the mounted file system to its device.
fn grow(device: &str, mount: &OwnedFd) -> io::Result<()> {
    let disk = std::fs::File::open(device)?;
    let mut superblock = [0; 1024];
    disk.read_exact_at(&mut superblock, 1024)?;
    let bytes = io::Seek::seek(&mut &disk, io::SeekFrom::End(0))?;
    match Ext4Size::parse(&superblock) {
        Some(size) if bytes / size.block_bytes > size.blocks => {
            sys::ext4_resize(mount, bytes / size.block_bytes)
        }
        Some(_) => Ok(()),
        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// The lowest priority there is.
const GROW_NICE: i32 = 19;

/// Size of an ext4 file system from its superblock (kernel documentation, ext4 "The Super Block").
#[derive(Debug, PartialEq, Eq)]
struct Ext4Size {
    blocks: u64,
    block_bytes: u64,
}

impl Ext4Size {
    fn parse(superblock: &[u8; 1024]) -> Option<Self> {
        let word = |at: usize| {
            superblock
                .get(at..at + 4)
                .and_then(|b| b.try_into().ok())
                .map(u32::from_le_bytes)
        };
        let magic = superblock.get(0x38..0x3a)?;
        let log_block = word(0x18)?;
        if magic != [0x53, 0xef] || log_block > 6 {
            return None;
        }
        const WIDE: u32 = 0x80;
        let high = if word(0x60)? & WIDE != 0 {
            word(0x150)?
        } else {
            0
        };
        Some(Self {
            blocks: u64::from(high) << 32 | u64::from(word(0x4)?),
            block_bytes: 1024 << log_block,
        })
    }
}

fn mount(
    what: &str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), RootError> {
    let options = CString::new(options).map_err(|_| mount_error(what, target, Errno::INVAL))?;
    rustix::mount::mount(what, target, kind, flags, options.as_c_str())
        .map_err(|errno| mount_error(what, target, errno))
}

fn make_directory(path: &str) -> Result<(), RootError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(directory(path, errno)),
    }
}

fn directory(path: &str, errno: Errno) -> RootError {
    RootError::Directory {
        path: path.to_owned(),
        source: errno.into(),
    }
}

fn mount_error(what: &str, target: &str, errno: Errno) -> RootError {
    RootError::Mount {
        what: what.to_owned(),
        target: target.to_owned(),
        source: errno.into(),
    }
}

fn named(error: RootError, path: &str) -> RootError {
    match error {
        RootError::Mount { what, source, .. } => RootError::Mount {
            what,
            target: path.to_owned(),
            source,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ext4_size_is_read_from_the_superblock() {
        let mut block = [0; 1024];
        assert_eq!(Ext4Size::parse(&block), None);
        block[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        block[0x18] = 2;
        block[0x4..0x8].copy_from_slice(&5u32.to_le_bytes());
        block[0x150] = 1;
        assert_eq!(
            Ext4Size::parse(&block),
            Some(Ext4Size {
                blocks: 5,
                block_bytes: 4096
            })
        );
        block[0x60] = 0x80;
        assert_eq!(Ext4Size::parse(&block).unwrap().blocks, (1 << 32) + 5);
        block[0x18] = 77;
        assert_eq!(Ext4Size::parse(&block), None);
    }
}
