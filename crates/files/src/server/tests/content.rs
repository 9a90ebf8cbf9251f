//! Reading, writing, opening and everything else about content.

use super::*;
use crate::reply::{NewTime, OPEN_KEEP_CACHE, SetAttr, Timestamp};

#[test]
fn synthetic_tree_holds_init_and_the_mount_points() {
    let host = Host::new();
    let server = host.serve(Access::ReadWrite);
    let init = server.walk("init").unwrap();
    assert_eq!((init.attr.mode, init.attr.size), (0o100_755, 12));
    assert_eq!(server.read_all(init.inode).unwrap(), "init program");
    for flags in [O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC] {
        assert_eq!(refused(server.open(init.inode, false, flags)), Errno::ROFS);
    }
    let truncate = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    assert_eq!(
        refused(server.setattr(init.inode, None, &truncate)),
        Errno::ROFS
    );
    assert_eq!(server.walk("dev").unwrap().attr.mode, 0o040_755);
    assert_eq!(refused(server.walk("etc")), Errno::NOENT);
    assert_eq!(refused(server.walk("shares/1")), Errno::NOENT);
    assert_eq!(refused(server.walk("shares/00")), Errno::NOENT);
}

#[test]
fn share_root_is_a_submount_and_its_content_is_not() {
    let host = Host::new();
    host.write("dir/file", "x");
    let server = host.serve(Access::ReadWrite);
    assert_eq!(server.walk("shares/0").unwrap().attr_flags, 1);
    assert_eq!(server.walk("shares/0/dir").unwrap().attr_flags, 0);
    assert_eq!(server.walk("shares").unwrap().attr_flags, 0);
}

#[test]
fn single_file_can_be_shared() {
    let host = Host::new();
    host.write("file", "content");
    let share = |access| Share {
        root: path_fd(&host.path("file")),
        access,
        protected: Vec::new(),
    };
    let server = builder()
        .share(share(Access::ReadWrite))
        .share(share(Access::ReadOnly))
        .build()
        .unwrap();
    let entry = server.walk("shares/0").unwrap();
    assert_eq!((entry.attr.mode >> 12, entry.attr_flags), (0o10, 0));
    let handle = server.open(entry.inode, false, O_RDWR).unwrap().handle;
    server.write_handle(entry.inode, handle, "CONTENT").unwrap();
    assert_eq!(host.read("file"), "CONTENT");
    let other = server.walk("shares/1").unwrap();
    assert_ne!(other.attr.ino, entry.attr.ino);
    assert_eq!(server.read_all(other.inode).unwrap(), "CONTENT");
    assert_eq!(
        refused(server.open(other.inode, false, O_RDWR)),
        Errno::ROFS
    );
    assert_eq!(refused(server.lookup(entry.inode, c"x")), Errno::NOTDIR);
    assert_eq!(refused(server.unlink(3, c"0")), Errno::ROFS);
}

#[test]
fn created_file_has_exactly_the_asked_mode_less_the_callers_umask() {
    let host = Host::new();
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    for (number, (mode, umask, expected)) in [
        (0o666, 0, 0o666),
        (0o777, 0o022, 0o755),
        (0o444, 0o077, 0o400),
        (0o606, 0o002, 0o604),
    ]
    .into_iter()
    .enumerate()
    {
        let new = NewFile {
            mode,
            umask,
            flags: O_RDWR | O_CREAT,
            ..NewFile::default()
        };
        let name = CString::new(format!("f{number}")).unwrap();
        let (entry, _) = server.create(ROOT_CALLER, root, &name, new).unwrap();
        assert_eq!(entry.attr.mode, 0o100_000 | expected);
        let name = CString::new(format!("d{number}")).unwrap();
        let entry = server.mkdir(ROOT_CALLER, root, &name, new).unwrap();
        assert_eq!(entry.attr.mode, 0o040_000 | expected);
    }
}

#[test]
fn create_opens_what_exists_unless_exclusive() {
    let host = Host::new();
    host.write("file", "content");
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    let create = |name: &str, flags| {
        let new = NewFile {
            flags,
            ..file_mode(0o644)
        };
        server.create(ROOT_CALLER, root, &CString::new(name).unwrap(), new)
    };
    let (entry, opened) = create("file", O_RDWR | O_CREAT).unwrap();
    assert_eq!(
        server.read_handle(entry.inode, opened.handle).unwrap(),
        "content"
    );
    assert_eq!(
        refused(create("file", O_RDWR | O_CREAT | O_EXCL)),
        Errno::EXIST
    );
    let (entry, _) = create("file", O_RDWR | O_CREAT | O_TRUNC).unwrap();
    assert_eq!((entry.attr.size, host.read("file").as_str()), (0, ""));
    std::os::unix::fs::symlink("file", host.path("link")).unwrap();
    assert_eq!(refused(create("link", O_RDWR | O_CREAT)), Errno::LOOP);
}

#[test]
fn append_truncate_and_access_modes_are_honoured() {
    let host = Host::new();
    host.write("file", "content");
    let server = host.serve(Access::ReadWrite);
    let file = server.walk("shares/0/file").unwrap().inode;
    let append = server
        .open(file, false, O_WRONLY | O_APPEND)
        .unwrap()
        .handle;
    server.write_handle(file, append, "!").unwrap();
    assert_eq!(host.read("file"), "content!");
    assert_eq!(refused(server.read_handle(file, append)), Errno::BADF);
    let read = server.open(file, false, O_RDONLY).unwrap().handle;
    assert_eq!(refused(server.write_handle(file, read, "x")), Errno::BADF);
    assert_eq!(refused(server.open(file, false, 3)), Errno::INVAL);
    server.open(file, false, O_RDONLY | O_TRUNC).unwrap();
    assert_eq!(host.read("file"), "");
    const O_DIRECT: u32 = 0o40000;
    let direct = server.open(file, false, O_RDWR | O_DIRECT).unwrap().handle;
    server.write_handle(file, direct, "odd length").unwrap();
}

#[test]
fn handle_belongs_to_its_node_and_kind() {
    let host = Host::new();
    host.write("a", "a");
    host.write("b", "b");
    let server = host.serve(Access::ReadWrite);
    let a = server.walk("shares/0/a").unwrap().inode;
    let b = server.walk("shares/0/b").unwrap().inode;
    let root = server.share_root();
    let handle = server.open(a, false, O_RDWR).unwrap().handle;
    let listing = server.opendir(root).unwrap().handle;
    for (inode, handle) in [
        (b, handle),
        (root, handle),
        (a, listing),
        (a, 0),
        (a, u64::MAX),
    ] {
        assert_eq!(refused(server.read_handle(inode, handle)), Errno::BADF);
        assert_eq!(
            refused(server.write_handle(inode, handle, "x")),
            Errno::BADF
        );
        assert_eq!(refused(server.flush(inode, handle)), Errno::BADF);
        assert_eq!(refused(server.fsync(inode, true, handle)), Errno::BADF);
        assert_eq!(refused(server.lseek(inode, handle, 0, 3)), Errno::BADF);
        assert_eq!(refused(server.release(inode, handle)), Errno::BADF);
        assert_eq!(
            refused(server.fallocate(inode, handle, 0, (0, 1))),
            Errno::BADF
        );
    }
    assert_eq!(refused(server.releasedir(root, handle)), Errno::BADF);
    assert_eq!(refused(server.fsyncdir(a, false, handle)), Errno::BADF);
    server.flush(a, handle).unwrap();
    server.fsync(a, false, handle).unwrap();
    server.fsync(a, true, handle).unwrap();
    server.fsyncdir(root, false, listing).unwrap();
    server.release(a, handle).unwrap();
    server.releasedir(root, listing).unwrap();
    assert_eq!(refused(server.read_handle(a, handle)), Errno::BADF);
}

#[test]
fn unlinked_open_file_can_still_be_used_in_every_way() {
    let host = Host::new();
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    let (entry, handle) = server.create_file(root, "file", O_RDWR | O_CREAT);
    server.write_handle(entry.inode, handle, "content").unwrap();
    server.unlink(root, c"file").unwrap();
    host.write("file", "another");
    let shrink = SetAttr {
        size: Some(4),
        ..SetAttr::default()
    };
    let (attr, _) = server.setattr(entry.inode, Some(handle), &shrink).unwrap();
    assert_eq!((attr.size, attr.nlink), (4, 0));
    let (attr, _) = server.setattr(entry.inode, None, &shrink).unwrap();
    assert_eq!(attr.size, 4);
    let again = server.open(entry.inode, false, O_RDWR).unwrap().handle;
    assert_eq!(server.read_handle(entry.inode, again).unwrap(), "cont");
    server.release(entry.inode, handle).unwrap();
    assert_eq!(server.read_handle(entry.inode, again).unwrap(), "cont");
    server.release(entry.inode, again).unwrap();
    server.forget(entry.inode, 1);
    assert_eq!(host.read("file"), "another");
}

#[test]
fn renamed_file_and_directory_keep_their_nodes() {
    let host = Host::new();
    host.write("dir/sub/file", "content");
    host.write("other", "other");
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    let file = server.walk("shares/0/dir/sub/file").unwrap().inode;
    let other = server.walk("shares/0/other").unwrap().inode;
    server.rename((root, c"dir"), (root, c"moved"), 0).unwrap();
    assert_eq!(server.read_all(file).unwrap(), "content");
    let sub = server.walk("shares/0/moved/sub").unwrap().inode;
    server.rename((sub, c"file"), (root, c"other"), 2).unwrap();
    assert_eq!(server.read_all(file).unwrap(), "content");
    assert_eq!(server.read_all(other).unwrap(), "other");
    assert_eq!(host.read("moved/sub/file"), "other");
    assert_eq!(server.walk("shares/0/other").unwrap().inode, file);
    assert_eq!(
        refused(server.rename((root, c"other"), (sub, c"file"), 1)),
        Errno::EXIST
    );
    assert_eq!(
        refused(server.rename((root, c"other"), (root, c"x"), 4)),
        Errno::INVAL
    );
    assert_eq!(
        refused(server.rename((root, c"moved"), (sub, c"x"), 0)),
        Errno::INVAL
    );
}

#[test]
fn hard_links_share_one_node_and_outlive_each_other() {
    let host = Host::new();
    host.write("a", "content");
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    let a = server.walk("shares/0/a").unwrap();
    let b = server.link(a.inode, root, c"b").unwrap();
    assert_eq!((a.inode, a.attr.ino), (b.inode, b.attr.ino));
    assert_eq!(b.attr.nlink, 2);
    server.unlink(root, c"b").unwrap();
    assert_eq!(server.getattr(a.inode, None).unwrap().0.nlink, 1);
    assert_eq!(server.read_all(a.inode).unwrap(), "content");
    let dir = server
        .mkdir(ROOT_CALLER, root, c"d", file_mode(0o755))
        .unwrap();
    assert_eq!(refused(server.link(dir.inode, root, c"e")), Errno::PERM);
    let link = server.symlink(ROOT_CALLER, c"nowhere", root, c"l").unwrap();
    let linked = server.link(link.inode, root, c"l2").unwrap();
    assert_eq!(server.readlink(linked.inode).unwrap(), b"nowhere");
}

#[test]
fn node_ids_are_never_used_again() {
    let host = Host::new();
    host.write("file", "x");
    let server = host.serve(Access::ReadWrite);
    let first = server.walk("shares/0/file").unwrap().inode;
    assert_eq!(server.walk("shares/0/file").unwrap().inode, first);
    server.forget(first, 1);
    assert!(server.getattr(first, None).is_ok());
    server.forget(first, 1);
    assert_eq!(refused(server.getattr(first, None)), Errno::STALE);
    assert!(server.walk("shares/0/file").unwrap().inode > first);
    let root = server.share_root();
    server.forget(root, u64::MAX);
    assert!(server.getattr(root, None).is_ok());
}

#[test]
fn new_session_forgets_nodes_and_handles_of_the_old() {
    let host = Host::new();
    host.write("file", "x");
    let server = host.serve(Access::ReadWrite);
    let file = server.walk("shares/0/file").unwrap().inode;
    let handle = server.open(file, false, O_RDONLY).unwrap().handle;
    let wanted = server.init(u64::MAX);
    assert_eq!(refused(server.getattr(file, None)), Errno::STALE);
    assert_eq!(refused(server.read_handle(file, handle)), Errno::BADF);
    assert!(server.walk("shares/0/file").is_ok());
    use crate::reply::init_flag::*;
    assert_eq!(wanted & SUBMOUNTS, SUBMOUNTS);
    const WRITEBACK_CACHE: u64 = 1 << 16;
    const EXPORT_SUPPORT: u64 = 1 << 4;
    assert_eq!(wanted & (WRITEBACK_CACHE | EXPORT_SUPPORT), 0);
    assert_eq!(server.init(ASYNC_READ), ASYNC_READ);
}

#[test]
fn times_are_set_and_omitted_ones_stay() {
    let host = Host::new();
    host.write("file", "x");
    std::os::unix::fs::symlink("file", host.path("link")).unwrap();
    let server = host.serve(Access::ReadWrite);
    for path in ["shares/0/file", "shares/0/link"] {
        let inode = server.walk(path).unwrap().inode;
        let at = Timestamp {
            seconds: -5,
            nanoseconds: 7,
        };
        let change = |atime, mtime| {
            let change = SetAttr {
                atime,
                mtime,
                ..SetAttr::default()
            };
            server.setattr(inode, None, &change).map(|(attr, _)| attr)
        };
        let attr = change(Some(NewTime::At(at)), Some(NewTime::At(at))).unwrap();
        assert_eq!((attr.atime, attr.mtime), (at, at), "{path}");
        let attr = change(None, Some(NewTime::Now)).unwrap();
        assert_eq!(attr.atime, at);
        assert!(attr.mtime.seconds > 1_700_000_000);
        let wrong = Timestamp {
            seconds: 0,
            nanoseconds: 1 << 30,
        };
        assert_eq!(
            refused(change(None, Some(NewTime::At(wrong)))),
            Errno::INVAL
        );
    }
}

#[test]
fn holes_copies_and_allocation_reach_the_host() {
    let host = Host::new();
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    let (from, from_handle) = server.create_file(root, "from", O_RDWR | O_CREAT);
    let (to, to_handle) = server.create_file(root, "to", O_RDWR | O_CREAT);
    server
        .write_handle(from.inode, from_handle, "content")
        .unwrap();
    let copied = server
        .copy_file_range(
            (from.inode, from_handle, 0),
            (to.inode, to_handle, 0),
            u64::MAX,
            0,
        )
        .unwrap();
    assert_eq!((copied, host.read("to").as_str()), (7, "content"));
    let range = ((from.inode, from_handle, 0), (to.inode, to_handle, 0));
    assert_eq!(
        refused(server.copy_file_range(range.0, range.1, 1, 1)),
        Errno::INVAL
    );
    server
        .fallocate(to.inode, to_handle, 0, (0, 1 << 20))
        .unwrap();
    assert_eq!(server.getattr(to.inode, None).unwrap().0.size, 1 << 20);
    assert_eq!(
        refused(server.fallocate(to.inode, to_handle, 0x8000, (0, 1))),
        Errno::NOTSUP
    );
    assert_eq!(server.lseek(from.inode, from_handle, 0, 3).unwrap(), 0);
    assert_eq!(server.lseek(from.inode, from_handle, 0, 4).unwrap(), 7);
    assert_eq!(
        refused(server.lseek(from.inode, from_handle, 9, 3)),
        Errno::NXIO
    );
    assert_eq!(
        refused(server.lseek(from.inode, from_handle, u64::MAX, 3)),
        Errno::NXIO
    );
    assert_eq!(
        refused(server.lseek(from.inode, from_handle, 0, 0)),
        Errno::INVAL
    );
    assert!(server.statfs(from.inode).unwrap().blocks > 0);
    assert_eq!(server.statfs(1).unwrap().namelen, 255);
}

#[test]
fn cached_pages_are_kept_only_while_the_file_surely_is_the_same() {
    let host = Host::new();
    host.write("file", "content");
    let old = std::time::SystemTime::UNIX_EPOCH;
    let server = host.serve(Access::ReadWrite);
    let file = server.walk("shares/0/file").unwrap().inode;
    let keeps = || server.open(file, false, O_RDONLY).unwrap().flags == OPEN_KEEP_CACHE;
    // Just written: the time stamp may not tell the next change.
    assert!(!keeps() && !keeps());
    std::thread::sleep(std::time::Duration::from_millis(3100));
    assert!(!keeps());
    assert!(keeps());
    let on_host = File::options().write(true).open(host.path("file")).unwrap();
    on_host.write_at(b"CONTENT", 0).unwrap();
    on_host.set_modified(old).unwrap();
    assert!(!keeps());
}

#[test]
fn host_edits_show_at_the_next_request() {
    let host = Host::new();
    host.write("file", "content");
    let server = host.serve(Access::ReadWrite);
    let entry = server.walk("shares/0/file").unwrap();
    assert!(entry.attr_timeout.as_secs() < 1 && entry.entry_timeout.as_secs() < 1);
    host.write("file", "longer content");
    assert_eq!(server.getattr(entry.inode, None).unwrap().0.size, 14);
    fs_err::write(host.path("file2"), "replaced").unwrap();
    fs_err::rename(host.path("file2"), host.path("file")).unwrap();
    assert_eq!(refused(server.getattr(entry.inode, None)), Errno::STALE);
    let entry = server.walk("shares/0/file").unwrap();
    assert_eq!(server.read_all(entry.inode).unwrap(), "replaced");
    assert_eq!(refused(server.walk("shares/0/new")), Errno::NOENT);
    host.write("new", "");
    assert!(server.walk("shares/0/new").is_ok());
}
