//! Names and ids a hostile guest sends.

use std::ffi::CStr;

use super::*;

/// Names no operation may accept. Enough `..` to reach the real root from any temporary directory.
fn hostile_names() -> Vec<CString> {
    let mut names: Vec<Vec<u8>> = [
        "",
        ".",
        "..",
        "/",
        "//",
        "../",
        "./",
        "../secret",
        "../../secret",
        "a/../../secret",
        "dir/..",
        "dir/../..",
        "dir/../../secret",
        "/etc/passwd",
        "/etc/hostname",
        "dir/file",
        "dir/",
        "./file",
        "file/",
        "/proc/self/root/etc/passwd",
        "link/passwd",
        "../../../../../../../../../../etc/passwd",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec();
    names.push(vec![b'a'; 256]);
    names.push(vec![b'a'; 4096]);
    names.push([b"a".repeat(200), b"/../../../../etc/passwd".to_vec()].concat());
    names
        .into_iter()
        .map(|name| CString::new(name).unwrap())
        .collect()
}

fn host() -> Host {
    let host = Host::new();
    host.write("file", "content");
    host.write("dir/file", "content");
    std::os::unix::fs::symlink("/etc", host.path("link")).unwrap();
    host
}

/// Everything below the directory that holds the share, with contents.
fn snapshot(root: &Path) -> Vec<(PathBuf, u32, Option<Vec<u8>>)> {
    use std::os::unix::fs::PermissionsExt;
    let mut all = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs_err::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            open.extend(fs_err::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let content = meta.is_file().then(|| fs_err::read(&path).unwrap());
        all.push((path, meta.permissions().mode(), content));
    }
    all.sort();
    all
}

type Operation<'a> = (&'static str, Box<dyn Fn(u64, &CStr) -> io::Result<()> + 'a>);

/// Every operation that takes a name, with all other arguments good.
fn operations(server: &FileServer) -> Vec<Operation<'_>> {
    let parent = server.share_root();
    let file = server.walk("shares/0/file").unwrap().inode;
    let create = |flags| {
        move |inode, name: &CStr| {
            let new = NewFile {
                flags,
                ..file_mode(0o644)
            };
            server.create(ROOT_CALLER, inode, name, new).map(drop)
        }
    };
    let mknod = |mode| {
        move |inode, name: &CStr| {
            server
                .mknod(ROOT_CALLER, inode, name, file_mode(mode))
                .map(drop)
        }
    };
    vec![
        ("lookup", Box::new(|i, n| server.lookup(i, n).map(drop))),
        ("create", Box::new(create(O_RDWR | O_CREAT))),
        ("create excl", Box::new(create(O_RDWR | O_CREAT | O_EXCL))),
        ("create trunc", Box::new(create(O_RDWR | O_CREAT | O_TRUNC))),
        ("mknod file", Box::new(mknod(0o100_644))),
        ("mknod fifo", Box::new(mknod(0o010_644))),
        ("mknod socket", Box::new(mknod(0o140_644))),
        (
            "mkdir",
            Box::new(|i, n| server.mkdir(ROOT_CALLER, i, n, file_mode(0o755)).map(drop)),
        ),
        (
            "symlink",
            Box::new(|i, n| server.symlink(ROOT_CALLER, c"target", i, n).map(drop)),
        ),
        (
            "link",
            Box::new(move |i, n| server.link(file, i, n).map(drop)),
        ),
        ("unlink", Box::new(|i, n| server.unlink(i, n))),
        ("rmdir", Box::new(|i, n| server.rmdir(i, n))),
        (
            "rename from",
            Box::new(move |i, n| server.rename((i, n), (parent, c"new"), 0)),
        ),
        (
            "rename to",
            Box::new(move |i, n| server.rename((parent, c"file"), (i, n), 0)),
        ),
        (
            "rename noreplace",
            Box::new(move |i, n| server.rename((parent, c"file"), (i, n), 1)),
        ),
        (
            "exchange",
            Box::new(move |i, n| server.rename((parent, c"file"), (i, n), 2)),
        ),
    ]
}

#[test]
fn refuses_names_of_other_than_one_component_in_every_operation() {
    for access in [Access::ReadWrite, Access::ReadOnly] {
        let host = host();
        let before = snapshot(host.dir.path());
        let server = host.serve(access);
        let nodes = ["shares/0", "shares/0/dir", "shares/0/link", "shares/0/file"];
        let held_before = {
            for node in nodes {
                server.walk(node).unwrap();
            }
            server.nodes.len()
        };
        for node in nodes {
            let inode = server.walk(node).unwrap().inode;
            for name in hostile_names() {
                for (operation, attempt) in operations(&server) {
                    let errno = refused(attempt(inode, &name));
                    let expected = [Errno::NOENT, Errno::INVAL, Errno::NAMETOOLONG];
                    assert!(
                        expected.contains(&errno),
                        "{operation} {name:?} on {node}: {errno:?}"
                    );
                }
            }
        }
        assert_eq!(server.nodes.len(), held_before);
        assert!(snapshot(host.dir.path()) == before, "something was touched");
    }
}

#[test]
fn refuses_every_operation_on_ids_never_looked_up() {
    let host = host();
    let server = host.serve(Access::ReadWrite);
    let known = server.share_root();
    let operations = operations(&server);
    let before = snapshot(host.dir.path());
    for inode in [0, known + 100, 1 << 32, u64::MAX] {
        for (operation, attempt) in &operations {
            refused(attempt(inode, c"file"));
            assert_eq!(
                refused(server.open(inode, false, 0)),
                Errno::STALE,
                "{operation}"
            );
        }
        refused(server.getattr(inode, None));
        refused(server.setattr(inode, None, &Default::default()));
        refused(server.readlink(inode));
        refused(server.opendir(inode));
        refused(server.statfs(inode));
        refused(server.access(ROOT_CALLER, inode, 4));
        refused(server.getxattr(inode, c"user.a", 0));
        refused(server.setxattr(inode, c"user.a", b"", 0));
        refused(server.listxattr(inode, 0));
        refused(server.removexattr(inode, c"user.a"));
        server.forget(inode, u64::MAX);
    }
    assert!(snapshot(host.dir.path()) == before);
}

#[test]
fn refuses_names_in_files_links_and_the_synthetic_tree() {
    let host = host();
    let server = host.serve(Access::ReadWrite);
    for (inode, errno) in [
        (1, Errno::ROFS),
        (2, Errno::ROFS),
        (3, Errno::ROFS),
        (server.walk("dev").unwrap().inode, Errno::ROFS),
        (server.walk("shares/0/file").unwrap().inode, Errno::NOTDIR),
        (server.walk("shares/0/link").unwrap().inode, Errno::NOTDIR),
    ] {
        for (operation, attempt) in operations(&server) {
            let found = refused(attempt(inode, c"hosts"));
            let lookup = operation == "lookup";
            assert!(
                found == errno || lookup,
                "{operation} on {inode}: {found:?}"
            );
        }
    }
}

#[test]
fn links_are_shown_and_never_followed() {
    let host = host();
    let targets = [
        "/etc/passwd",
        "../secret",
        "/proc/self/root",
        "file",
        "loop",
    ];
    for target in targets {
        let name = format!("to{}", target.replace('/', "-"));
        std::os::unix::fs::symlink(target, host.path(&name)).unwrap();
    }
    let server = host.serve(Access::ReadWrite);
    for target in targets {
        let path = format!("shares/0/to{}", target.replace('/', "-"));
        let link = server.walk(&path).unwrap();
        assert_eq!(link.attr.mode >> 12, 0o12);
        assert_eq!(server.readlink(link.inode).unwrap(), target.as_bytes());
        assert_eq!(
            refused(server.open(link.inode, false, O_RDONLY)),
            Errno::LOOP
        );
        assert_eq!(refused(server.opendir(link.inode)), Errno::NOTDIR);
        assert_eq!(refused(server.lookup(link.inode, c"x")), Errno::NOTDIR);
        let chmod = crate::reply::SetAttr {
            mode: Some(0o777),
            ..Default::default()
        };
        assert_eq!(
            refused(server.setattr(link.inode, None, &chmod)),
            Errno::NOTSUP
        );
        let truncate = crate::reply::SetAttr {
            size: Some(0),
            ..Default::default()
        };
        assert_eq!(
            refused(server.setattr(link.inode, None, &truncate)),
            Errno::INVAL
        );
    }
    assert_eq!(
        fs_err::read_to_string(host.outside("secret")).unwrap(),
        SECRET
    );
}

#[test]
fn file_replaced_by_a_link_on_the_host_is_not_followed() {
    let host = host();
    let server = host.serve(Access::ReadWrite);
    let file = server.walk("shares/0/file").unwrap().inode;
    let dir = server.walk("shares/0/dir").unwrap().inode;
    fs_err::remove_file(host.path("file")).unwrap();
    std::os::unix::fs::symlink(host.outside("secret"), host.path("file")).unwrap();
    fs_err::rename(host.path("dir"), host.path("dir2")).unwrap();
    std::os::unix::fs::symlink("..", host.path("dir")).unwrap();
    assert_eq!(refused(server.open(file, false, O_RDWR)), Errno::STALE);
    assert_eq!(refused(server.getattr(file, None)), Errno::STALE);
    assert_eq!(refused(server.lookup(dir, c"secret")), Errno::STALE);
    assert_eq!(
        refused(server.mkdir(ROOT_CALLER, dir, c"x", file_mode(0o755))),
        Errno::STALE
    );
    assert!(!host.outside("x").exists());
}

#[test]
fn file_replaced_by_a_fifo_does_not_block() {
    let host = host();
    let server = host.serve(Access::ReadWrite);
    let file = server.walk("shares/0/file").unwrap().inode;
    fs_err::remove_file(host.path("file")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(CWD, host.path("file"), fifo, Mode::RWXU, 0).unwrap();
    assert_eq!(refused(server.open(file, false, O_RDONLY)), Errno::STALE);
    assert_eq!(refused(server.open(file, false, O_WRONLY)), Errno::STALE);
    let fifo = server.walk("shares/0/file").unwrap().inode;
    assert_eq!(refused(server.open(fifo, false, O_RDWR)), Errno::NXIO);
}

#[test]
fn names_that_are_not_utf8_pass_unchanged() {
    let host = Host::new();
    let server = host.serve(Access::ReadWrite);
    let root = server.share_root();
    let names = [
        b"\xff\xfe".to_vec(),
        b"caf\xe9 \n".to_vec(),
        "пример 🦀".into(),
    ];
    for name in names.map(|name| CString::new(name).unwrap()) {
        server
            .mkdir(ROOT_CALLER, root, &name, file_mode(0o755))
            .unwrap();
        server.lookup(root, &name).unwrap();
        let on_host: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes());
        assert!(host.path("").join(on_host).is_dir());
    }
}
