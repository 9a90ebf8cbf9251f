//! Owners, modes and extended attributes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::reply::{Attr, SetAttr, XattrReply};

fn chown(server: &FileServer, inode: u64, uid: u32, gid: u32) -> io::Result<Attr> {
    let change = SetAttr {
        uid: Some(uid),
        gid: Some(gid),
        ..SetAttr::default()
    };
    server.setattr(inode, None, &change).map(|(attr, _)| attr)
}

fn chmod(server: &FileServer, inode: u64, mode: u32) -> io::Result<Attr> {
    let change = SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    };
    server.setattr(inode, None, &change).map(|(attr, _)| attr)
}

#[test]
fn launching_user_is_the_guests_owner_and_others_are_nobody() {
    let host = Host::new();
    host.write("file", "x");
    let uid = rustix::process::geteuid().as_raw();
    let init = tempfile::tempfile().unwrap();
    for (host_uid, shown) in [(uid, 1234), (uid + 1, 65534)] {
        let owners = OwnerMap {
            host_uid,
            host_gid: rustix::process::getegid().as_raw(),
            guest_uid: 1234,
            guest_gid: 0,
        };
        let share = Share {
            root: path_fd(&host.path("")),
            access: Access::ReadWrite,
            protected: Vec::new(),
        };
        let server = FileServerBuilder::new(init.try_clone().unwrap(), owners)
            .share(share)
            .build()
            .unwrap();
        let file = server.walk("shares/0/file").unwrap();
        assert_eq!((file.attr.uid, file.attr.gid), (shown, 0));
        if host_uid != uid {
            assert_eq!(refused(chown(&server, file.inode, 5, 5)), Errno::PERM);
        }
    }
}

#[test]
fn recorded_owner_and_set_id_bits_never_reach_the_host() {
    let host = Host::new();
    host.write("file", "x");
    let before = fs_err::metadata(host.path("file")).unwrap();
    let server = host.serve(Access::ReadWrite);
    let file = server.walk("shares/0/file").unwrap().inode;
    let attr = chown(&server, file, 1000, 2000).unwrap();
    assert_eq!((attr.uid, attr.gid), (1000, 2000));
    let attr = chmod(&server, file, 0o6755).unwrap();
    assert_eq!((attr.mode, attr.uid), (0o106_755, 1000));
    let after = fs_err::metadata(host.path("file")).unwrap();
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    assert_eq!(after.permissions().mode() & 0o7777, 0o755);
    // Another server, as in the next session, shows the same.
    let next = host.serve(Access::ReadOnly);
    let attr = next.walk("shares/0/file").unwrap().attr;
    assert_eq!((attr.uid, attr.gid, attr.mode), (1000, 2000, 0o106_755));
    // Back to the natural owner: nothing is left behind.
    chmod(&server, file, 0o644).unwrap();
    chown(&server, file, 0, 0).unwrap();
    let mut names = [0u8; 256];
    let path = host.path("file");
    assert_eq!(rustix::fs::listxattr(&path, &mut names[..]).unwrap(), 0);
}

#[test]
fn chown_and_writes_drop_set_id_bits() {
    let host = Host::new();
    host.write("file", "x");
    let server = host.serve(Access::ReadWrite);
    let file = server.walk("shares/0/file").unwrap().inode;
    let mode = || server.getattr(file, None).unwrap().0.mode & 0o7777;
    chmod(&server, file, 0o6755).unwrap();
    chown(&server, file, 5, 5).unwrap();
    assert_eq!(mode(), 0o755);
    chmod(&server, file, 0o6755).unwrap();
    let handle = server.open(file, false, O_RDWR).unwrap().handle;
    server.write_handle(file, handle, "y").unwrap();
    assert_eq!(mode(), 0o6755);
    server
        .write(file, handle, true, |file: &File| file.write_at(b"z", 0))
        .unwrap();
    assert_eq!(mode(), 0o755);
    chmod(&server, file, 0o4755).unwrap();
    server.open(file, true, O_WRONLY | O_TRUNC).unwrap();
    assert_eq!(mode(), 0o755);
    chmod(&server, file, 0o4755).unwrap();
    let truncate = SetAttr {
        size: Some(0),
        kill_priv: true,
        ..SetAttr::default()
    };
    server.setattr(file, None, &truncate).unwrap();
    assert_eq!(mode(), 0o755);
}

#[test]
fn files_made_by_another_guest_user_belong_to_that_user() {
    let host = Host::new();
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    let caller = Caller {
        uid: 1000,
        gid: 1001,
    };
    let new = NewFile {
        flags: O_RDWR | O_CREAT,
        ..file_mode(0o4644)
    };
    let (file, _) = server.create(caller, root, c"file", new).unwrap();
    let dir = server
        .mkdir(caller, root, c"dir", file_mode(0o1777))
        .unwrap();
    let link = server.symlink(caller, c"x", root, c"link").unwrap();
    let fifo = server
        .mknod(caller, root, c"fifo", file_mode(0o010_600))
        .unwrap();
    for entry in [file, dir, link, fifo] {
        assert_eq!((entry.attr.uid, entry.attr.gid), (1000, 1001));
        let (attr, _) = server.getattr(entry.inode, None).unwrap();
        assert_eq!((attr.uid, attr.gid), (1000, 1001));
    }
    assert_eq!((file.attr.mode, dir.attr.mode), (0o104_644, 0o041_777));
    let on_host = |name| {
        fs_err::metadata(host.path(name))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(
        (on_host("file") & 0o7777, on_host("dir") & 0o7777),
        (0o644, 0o777)
    );
}

#[test]
fn set_group_id_directory_hands_on_its_group() {
    let host = Host::new();
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    let dir = server
        .mkdir(ROOT_CALLER, root, c"dir", file_mode(0o755))
        .unwrap();
    chown(&server, dir.inode, 0, 42).unwrap();
    chmod(&server, dir.inode, 0o2775).unwrap();
    let (file, _) = server.create_file(dir.inode, "file", O_RDWR | O_CREAT);
    assert_eq!((file.attr.gid, file.attr.mode), (42, 0o100_644));
    let sub = server
        .mkdir(ROOT_CALLER, dir.inode, c"sub", file_mode(0o755))
        .unwrap();
    assert_eq!((sub.attr.gid, sub.attr.mode), (42, 0o042_755));
    assert_eq!(
        fs_err::metadata(host.path("dir")).unwrap().mode() & 0o7000,
        0
    );
}

#[test]
fn owner_is_kept_in_memory_where_the_file_takes_no_attribute() {
    let host = Host::new();
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    let link = server.symlink(ROOT_CALLER, c"x", root, c"link").unwrap();
    let attr = chown(&server, link.inode, 7, 8).unwrap();
    assert_eq!((attr.uid, attr.gid), (7, 8));
    assert_eq!(server.walk("shares/0/link").unwrap().attr.uid, 7);
    let attr = chown(&server, link.inode, 0, 0).unwrap();
    assert_eq!((attr.uid, attr.gid), (0, 0));
}

#[test]
fn devices_cannot_be_made() {
    let host = Host::new();
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    for kind in [0o020_000, 0o060_000, 0o070_000] {
        let new = NewFile {
            rdev: 0x103,
            ..file_mode(kind | 0o666)
        };
        let made = server.mknod(ROOT_CALLER, root, c"dev", new);
        assert_eq!(refused(made), Errno::PERM);
    }
    assert!(!host.path("dev").exists());
}

#[test]
fn host_set_group_id_of_a_directory_survives_chmod_and_none_is_added() {
    let host = Host::new();
    fs_err::create_dir(host.path("dir")).unwrap();
    fs_err::set_permissions(host.path("dir"), PermissionsExt::from_mode(0o2755)).unwrap();
    let server = host.serve(Access::ReadWrite);
    let dir = server.walk("shares/0/dir").unwrap();
    assert_eq!(dir.attr.mode, 0o042_755);
    assert_eq!(chmod(&server, dir.inode, 0o700).unwrap().mode, 0o040_700);
    let on_host = fs_err::metadata(host.path("dir")).unwrap().mode() & 0o7777;
    assert_eq!(on_host, 0o2700);
}

#[test]
fn only_user_attributes_pass_and_our_own_are_hidden() {
    let host = Host::new();
    host.write("file", "x");
    let server = host.serve(Access::ReadWrite);
    let file = server.walk("shares/0/file").unwrap().inode;
    chown(&server, file, 7, 8).unwrap();
    server.setxattr(file, c"user.mine", b"value", 0).unwrap();
    assert_eq!(
        server.getxattr(file, c"user.mine", 0).unwrap(),
        XattrReply::Size(5)
    );
    let value = server.getxattr(file, c"user.mine", 100).unwrap();
    assert_eq!(value, XattrReply::Value(b"value".to_vec()));
    assert_eq!(
        refused(server.getxattr(file, c"user.mine", 2)),
        Errno::RANGE
    );
    assert_eq!(
        refused(server.setxattr(file, c"user.mine", b"", 1)),
        Errno::EXIST
    );
    let names = server.listxattr(file, 100).unwrap();
    assert_eq!(names, XattrReply::Value(b"user.mine\0".to_vec()));
    assert_eq!(server.listxattr(file, 0).unwrap(), XattrReply::Size(10));
    assert_eq!(refused(server.listxattr(file, 3)), Errno::RANGE);
    let own = c"user.agent-vm.owner";
    assert_eq!(refused(server.getxattr(file, own, 100)), Errno::NODATA);
    assert_eq!(refused(server.setxattr(file, own, b"", 0)), Errno::PERM);
    assert_eq!(refused(server.removexattr(file, own)), Errno::PERM);
    for name in [
        c"security.capability",
        c"trusted.a",
        c"system.posix_acl_access",
        c"user.",
        c"",
        c"user",
    ] {
        assert_eq!(refused(server.getxattr(file, name, 100)), Errno::NOTSUP);
        assert_eq!(refused(server.setxattr(file, name, b"x", 0)), Errno::NOTSUP);
        assert_eq!(refused(server.removexattr(file, name)), Errno::NOTSUP);
    }
    let big = vec![0; 65_537];
    assert_eq!(
        refused(server.setxattr(file, c"user.big", &big, 0)),
        Errno::TOOBIG
    );
    server.removexattr(file, c"user.mine").unwrap();
    assert_eq!(
        refused(server.removexattr(file, c"user.mine")),
        Errno::NODATA
    );
}

#[test]
fn forged_record_on_the_host_is_ignored() {
    let host = Host::new();
    host.write("file", "x");
    let flags = rustix::fs::XattrFlags::empty();
    for forged in [&b""[..], b"garbage", &[1; 11], &[0xff; 64], &[1; 100]] {
        rustix::fs::setxattr(host.path("file"), "user.agent-vm.owner", forged, flags).unwrap();
        let attr = host
            .serve(Access::ReadWrite)
            .walk("shares/0/file")
            .unwrap()
            .attr;
        assert_eq!((attr.uid, attr.gid, attr.mode & 0o7000), (0, 0, 0));
    }
}

#[test]
fn access_follows_owner_group_and_others() {
    let host = Host::new();
    host.write("file", "x");
    let server = host.serve(Access::ReadWrite);
    let file = server.walk("shares/0/file").unwrap().inode;
    chown(&server, file, 7, 8).unwrap();
    chmod(&server, file, 0o640).unwrap();
    let may = |uid, gid, mask| server.access(Caller { uid, gid }, file, mask).is_ok();
    assert!(may(7, 0, 6) && !may(7, 8, 1));
    assert!(may(1, 8, 4) && !may(1, 8, 2));
    assert!(!may(1, 1, 4) && may(0, 0, 6));
}
