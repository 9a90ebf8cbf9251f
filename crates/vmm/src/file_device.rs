//! Puts the file server behind the engine's virtio-fs device: translates one set of types into the
//! other and decides nothing.
//!
//! One request is not the server's: the guest announces the code it will stop with by an `ioctl` on
//! any file of this device (`EXIT_CODE_IOCTL`, as libkrun's own file system has it).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use agent_vm_files::{
    BuildError, DirEntry, Entry, FileServer, FileServerBuilder, NewFile, OwnerMap, XattrReply,
};
use msb_krun_devices::virtio::bindings::{stat64, statvfs64};
use msb_krun_devices::virtio::fs::filesystem::{
    Context, Entry as EngineEntry, Extensions, FsOptions, GetxattrReply, ListxattrReply,
    OpenOptions, SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use msb_krun_devices::virtio::fs::{AddDirEntry, AddDirEntryPlus, DynFileSystem};
use rustix::io::Errno;
use rustix::process::{Resource, getegid, geteuid, getrlimit};

use self::convert::{caller, changes, dir_entry, entry, figures, opened, stat};
use crate::spec::{Access, WhenMissing, WireSpec};

mod convert;

/// The request by which the guest announces its exit code; the argument is the code.
pub const EXIT_CODE_IOCTL: u32 = 0x7602;

/// Empty directories of the root, mount points for the guest's first program.
const MOUNT_POINTS: [&str; 8] = ["dev", "proc", "sys", "run", "tmp", "image", "disk", "root"];
/// Descriptors assumed when the limit is unlimited.
const MANY_DESCRIPTORS: u64 = 1 << 20;

/// The virtio-fs device's file system.
pub(crate) struct FileDevice(FileServer);

impl FileDevice {
    /// The tree of `spec`, with `init` as its `/init`.
    ///
    /// # Errors
    /// When the server finds a share unusable.
    pub(crate) fn new(
        init: OwnedFd,
        shares: Vec<OwnedFd>,
        spec: &WireSpec,
    ) -> Result<Self, BuildError> {
        let owners = OwnerMap {
            host_uid: geteuid().as_raw(),
            host_gid: getegid().as_raw(),
            guest_uid: spec.owner.uid,
            guest_gid: spec.owner.gid,
        };
        let limit = getrlimit(Resource::Nofile)
            .current
            .unwrap_or(MANY_DESCRIPTORS)
            .min(MANY_DESCRIPTORS);
        let budget = usize::try_from(limit / 4 * 3).unwrap_or(usize::MAX);
        let mut builder =
            FileServerBuilder::new(File::from(init), owners).descriptor_budget(budget);
        for name in MOUNT_POINTS {
            builder = builder.directory(name);
        }
        for (root, share) in shares.into_iter().zip(&spec.shares) {
            let protected = share
                .protected
                .iter()
                .map(|protected| agent_vm_files::ProtectedPath {
                    path: protected.path.as_str().into(),
                    when_missing: match protected.when_missing {
                        WhenMissing::DenyCreation => agent_vm_files::WhenMissing::DenyCreation,
                        WhenMissing::LeaveFree => agent_vm_files::WhenMissing::LeaveFree,
                    },
                });
            builder = builder.share(agent_vm_files::Share {
                root,
                access: match share.access {
                    Access::ReadOnly => agent_vm_files::Access::ReadOnly,
                    Access::ReadWrite => agent_vm_files::Access::ReadWrite,
                },
                protected: protected.collect(),
            });
        }
        builder.build().map(Self)
    }
}

#[allow(
    clippy::too_many_arguments,
    reason = "the engine's trait mirrors the FUSE requests"
)]
impl DynFileSystem for FileDevice {
    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        Ok(FsOptions::from_bits_truncate(self.0.init(capable.bits())))
    }

    fn destroy(&self) {
        self.0.destroy();
    }

    fn lookup(&self, _ctx: Context, parent: u64, name: &CStr) -> io::Result<EngineEntry> {
        self.0.lookup(parent, name).map(|found| entry(&found))
    }

    fn forget(&self, _ctx: Context, inode: u64, count: u64) {
        self.0.forget(inode, count);
    }

    fn getattr(
        &self,
        _ctx: Context,
        inode: u64,
        handle: Option<u64>,
    ) -> io::Result<(stat64, Duration)> {
        self.0
            .getattr(inode, handle)
            .map(|(attr, timeout)| (stat(&attr), timeout))
    }

    fn setattr(
        &self,
        _ctx: Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        let change = changes(&attr, valid);
        self.0
            .setattr(inode, handle, &change)
            .map(|(attr, timeout)| (stat(&attr), timeout))
    }

    fn readlink(&self, _ctx: Context, inode: u64) -> io::Result<Vec<u8>> {
        self.0.readlink(inode)
    }

    fn symlink(
        &self,
        ctx: Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
        _extensions: Extensions,
    ) -> io::Result<EngineEntry> {
        self.0
            .symlink(caller(ctx), target, parent, name)
            .map(|made| entry(&made))
    }

    fn mknod(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
        _extensions: Extensions,
    ) -> io::Result<EngineEntry> {
        let new = NewFile {
            mode,
            umask,
            rdev,
            ..NewFile::default()
        };
        self.0
            .mknod(caller(ctx), parent, name, new)
            .map(|made| entry(&made))
    }

    fn mkdir(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
        _extensions: Extensions,
    ) -> io::Result<EngineEntry> {
        let new = NewFile {
            mode,
            umask,
            ..NewFile::default()
        };
        self.0
            .mkdir(caller(ctx), parent, name, new)
            .map(|made| entry(&made))
    }

    fn unlink(&self, _ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.0.unlink(parent, name)
    }

    fn rmdir(&self, _ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.0.rmdir(parent, name)
    }

    fn rename(
        &self,
        _ctx: Context,
        olddir: u64,
        oldname: &CStr,
        newdir: u64,
        newname: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.0.rename((olddir, oldname), (newdir, newname), flags)
    }

    fn link(
        &self,
        _ctx: Context,
        inode: u64,
        newparent: u64,
        newname: &CStr,
    ) -> io::Result<EngineEntry> {
        self.0
            .link(inode, newparent, newname)
            .map(|made| entry(&made))
    }

    fn open(
        &self,
        _ctx: Context,
        inode: u64,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        self.0.open(inode, kill_priv, flags).map(opened)
    }

    fn create(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        _extensions: Extensions,
    ) -> io::Result<(EngineEntry, Option<u64>, OpenOptions)> {
        let new = NewFile {
            mode,
            umask,
            rdev: 0,
            flags,
            kill_priv,
        };
        let (made, file) = self.0.create(caller(ctx), parent, name, new)?;
        let (handle, options) = opened(file);
        Ok((entry(&made), handle, options))
    }

    fn read(
        &self,
        _ctx: Context,
        inode: u64,
        handle: u64,
        w: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _flags: u32,
    ) -> io::Result<usize> {
        self.0.read(inode, handle, |file| {
            w.write_from(file, size as usize, offset)
        })
    }

    fn write(
        &self,
        _ctx: Context,
        inode: u64,
        handle: u64,
        r: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _delayed_write: bool,
        kill_priv: bool,
        _flags: u32,
    ) -> io::Result<usize> {
        self.0.write(inode, handle, kill_priv, |file| {
            r.read_to(file, size as usize, offset)
        })
    }

    fn flush(&self, _ctx: Context, inode: u64, handle: u64, _lock_owner: u64) -> io::Result<()> {
        self.0.flush(inode, handle)
    }

    fn fsync(&self, _ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        self.0.fsync(inode, datasync, handle)
    }

    fn fallocate(
        &self,
        _ctx: Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.0.fallocate(inode, handle, mode, (offset, length))
    }

    fn release(
        &self,
        _ctx: Context,
        inode: u64,
        _flags: u32,
        handle: u64,
        _flush: bool,
        _flock_release: bool,
        _lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.0.release(inode, handle)
    }

    fn statfs(&self, _ctx: Context, inode: u64) -> io::Result<statvfs64> {
        self.0.statfs(inode).map(|answer| figures(&answer))
    }

    fn setxattr(
        &self,
        _ctx: Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        self.0.setxattr(inode, name, value, flags)
    }

    fn getxattr(
        &self,
        _ctx: Context,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        Ok(match self.0.getxattr(inode, name, size)? {
            XattrReply::Value(value) => GetxattrReply::Value(value),
            XattrReply::Size(size) => GetxattrReply::Count(size),
        })
    }

    fn listxattr(&self, _ctx: Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        Ok(match self.0.listxattr(inode, size)? {
            XattrReply::Value(names) => ListxattrReply::Names(names),
            XattrReply::Size(size) => ListxattrReply::Count(size),
        })
    }

    fn removexattr(&self, _ctx: Context, inode: u64, name: &CStr) -> io::Result<()> {
        self.0.removexattr(inode, name)
    }

    fn opendir(
        &self,
        _ctx: Context,
        inode: u64,
        _flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        self.0.opendir(inode).map(opened)
    }

    fn readdir_for_each(
        &self,
        _ctx: Context,
        inode: u64,
        handle: u64,
        _size: u32,
        offset: u64,
        add_entry: &mut AddDirEntry<'_>,
    ) -> io::Result<()> {
        self.0.readdir(inode, handle, offset, &mut |name| {
            add_entry(dir_entry(&name))
        })
    }

    fn readdirplus_for_each(
        &self,
        _ctx: Context,
        inode: u64,
        handle: u64,
        _size: u32,
        offset: u64,
        add_entry: &mut AddDirEntryPlus<'_>,
    ) -> io::Result<()> {
        let mut add = |name: DirEntry<'_>, node: Entry| add_entry(dir_entry(&name), entry(&node));
        self.0.readdirplus(inode, handle, offset, &mut add)
    }

    fn fsyncdir(&self, _ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        self.0.fsyncdir(inode, datasync, handle)
    }

    fn releasedir(&self, _ctx: Context, inode: u64, _flags: u32, handle: u64) -> io::Result<()> {
        self.0.releasedir(inode, handle)
    }

    fn access(&self, ctx: Context, inode: u64, mask: u32) -> io::Result<()> {
        self.0.access(caller(ctx), inode, mask)
    }

    fn lseek(
        &self,
        _ctx: Context,
        inode: u64,
        handle: u64,
        offset: u64,
        whence: u32,
    ) -> io::Result<u64> {
        self.0.lseek(inode, handle, offset, whence)
    }

    fn copyfilerange(
        &self,
        _ctx: Context,
        inode_in: u64,
        handle_in: u64,
        offset_in: u64,
        inode_out: u64,
        handle_out: u64,
        offset_out: u64,
        len: u64,
        flags: u64,
    ) -> io::Result<usize> {
        self.0.copy_file_range(
            (inode_in, handle_in, offset_in),
            (inode_out, handle_out, offset_out),
            len,
            flags,
        )
    }

    fn ioctl(
        &self,
        _ctx: Context,
        _inode: u64,
        _handle: u64,
        _flags: u32,
        cmd: u32,
        arg: u64,
        _in_size: u32,
        _out_size: u32,
        exit_code: &Arc<AtomicI32>,
    ) -> io::Result<Vec<u8>> {
        if cmd != EXIT_CODE_IOCTL {
            return Err(Errno::NOTTY.into());
        }
        // An exit status is one byte; this also keeps the engine's own mark out of reach.
        let code = i32::from(u8::try_from(arg).unwrap_or(u8::MAX));
        exit_code.store(code, Ordering::SeqCst);
        Ok(Vec::new())
    }
}
