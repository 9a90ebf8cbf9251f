//! Translation in both directions.

use std::time::Duration;

use super::*;

fn attr() -> Attr {
    Attr {
        ino: 9,
        size: u64::from(u32::MAX) + 7,
        blocks: 8,
        atime: Timestamp {
            seconds: -5,
            nanoseconds: 1,
        },
        mtime: Timestamp {
            seconds: 6,
            nanoseconds: 2,
        },
        ctime: Timestamp {
            seconds: 7,
            nanoseconds: 3,
        },
        mode: 0o100_644,
        nlink: 2,
        uid: 1000,
        gid: 1001,
        rdev: 0,
        blksize: 4096,
    }
}

#[test]
fn attributes_keep_every_field() {
    let stat = stat(&attr());
    assert_eq!(
        (stat.st_ino, stat.st_size, stat.st_blocks),
        (9, i64::from(u32::MAX) + 7, 8)
    );
    assert_eq!((stat.st_atime, stat.st_atime_nsec), (-5, 1));
    assert_eq!((stat.st_mtime, stat.st_mtime_nsec), (6, 2));
    assert_eq!((stat.st_ctime, stat.st_ctime_nsec), (7, 3));
    assert_eq!(
        (stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid),
        (0o100_644, 2, 1000, 1001)
    );
    assert_eq!((stat.st_rdev, stat.st_blksize), (0, 4096));
}

#[test]
fn entries_keep_the_submount_flag_and_both_timeouts() {
    let given = Entry {
        inode: 4,
        generation: 0,
        attr: attr(),
        attr_flags: agent_vm_files::ATTR_SUBMOUNT,
        attr_timeout: Duration::from_millis(5),
        entry_timeout: Duration::from_secs(1),
    };
    let made = entry(&given);
    assert_eq!((made.inode, made.attr_flags, made.attr.st_ino), (4, 1, 9));
    assert_eq!(
        (made.attr_timeout, made.entry_timeout),
        (Duration::from_millis(5), Duration::from_secs(1))
    );
}

#[test]
fn only_marked_attributes_change() {
    let values = stat(&attr());
    assert_eq!(changes(&values, SetattrValid::empty()), SetAttr::default());
    let some = changes(
        &values,
        SetattrValid::MODE | SetattrValid::GID | SetattrValid::KILL_SUIDGID,
    );
    let expected = SetAttr {
        mode: Some(0o100_644),
        gid: Some(1001),
        kill_priv: true,
        ..SetAttr::default()
    };
    assert_eq!(some, expected);
}

#[test]
fn present_time_wins_over_a_given_one() {
    let values = stat(&attr());
    let times = changes(
        &values,
        SetattrValid::ATIME | SetattrValid::MTIME | SetattrValid::MTIME_NOW,
    );
    assert_eq!(
        times.atime,
        Some(NewTime::At(Timestamp {
            seconds: -5,
            nanoseconds: 1
        }))
    );
    assert_eq!(times.mtime, Some(NewTime::Now));
}

#[test]
fn impossible_nanoseconds_do_not_panic() {
    let mut values = stat(&attr());
    values.st_atime_nsec = -1;
    let times = changes(&values, SetattrValid::ATIME);
    assert_eq!(
        times.atime,
        Some(NewTime::At(Timestamp {
            seconds: -5,
            nanoseconds: 0
        }))
    );
}

#[test]
fn figures_keep_every_field() {
    let given = StatFs {
        blocks: 1,
        bfree: 2,
        bavail: 3,
        files: 4,
        ffree: 5,
        bsize: 4096,
        frsize: 512,
        namelen: 255,
    };
    let out = figures(&given);
    assert_eq!(
        (
            out.f_blocks,
            out.f_bfree,
            out.f_bavail,
            out.f_files,
            out.f_ffree
        ),
        (1, 2, 3, 4, 5)
    );
    assert_eq!((out.f_bsize, out.f_frsize, out.f_namemax), (4096, 512, 255));
}
