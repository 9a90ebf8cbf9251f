//! Directory listings.

use std::collections::BTreeMap;

use super::*;

/// Lists a directory in pieces of `piece` entries: name to (ino, kind).
fn list(server: &FileServer, inode: u64, piece: usize) -> BTreeMap<Vec<u8>, (u64, u32)> {
    let handle = server.opendir(inode).unwrap().handle;
    let mut all = BTreeMap::new();
    let mut offset = 0;
    loop {
        let mut taken = 0;
        server
            .readdir(inode, handle, offset, &mut |entry| {
                if taken == piece {
                    return Ok(0);
                }
                assert_ne!(entry.offset, 0);
                let name = entry.name.to_vec();
                assert!(all.insert(name, (entry.ino, entry.kind)).is_none(), "twice");
                offset = entry.offset;
                taken += 1;
                Ok(1)
            })
            .unwrap();
        if taken == 0 {
            break;
        }
    }
    server.releasedir(inode, handle).unwrap();
    all
}

/// The same with nodes.
fn list_plus(server: &FileServer, inode: u64, piece: usize) -> BTreeMap<Vec<u8>, Entry> {
    let handle = server.opendir(inode).unwrap().handle;
    let mut all = BTreeMap::new();
    let mut offset = 0;
    loop {
        let mut taken = 0;
        server
            .readdirplus(inode, handle, offset, &mut |listed, entry| {
                if taken == piece {
                    return Ok(0);
                }
                assert_eq!(listed.ino, entry.attr.ino, "{:?}", listed.name);
                assert_eq!(listed.kind, entry.attr.mode >> 12);
                assert!(all.insert(listed.name.to_vec(), entry).is_none(), "twice");
                offset = listed.offset;
                taken += 1;
                Ok(1)
            })
            .unwrap();
        if taken == 0 {
            break;
        }
    }
    server.releasedir(inode, handle).unwrap();
    all
}

#[test]
fn lists_the_synthetic_tree() {
    let host = Host::new();
    let server = host.serve(Access::ReadWrite);
    for piece in [1, 100] {
        let root = list(&server, 1, piece);
        let names: Vec<_> = root.keys().map(|name| name.as_slice()).collect();
        assert_eq!(
            names,
            [&b"."[..], b"..", b"dev", b"init", b"proc", b"shares"]
        );
        let plus = list_plus(&server, 1, piece);
        assert_eq!(plus[&b"init"[..]].inode, 2);
        let shares = list_plus(&server, 3, piece);
        assert_eq!(shares.len(), 3);
        assert_eq!(shares[&b"0"[..]].attr_flags, 1);
    }
    let dev = server.walk("dev").unwrap().inode;
    assert_eq!(list(&server, dev, 1).len(), 2);
    assert_eq!(refused(server.opendir(2)), Errno::NOTDIR);
}

#[test]
fn listing_agrees_with_lookup_and_counts_one_lookup_each() {
    let host = Host::new();
    host.write("dir/file", "x");
    host.write("file", "x");
    std::os::unix::fs::symlink("x", host.path("link")).unwrap();
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    let held = server.nodes.len();
    for piece in [1, 2, 100] {
        let plain = list(&server, root, piece);
        let plus = list_plus(&server, root, piece);
        assert_eq!(plain.len(), 5);
        for (name, entry) in &plus {
            assert_eq!(plain[name].0, entry.attr.ino);
            if name != b"." && name != b".." {
                let found = server.lookup(root, &CString::new(&name[..]).unwrap());
                assert_eq!(found.unwrap(), *entry);
                server.forget(entry.inode, 2);
            } else {
                assert_eq!(entry.inode, 0);
            }
        }
        assert_eq!(server.nodes.len(), held, "lookups and forgets balance");
    }
}

#[test]
fn error_of_the_reply_buffer_is_passed_on_only_at_the_first_entry() {
    let host = Host::new();
    host.write("a", "");
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    let handle = server.opendir(root).unwrap().handle;
    let fail = || Err(io::Error::from_raw_os_error(5));
    assert_eq!(
        refused(server.readdir(root, handle, 0, &mut |_| fail())),
        Errno::IO
    );
    let mut count = 0;
    server
        .readdir(root, handle, 0, &mut |_| {
            count += 1;
            if count == 1 { Ok(1) } else { fail() }
        })
        .unwrap();
    let held = server.nodes.len();
    assert!(
        server
            .readdirplus(root, handle, 0, &mut |_, _| fail())
            .is_err()
    );
    assert_eq!(server.nodes.len(), held);
}

#[test]
fn any_offset_is_answered_without_panic() {
    let host = Host::new();
    host.write("a", "");
    let server = host.serve(Access::ReadWrite);
    for inode in [1, 3, server.share_root()] {
        let handle = server.opendir(inode).unwrap().handle;
        for offset in [
            1,
            7,
            u64::from(u32::MAX),
            i64::MAX as u64,
            u64::MAX - 1,
            u64::MAX,
        ] {
            let _ = server.readdir(inode, handle, offset, &mut |_| Ok(1));
            let _ = server.readdirplus(inode, handle, offset, &mut |_, _| Ok(0));
        }
    }
}
