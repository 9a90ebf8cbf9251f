//! temp
use crate::spec::{Access, WireSpec};
use msb_krun_devices::virtio::bindings::stat64;
use msb_krun_devices::virtio::fs::DynFileSystem;
use msb_krun_devices::virtio::fs::filesystem::*;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

pub(crate) struct FileDevice(File, u64);
impl FileDevice {
    pub(crate) fn new(
        init: OwnedFd,
        _shares: Vec<(OwnedFd, Access)>,
        _spec: &WireSpec,
    ) -> io::Result<Self> {
        let f = File::from(init);
        let n = f.metadata()?.len();
        Ok(Self(f, n))
    }
    fn attr(&self, ino: u64) -> stat64 {
        let mut s = crate::ffi::empty_stat();
        let (dir, size) = if ino == 2 { (false, self.1) } else { (true, 0) };
        s.st_ino = ino;
        s.st_mode = if dir { 0o040755 } else { 0o100755 };
        s.st_nlink = if dir { 2 } else { 1 };
        s.st_size = size as i64;
        s.st_blksize = 4096;
        s.st_blocks = ((size + 511) / 512) as i64;
        s
    }
}
const T: Duration = Duration::from_secs(3600);
impl DynFileSystem for FileDevice {
    fn init(&self, _c: FsOptions) -> io::Result<FsOptions> {
        Ok(FsOptions::empty())
    }
    fn lookup(&self, _c: Context, p: u64, n: &CStr) -> io::Result<Entry> {
        let i = match (p, n.to_bytes()) {
            (1, b"init") => 2,
            (1, b"dev") => 3,
            (1, b"proc") => 4,
            (1, b"sys") => 5,
            (1, b"disk") => 6,
            (1, b"layers") => 7,
            _ => return Err(io::Error::from_raw_os_error(2)),
        };
        Ok(Entry {
            inode: i,
            generation: 0,
            attr: self.attr(i),
            attr_flags: 0,
            attr_timeout: T,
            entry_timeout: T,
        })
    }
    fn getattr(&self, _c: Context, i: u64, _h: Option<u64>) -> io::Result<(stat64, Duration)> {
        Ok((self.attr(i), T))
    }
    fn open(
        &self,
        _c: Context,
        i: u64,
        _k: bool,
        _f: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        Ok((Some(i), OpenOptions::empty()))
    }
    fn read(
        &self,
        _c: Context,
        _i: u64,
        _h: u64,
        w: &mut dyn ZeroCopyWriter,
        size: u32,
        off: u64,
        _l: Option<u64>,
        _f: u32,
    ) -> io::Result<usize> {
        let left = self.1.saturating_sub(off).min(size as u64) as usize;
        w.write_from(&self.0, left, off)
    }
    fn access(&self, _c: Context, _i: u64, _m: u32) -> io::Result<()> {
        Ok(())
    }
    fn ioctl(
        &self,
        _c: Context,
        _i: u64,
        _h: u64,
        _f: u32,
        cmd: u32,
        arg: u64,
        _is: u32,
        _os: u32,
        code: &Arc<AtomicI32>,
    ) -> io::Result<Vec<u8>> {
        if cmd == 0x7602 {
            code.store(arg as i32, std::sync::atomic::Ordering::SeqCst);
            return Ok(vec![]);
        }
        Err(io::Error::from_raw_os_error(25))
    }
}
