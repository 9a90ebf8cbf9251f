//! The server's types as the engine's, and back.

use agent_vm_files::{Attr, Caller, DirEntry, Entry, NewTime, Opened, SetAttr, StatFs, Timestamp};
use msb_krun_devices::virtio::bindings::{stat64, statvfs64};
use msb_krun_devices::virtio::fs::filesystem::{
    Context, DirEntry as EngineDirEntry, Entry as EngineEntry, OpenOptions, SetattrValid,
};

pub(super) fn caller(context: Context) -> Caller {
    Caller {
        uid: context.uid,
        gid: context.gid,
    }
}

pub(super) fn stat(attr: &Attr) -> stat64 {
    let mut out = crate::ffi::empty_stat();
    out.st_ino = attr.ino;
    out.st_size = attr.size.cast_signed();
    out.st_blocks = attr.blocks.cast_signed();
    (out.st_atime, out.st_atime_nsec) = (attr.atime.seconds, attr.atime.nanoseconds.into());
    (out.st_mtime, out.st_mtime_nsec) = (attr.mtime.seconds, attr.mtime.nanoseconds.into());
    (out.st_ctime, out.st_ctime_nsec) = (attr.ctime.seconds, attr.ctime.nanoseconds.into());
    out.st_mode = attr.mode;
    out.st_nlink = attr.nlink.into();
    out.st_uid = attr.uid;
    out.st_gid = attr.gid;
    out.st_rdev = attr.rdev.into();
    out.st_blksize = attr.blksize.into();
    out
}

pub(super) fn entry(entry: &Entry) -> EngineEntry {
    EngineEntry {
        inode: entry.inode,
        generation: entry.generation,
        attr: stat(&entry.attr),
        attr_flags: entry.attr_flags,
        attr_timeout: entry.attr_timeout,
        entry_timeout: entry.entry_timeout,
    }
}

pub(super) fn opened(opened: Opened) -> (Option<u64>, OpenOptions) {
    (
        Some(opened.handle),
        OpenOptions::from_bits_truncate(opened.flags),
    )
}

pub(super) fn dir_entry<'a>(entry: &DirEntry<'a>) -> EngineDirEntry<'a> {
    EngineDirEntry {
        ino: entry.ino,
        offset: entry.offset,
        type_: entry.kind,
        name: entry.name,
    }
}

/// The changes `valid` marks in `attr`.
pub(super) fn changes(attr: &stat64, valid: SetattrValid) -> SetAttr {
    let time = |set, now, seconds, nanoseconds: i64| {
        if valid.contains(now) {
            Some(NewTime::Now)
        } else {
            let nanoseconds = u32::try_from(nanoseconds).unwrap_or_default();
            valid.contains(set).then_some(NewTime::At(Timestamp {
                seconds,
                nanoseconds,
            }))
        }
    };
    let marked = |flag| valid.contains(flag);
    SetAttr {
        mode: marked(SetattrValid::MODE).then_some(attr.st_mode),
        uid: marked(SetattrValid::UID).then_some(attr.st_uid),
        gid: marked(SetattrValid::GID).then_some(attr.st_gid),
        size: marked(SetattrValid::SIZE).then_some(attr.st_size.cast_unsigned()),
        atime: time(
            SetattrValid::ATIME,
            SetattrValid::ATIME_NOW,
            attr.st_atime,
            attr.st_atime_nsec,
        ),
        mtime: time(
            SetattrValid::MTIME,
            SetattrValid::MTIME_NOW,
            attr.st_mtime,
            attr.st_mtime_nsec,
        ),
        kill_priv: marked(SetattrValid::KILL_SUIDGID),
    }
}

pub(super) fn figures(figures: &StatFs) -> statvfs64 {
    let mut out = crate::ffi::empty_statvfs();
    out.f_blocks = figures.blocks;
    out.f_bfree = figures.bfree;
    out.f_bavail = figures.bavail;
    out.f_files = figures.files;
    out.f_ffree = figures.ffree;
    out.f_bsize = figures.bsize.into();
    out.f_frsize = figures.frsize.into();
    out.f_namemax = figures.namelen.into();
    out
}

#[cfg(test)]
mod tests;
