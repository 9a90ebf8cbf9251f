//! Read-only shares and protected paths.

use super::*;
use crate::reply::{NewTime, SetAttr};

/// Tries every way to change something; answers those that were allowed.
fn attempts(
    server: &FileServer,
    dir: u64,
    name: &CString,
    file: u64,
) -> Vec<(&'static str, Errno)> {
    let change = |change: SetAttr| server.setattr(file, None, &change).map(drop);
    let create = |flags| {
        let new = NewFile {
            flags,
            ..file_mode(0o644)
        };
        server.create(ROOT_CALLER, dir, c"new", new).map(drop)
    };
    let new = file_mode(0o100_644);
    let results: Vec<(&'static str, io::Result<()>)> = vec![
        (
            "open for write",
            server.open(file, false, O_WRONLY).map(drop),
        ),
        ("open for both", server.open(file, false, O_RDWR).map(drop)),
        (
            "open to truncate",
            server.open(file, false, O_RDONLY | O_TRUNC).map(drop),
        ),
        ("create", create(O_RDWR | O_CREAT)),
        ("create to read", create(O_RDONLY | O_CREAT)),
        (
            "mkdir",
            server
                .mkdir(ROOT_CALLER, dir, c"new", file_mode(0o755))
                .map(drop),
        ),
        (
            "mknod",
            server.mknod(ROOT_CALLER, dir, c"new", new).map(drop),
        ),
        (
            "symlink",
            server.symlink(ROOT_CALLER, c"x", dir, c"new").map(drop),
        ),
        ("link", server.link(file, dir, c"new").map(drop)),
        ("rename away", server.rename((dir, name), (dir, c"new"), 0)),
        ("unlink", server.unlink(dir, name)),
        (
            "truncate",
            change(SetAttr {
                size: Some(0),
                ..SetAttr::default()
            }),
        ),
        (
            "chmod",
            change(SetAttr {
                mode: Some(0o777),
                ..SetAttr::default()
            }),
        ),
        (
            "chown",
            change(SetAttr {
                uid: Some(7),
                ..SetAttr::default()
            }),
        ),
        (
            "touch",
            change(SetAttr {
                mtime: Some(NewTime::Now),
                ..SetAttr::default()
            }),
        ),
        ("setxattr", server.setxattr(file, c"user.a", b"1", 0)),
        ("removexattr", server.removexattr(file, c"user.a")),
    ];
    results
        .into_iter()
        .map(|(what, result)| match result {
            Ok(()) => panic!("{what} was allowed"),
            Err(error) => (
                what,
                Errno::from_raw_os_error(error.raw_os_error().unwrap()),
            ),
        })
        .collect()
}

#[test]
fn every_change_in_a_read_only_share_answers_erofs() {
    let host = Host::new();
    host.write("dir/file", "content");
    let server = host.serve(Access::ReadOnly);
    let dir = server.walk("shares/0/dir").unwrap().inode;
    let file = server.walk("shares/0/dir/file").unwrap().inode;
    for (what, errno) in attempts(&server, dir, &c"file".to_owned(), file) {
        assert_eq!(errno, Errno::ROFS, "{what}");
    }
    assert_eq!(refused(server.rmdir(dir, c"x")), Errno::ROFS);
    assert_eq!(refused(server.access(ROOT_CALLER, file, 2)), Errno::ROFS);
    let handle = server.open(file, false, O_RDONLY).unwrap().handle;
    assert_eq!(refused(server.write_handle(file, handle, "x")), Errno::BADF);
    assert_eq!(
        refused(server.fallocate(file, handle, 0, (0, 9))),
        Errno::BADF
    );
    let end = (file, handle, 0);
    assert_eq!(refused(server.copy_file_range(end, end, 9, 0)), Errno::BADF);
    assert_eq!(server.read_all(file).unwrap(), "content");
    assert_eq!(host.read("dir/file"), "content");
}

fn protected_host() -> (Host, FileServer) {
    let host = Host::new();
    host.write(".git/hooks/pre-commit", "hook");
    host.write(".git/config", "config");
    host.write(".git/HEAD", "head");
    host.write("evil", "evil");
    host.write("evil-dir/hooks/pre-commit", "evil");
    let protected = [
        (".git/hooks", WhenMissing::DenyCreation),
        (".git/config", WhenMissing::DenyCreation),
        (".claude/settings.json", WhenMissing::DenyCreation),
        (".vscode/tasks.json", WhenMissing::LeaveFree),
    ];
    let server = host.serve_protecting(Access::ReadWrite, &protected);
    (host, server)
}

#[test]
fn protected_directory_and_all_in_it_stay_as_they_are() {
    let (host, server) = protected_host();
    let hooks = server.walk("shares/0/.git/hooks").unwrap().inode;
    let hook = server.walk("shares/0/.git/hooks/pre-commit").unwrap().inode;
    let name = c"pre-commit".to_owned();
    for (what, errno) in attempts(&server, hooks, &name, hook) {
        assert_eq!(errno, Errno::ROFS, "{what}");
    }
    let chmod = SetAttr {
        mode: Some(0),
        ..SetAttr::default()
    };
    assert_eq!(refused(server.setattr(hooks, None, &chmod)), Errno::ROFS);
    assert_eq!(server.read_all(hook).unwrap(), "hook");
    assert_eq!(host.read(".git/hooks/pre-commit"), "hook");
}

#[test]
fn protected_file_cannot_be_replaced_moved_linked_or_removed() {
    let (host, server) = protected_host();
    let root = server.share_root();
    let git = server.walk("shares/0/.git").unwrap().inode;
    let config = server.walk("shares/0/.git/config").unwrap().inode;
    let evil = server.walk("shares/0/evil").unwrap().inode;
    assert_eq!(refused(server.open(config, false, O_RDWR)), Errno::ROFS);
    for flags in [0, 1, 2] {
        let over = server.rename((root, c"evil"), (git, c"config"), flags);
        assert_eq!(refused(over), Errno::ROFS);
        let away = server.rename((git, c"config"), (root, c"evil"), flags);
        assert_eq!(refused(away), Errno::ROFS);
    }
    assert_eq!(refused(server.unlink(git, c"config")), Errno::ROFS);
    assert_eq!(refused(server.link(config, root, c"alias")), Errno::ROFS);
    assert_eq!(refused(server.link(evil, git, c"config")), Errno::ROFS);
    assert_eq!(refused(server.unlink(git, c"CONFIG")), Errno::ROFS);
    assert_eq!(host.read(".git/config"), "config");
}

#[test]
fn what_leads_to_a_protected_path_cannot_be_moved_or_replaced() {
    let (host, server) = protected_host();
    let root = server.share_root();
    for flags in [0, 1, 2] {
        let away = server.rename((root, c".git"), (root, c"git2"), flags);
        assert_eq!(refused(away), Errno::PERM);
        let over = server.rename((root, c"evil-dir"), (root, c".git"), flags);
        assert_eq!(refused(over), Errno::PERM);
        let over = server.rename((root, c"evil-dir"), (root, c".claude"), flags);
        assert_eq!(refused(over), Errno::PERM);
    }
    assert_eq!(refused(server.rmdir(root, c".git")), Errno::PERM);
    assert_eq!(
        refused(server.symlink(ROOT_CALLER, c"evil-dir", root, c".claude")),
        Errno::PERM
    );
    let new = NewFile {
        flags: O_RDWR | O_CREAT,
        ..file_mode(0o644)
    };
    assert_eq!(
        refused(server.create(ROOT_CALLER, root, c".claude", new)),
        Errno::PERM
    );
    assert!(host.path(".git/hooks/pre-commit").exists() && !host.path(".claude").exists());
}

#[test]
fn missing_protected_path_cannot_be_made_but_its_directory_can() {
    let (host, server) = protected_host();
    let root = server.share_root();
    let mode = file_mode(0o755);
    let claude = server.mkdir(ROOT_CALLER, root, c".claude", mode).unwrap();
    let (_, free) = server.create_file(claude.inode, "free.json", O_RDWR | O_CREAT);
    assert!(free > 0);
    let new = NewFile {
        flags: O_RDWR | O_CREAT,
        ..file_mode(0o644)
    };
    let settings = c"settings.json";
    let create = server.create(ROOT_CALLER, claude.inode, settings, new);
    assert_eq!(refused(create), Errno::ROFS);
    let rename = server.rename((claude.inode, c"free.json"), (claude.inode, settings), 0);
    assert_eq!(refused(rename), Errno::ROFS);
    let mkdir = server.mkdir(ROOT_CALLER, claude.inode, settings, mode);
    assert_eq!(refused(mkdir), Errno::ROFS);
    assert!(!host.path(".claude/settings.json").exists());
}

#[test]
fn missing_path_to_be_left_free_can_be_made() {
    let (host, server) = protected_host();
    let root = server.share_root();
    let mode = file_mode(0o755);
    let vscode = server.mkdir(ROOT_CALLER, root, c".vscode", mode).unwrap();
    server.create_file(vscode.inode, "tasks.json", O_RDWR | O_CREAT);
    assert!(host.path(".vscode/tasks.json").exists());
}

#[test]
fn files_beside_protected_ones_can_be_changed() {
    let (host, server) = protected_host();
    let git = server.walk("shares/0/.git").unwrap().inode;
    let (lock, handle) = server.create_file(git, "HEAD.lock", O_RDWR | O_CREAT | O_EXCL);
    server.write_handle(lock.inode, handle, "new head").unwrap();
    server
        .rename((git, c"HEAD.lock"), (git, c"HEAD"), 0)
        .unwrap();
    assert_eq!(host.read(".git/HEAD"), "new head");
}

#[test]
fn protected_file_is_known_by_identity_under_another_name() {
    let host = Host::new();
    host.write(".git/config", "config");
    fs_err::hard_link(host.path(".git/config"), host.path("alias")).unwrap();
    fs_err::create_dir(host.path("real")).unwrap();
    std::os::unix::fs::symlink("real", host.path(".cfg")).unwrap();
    host.write("real/hooks/x", "hook");
    let protected = [
        (".git/config", WhenMissing::DenyCreation),
        (".cfg/hooks", WhenMissing::DenyCreation),
    ];
    let server = host.serve_protecting(Access::ReadWrite, &protected);
    let root = server.share_root();
    let alias = server.walk("shares/0/alias").unwrap().inode;
    assert_eq!(refused(server.open(alias, false, O_RDWR)), Errno::ROFS);
    assert_eq!(
        refused(server.rename((root, c"alias"), (root, c"b"), 0)),
        Errno::ROFS
    );
    let hook = server.walk("shares/0/real/hooks/x").unwrap().inode;
    assert_eq!(refused(server.open(hook, false, O_WRONLY)), Errno::ROFS);
    assert_eq!(
        refused(server.rename((root, c"real"), (root, c"b"), 0)),
        Errno::PERM
    );
    assert_eq!(refused(server.unlink(root, c".cfg")), Errno::PERM);
}

#[test]
fn file_on_the_way_to_a_protected_path_cannot_be_rewritten() {
    let host = Host::new();
    host.write(".git", "gitdir: ../real");
    let protected = [(".git/hooks", WhenMissing::DenyCreation)];
    let server = host.serve_protecting(Access::ReadWrite, &protected);
    let git = server.walk("shares/0/.git").unwrap().inode;
    assert_eq!(refused(server.open(git, false, O_RDWR)), Errno::ROFS);
    assert_eq!(
        refused(server.unlink(server.share_root(), c".git")),
        Errno::PERM
    );
}

#[test]
fn nothing_moves_between_shares() {
    let (one, two) = (Host::new(), Host::new());
    one.write("file", "one");
    let share = |host: &Host, access| Share {
        root: path_fd(&host.path("")),
        access,
        protected: Vec::new(),
    };
    let server = builder()
        .share(share(&one, Access::ReadWrite))
        .share(share(&two, Access::ReadWrite))
        .build()
        .unwrap();
    let (from, to) = (server.share_root(), server.walk("shares/1").unwrap().inode);
    let file = server.walk("shares/0/file").unwrap().inode;
    assert_eq!(
        refused(server.rename((from, c"file"), (to, c"file"), 0)),
        Errno::XDEV
    );
    assert_eq!(refused(server.link(file, to, c"file")), Errno::XDEV);
    assert!(one.path("file").exists() && !two.path("file").exists());
}

#[test]
fn same_directory_shared_twice_keeps_the_access_of_each() {
    let host = Host::new();
    host.write("file", "content");
    let share = |access| Share {
        root: path_fd(&host.path("")),
        access,
        protected: Vec::new(),
    };
    let server = builder()
        .share(share(Access::ReadWrite))
        .share(share(Access::ReadOnly))
        .build()
        .unwrap();
    let writable = server.walk("shares/0/file").unwrap().inode;
    let readable = server.walk("shares/1/file").unwrap().inode;
    assert_ne!(writable, readable);
    server.open(writable, false, O_RDWR).unwrap();
    assert_eq!(refused(server.open(readable, false, O_RDWR)), Errno::ROFS);
}
