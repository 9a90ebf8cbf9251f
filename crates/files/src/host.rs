//! The only ways this crate resolves anything on the host.
//!
//! A name is one [`Component`] relative to a directory descriptor, never followed when it is a link,
//! never leaving the directory. A descriptor is used again through `/proc/self/fd/N`, which leads to
//! exactly that inode whatever happened to its path since.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, chmodat, openat, openat2, statx,
};
use rustix::io::{Errno, Result};

use crate::component::{Component, NAME_LENGTH_MAX};
use crate::reply::Timestamp;

/// Type bits of a mode.
pub(crate) const TYPE_MASK: u32 = 0o170_000;
pub(crate) const TYPE_REGULAR: u32 = 0o100_000;
pub(crate) const TYPE_DIRECTORY: u32 = 0o040_000;
pub(crate) const TYPE_SYMLINK: u32 = 0o120_000;
pub(crate) const TYPE_FIFO: u32 = 0o010_000;
pub(crate) const TYPE_SOCKET: u32 = 0o140_000;

const PROC_FD: &CStr = c"/proc/self/fd";
const PROC_MAGIC: u64 = 0x9fa0;

/// What the host says about a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    /// Birth time, zero where the file system keeps none: tells a reused inode number.
    pub(crate) born: Timestamp,
    pub(crate) mode: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) blksize: u32,
    pub(crate) atime: Timestamp,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
}

impl Meta {
    /// The type bits.
    pub(crate) fn kind(&self) -> u32 {
        self.mode & TYPE_MASK
    }

    fn from_statx(stat: &Statx) -> Self {
        let time = |at: rustix::fs::StatxTimestamp| Timestamp {
            seconds: at.tv_sec,
            nanoseconds: at.tv_nsec,
        };
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            dev: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
            ino: stat.stx_ino,
            born: if has_birth {
                time(stat.stx_btime)
            } else {
                Timestamp::default()
            },
            mode: u32::from(stat.stx_mode),
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            blksize: stat.stx_blksize,
            atime: time(stat.stx_atime),
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
        }
    }
}

fn statx_fields() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME
}

/// Looks at a name without following it.
pub(crate) fn stat_at(directory: impl AsFd, name: Component<'_>) -> Result<Meta> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(directory, name.as_c_str(), flags, statx_fields()).map(|stat| Meta::from_statx(&stat))
}

/// Looks at what a descriptor, `O_PATH` or not, refers to.
pub(crate) fn stat_fd(fd: impl AsFd) -> Result<Meta> {
    statx(fd, c"", AtFlags::EMPTY_PATH, statx_fields()).map(|stat| Meta::from_statx(&stat))
}

/// Opens a name beneath a directory: no link is followed, nothing outside is reached.
pub(crate) fn open_at(
    directory: impl AsFd,
    name: &CStr,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd> {
    openat2(
        directory,
        name,
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        mode,
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
    )
}

/// Opens an `O_PATH` descriptor of a name.
pub(crate) fn open_path_at(directory: impl AsFd, name: Component<'_>) -> Result<OwnedFd> {
    open_at(directory, name.as_c_str(), OFlags::PATH, Mode::empty())
}

/// Sets the permission bits of what a descriptor refers to, which must be no link.
pub(crate) fn change_mode(fd: impl AsFd, mode: u32) -> Result<()> {
    // The plain chmod system call is not among those the VMM process may make; fchmodat is.
    let path = ProcPath::of(fd);
    chmodat(
        CWD,
        path.as_c_str(),
        Mode::from_raw_mode(mode),
        AtFlags::empty(),
    )
}

/// Resolves a trusted relative path of several components for the builder; links are followed but
/// stay beneath.
pub(crate) fn resolve_beneath(directory: impl AsFd, path: &std::path::Path) -> Result<OwnedFd> {
    openat2(
        directory,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

/// The process's own descriptor directory.
#[derive(Debug)]
pub(crate) struct ProcFd(OwnedFd);

impl ProcFd {
    /// Opens `/proc/self/fd` and checks that it is procfs.
    pub(crate) fn open() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, PROC_FD, flags, Mode::empty())?;
        if rustix::fs::fstatfs(&fd)?.f_type as u64 != PROC_MAGIC {
            return Err(Errno::NOTSUP);
        }
        Ok(Self(fd))
    }

    /// Opens the inode behind `fd` anew. The caller knows it is a regular file.
    pub(crate) fn reopen(&self, fd: impl AsFd, flags: OFlags) -> Result<File> {
        let name = ProcPath::relative(fd.as_fd());
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        openat(&self.0, name.as_c_str(), flags, Mode::empty()).map(File::from)
    }
}

/// A path `/proc/self/fd/N`, optionally with one name beneath, for calls that take no descriptor.
pub(crate) struct ProcPath {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl ProcPath {
    /// The prefix, ten digits, two slashes, a name and the NUL.
    const CAPACITY: usize = 32 + NAME_LENGTH_MAX;

    fn empty() -> Self {
        Self {
            bytes: [0; Self::CAPACITY],
            length: 0,
        }
    }

    fn push(&mut self, part: &[u8]) {
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len();
    }

    fn push_number(&mut self, fd: BorrowedFd<'_>) {
        let mut digits = [0; 10];
        let mut at = digits.len();
        let mut rest = fd.as_raw_fd().unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
    }

    fn relative(fd: BorrowedFd<'_>) -> Self {
        let mut path = Self::empty();
        path.push_number(fd);
        path
    }

    /// The path that leads to `fd`; a call must follow it.
    pub(crate) fn of(fd: impl AsFd) -> Self {
        let mut path = Self::empty();
        path.push(PROC_FD.to_bytes());
        path.push(b"/");
        path.push_number(fd.as_fd());
        path
    }

    /// The path that leads to `name` in `directory`; a call must not follow it.
    pub(crate) fn of_child(directory: impl AsFd, name: Component<'_>) -> Self {
        let mut path = Self::of(directory);
        path.push(b"/");
        path.push(name.as_bytes());
        path
    }

    /// For the system call.
    pub(crate) fn as_c_str(&self) -> &CStr {
        // One zero byte always follows: the capacity counts it.
        CStr::from_bytes_until_nul(&self.bytes).expect("the buffer is longer than any path in it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn reopens_the_same_inode_after_it_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs_err::write(&path, b"old").unwrap();
        let root = File::open(dir.path()).unwrap();
        let fd = open_path_at(&root, Component::parse(c"a").unwrap()).unwrap();
        fs_err::remove_file(&path).unwrap();
        fs_err::write(&path, b"new").unwrap();
        let mut file = ProcFd::open().unwrap().reopen(&fd, OFlags::RDONLY).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, "old");
    }

    #[test]
    fn never_follows_a_link_when_opening() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc/passwd", dir.path().join("l")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let open = |flags| open_at(&root, c"l", flags, Mode::empty());
        assert_eq!(open(OFlags::RDONLY).unwrap_err(), Errno::LOOP);
        assert_eq!(
            stat_fd(open(OFlags::PATH).unwrap()).unwrap().kind(),
            TYPE_SYMLINK
        );
    }

    #[test]
    fn open_refuses_to_leave_even_if_a_bad_name_came_through() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        for name in [c"..", c"../x", c"/etc/passwd"] {
            let opened = open_at(&root, name, OFlags::PATH, Mode::empty());
            assert_eq!(opened.unwrap_err(), Errno::XDEV, "{name:?}");
        }
    }

    #[test]
    fn longest_name_fits_a_proc_path() {
        let name = std::ffi::CString::new(vec![b'x'; NAME_LENGTH_MAX]).unwrap();
        let root = File::open("/").unwrap();
        let path = ProcPath::of_child(&root, Component::parse(&name).unwrap());
        assert!(path.as_c_str().to_bytes().ends_with(name.to_bytes()));
    }
}
