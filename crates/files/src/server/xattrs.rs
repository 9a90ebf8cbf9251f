//! Extended attributes: the guest gets `user.*`, without our own.

use std::ffi::CStr;
use std::io;

use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

use super::{FileServer, Target};
use crate::host::{ProcPath, TYPE_DIRECTORY, TYPE_REGULAR};
use crate::node::NodeFd;
use crate::owner::HIDDEN_XATTR_PREFIX;
use crate::reply::XattrReply;

/// Longest value and longest list in bytes (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_SIZE_MAX: usize = 65_536;
/// Longest name in bytes (`XATTR_NAME_MAX`).
const XATTR_NAME_MAX: usize = 255;
const USER_PREFIX: &[u8] = b"user.";

impl FileServer {
    /// FUSE_SETXATTR.
    ///
    /// # Errors
    /// `EROFS` in read-only shares and protected paths, `EOPNOTSUPP` outside `user.*`, `EPERM` for names
    /// of our own, `E2BIG` above 64 KiB.
    pub fn setxattr(&self, inode: u64, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
        let node = self.host_node(inode)?;
        self.check_changeable(&node)?;
        check_name(name, node.kind())?;
        if value.len() > XATTR_SIZE_MAX {
            return Err(Errno::TOOBIG.into());
        }
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let path = ProcPath::of(self.fd_of(&node)?);
        Ok(rustix::fs::setxattr(path.as_c_str(), name, value, flags)?)
    }

    /// FUSE_GETXATTR.
    ///
    /// # Errors
    /// `ENODATA` also for names of our own, `EOPNOTSUPP` outside `user.*`, `ERANGE` if `size` is too small.
    pub fn getxattr(&self, inode: u64, name: &CStr, size: u32) -> io::Result<XattrReply> {
        let Target::Host(node) = self.target(inode)? else {
            return Err(Errno::NOTSUP.into());
        };
        match check_name(name, node.kind()) {
            Err(Errno::PERM) => return Err(Errno::NODATA.into()),
            other => other?,
        }
        let path = ProcPath::of(self.fd_of(&node)?);
        if size == 0 {
            let length = rustix::fs::getxattr_query(path.as_c_str(), name)?;
            return Ok(XattrReply::Size(length as u32));
        }
        let mut value = vec![0; XATTR_SIZE_MAX.min(size as usize)];
        let length = rustix::fs::getxattr(path.as_c_str(), name, &mut value[..])?;
        value.truncate(length);
        Ok(XattrReply::Value(value))
    }

    /// FUSE_LISTXATTR.
    ///
    /// # Errors
    /// `ERANGE` if `size` is too small.
    pub fn listxattr(&self, inode: u64, size: u32) -> io::Result<XattrReply> {
        let names = match self.target(inode)? {
            Target::Host(node) if matches!(node.kind(), TYPE_REGULAR | TYPE_DIRECTORY) => {
                visible_names(&self.fd_of(&node)?)?
            }
            _ => Vec::new(),
        };
        if size == 0 {
            return Ok(XattrReply::Size(names.len() as u32));
        }
        if names.len() > size as usize {
            return Err(Errno::RANGE.into());
        }
        Ok(XattrReply::Value(names))
    }

    /// FUSE_REMOVEXATTR.
    ///
    /// # Errors
    /// As [`FileServer::setxattr`]; `ENODATA` if it is not there.
    pub fn removexattr(&self, inode: u64, name: &CStr) -> io::Result<()> {
        let node = self.host_node(inode)?;
        self.check_changeable(&node)?;
        check_name(name, node.kind())?;
        let path = ProcPath::of(self.fd_of(&node)?);
        Ok(rustix::fs::removexattr(path.as_c_str(), name)?)
    }
}

fn check_name(name: &CStr, kind: u32) -> Result<()> {
    let name = name.to_bytes();
    if name.len() > XATTR_NAME_MAX {
        return Err(Errno::RANGE);
    }
    let takes_user = matches!(kind, TYPE_REGULAR | TYPE_DIRECTORY);
    if !name.starts_with(USER_PREFIX) || name.len() == USER_PREFIX.len() || !takes_user {
        return Err(Errno::NOTSUP);
    }
    if name.starts_with(HIDDEN_XATTR_PREFIX) {
        return Err(Errno::PERM);
    }
    Ok(())
}

/// The names the guest may see, each with its NUL.
fn visible_names(fd: &NodeFd) -> Result<Vec<u8>> {
    let mut all = vec![0; XATTR_SIZE_MAX];
    let length = match rustix::fs::listxattr(ProcPath::of(fd).as_c_str(), &mut all[..]) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    let names = all[..length].split_inclusive(|byte| *byte == 0);
    Ok(names
        .filter(|name| name.starts_with(USER_PREFIX) && !name.starts_with(HIDDEN_XATTR_PREFIX))
        .flatten()
        .copied()
        .collect())
}
