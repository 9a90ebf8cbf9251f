//! Bounds: descriptors, handles, nodes, depth.

use std::path::Path;

use super::*;

fn open_descriptors() -> usize {
    fs_err::read_dir("/proc/self/fd").unwrap().count()
}

fn serve_with(
    host: &Host,
    configure: impl Fn(FileServerBuilder) -> FileServerBuilder,
) -> FileServer {
    let share = Share {
        root: path_fd(&host.path("")),
        access: Access::ReadWrite,
        protected: Vec::new(),
    };
    configure(builder().share(share)).build().unwrap()
}

fn all_entries(server: &FileServer, inode: u64) -> Vec<Entry> {
    let handle = server.opendir(inode).unwrap().handle;
    let mut all = Vec::new();
    let mut offset = 0;
    loop {
        let before = all.len();
        server
            .readdirplus(inode, handle, offset, &mut |listed, entry| {
                if all.len() - before == 25 {
                    return Ok(0);
                }
                offset = listed.offset;
                all.push(entry);
                Ok(1)
            })
            .unwrap();
        if all.len() == before {
            break;
        }
    }
    server.releasedir(inode, handle).unwrap();
    all
}

#[test]
fn directory_of_50_000_files_is_listed_and_read_completely_with_few_descriptors() {
    let host = Host::new();
    for number in 0..50_000 {
        fs_err::write(host.path(&format!("f{number}")), number.to_string()).unwrap();
    }
    let server = serve_with(&host, |builder| builder.descriptor_budget(128));
    let root = server.share_root();
    let before = open_descriptors();
    let entries = all_entries(&server, root);
    assert_eq!(entries.len(), 50_002);
    let mut sum = 0u64;
    for entry in entries.iter().filter(|entry| entry.inode != 0) {
        sum += server
            .read_all(entry.inode)
            .unwrap()
            .parse::<u64>()
            .unwrap();
    }
    assert_eq!(sum, (0..50_000u64).sum());
    // Other tests of this process may hold some.
    assert!(open_descriptors() < before + 2000);
    assert!(server.descriptors.open() <= 64);
}

#[test]
fn directories_beyond_the_descriptor_limit_are_opened_again_when_needed() {
    let host = Host::new();
    for number in 0..300 {
        host.write(&format!("d{number}/sub/file"), &number.to_string());
    }
    let server = serve_with(&host, |builder| builder.descriptor_budget(80));
    let files: Vec<u64> = (0..300)
        .map(|number| {
            let path = format!("shares/0/d{number}/sub/file");
            server.walk(&path).unwrap().inode
        })
        .collect();
    assert!(server.descriptors.open() <= 40);
    for (number, inode) in files.iter().enumerate() {
        assert_eq!(server.read_all(*inode).unwrap(), number.to_string());
    }
    let d7 = server.walk("shares/0/d7").unwrap().inode;
    let sub = server.lookup(d7, c"sub").unwrap().inode;
    let root = server.share_root();
    server.rename((root, c"d7"), (root, c"moved"), 0).unwrap();
    for number in 0..300 {
        let _ = server.walk(&format!("shares/0/d{number}/sub/file"));
    }
    assert!(
        server.lookup(sub, c"file").is_ok(),
        "found through its moved parent"
    );
}

#[test]
fn too_many_handles_are_refused_loudly_and_room_returns() {
    let host = Host::new();
    host.write("file", "x");
    let server = serve_with(&host, |builder| builder.descriptor_budget(80));
    let file = server.walk("shares/0/file").unwrap().inode;
    let root = server.share_root();
    let mut handles = Vec::new();
    let errno = loop {
        match server.open(file, false, O_RDONLY) {
            Ok(opened) => handles.push(opened.handle),
            Err(error) => break Errno::from_raw_os_error(error.raw_os_error().unwrap()),
        }
    };
    assert_eq!(errno, Errno::NFILE);
    assert!((20..80).contains(&handles.len()));
    assert_eq!(refused(server.opendir(root)), Errno::NFILE);
    let new = NewFile {
        flags: O_RDWR | O_CREAT,
        ..file_mode(0o644)
    };
    assert_eq!(
        refused(server.create(ROOT_CALLER, root, c"new", new)),
        Errno::NFILE
    );
    assert!(
        !host.path("new").exists(),
        "refused before anything was made"
    );
    server.release(file, handles[0]).unwrap();
    server.opendir(root).unwrap();
}

#[test]
fn too_many_nodes_are_refused_until_the_guest_forgets() {
    let host = Host::new();
    for name in ["a", "b", "c"] {
        host.write(name, "");
    }
    let server = serve_with(&host, |builder| builder.node_limit(2));
    let a = server.walk("shares/0/a").unwrap().inode;
    server.walk("shares/0/b").unwrap();
    assert_eq!(refused(server.walk("shares/0/c")), Errno::NFILE);
    assert_eq!(server.walk("shares/0/a").unwrap().inode, a);
    server.forget(a, 2);
    server.walk("shares/0/c").unwrap();
    // A listing stays complete; what cannot be entered comes without a node.
    assert_eq!(all_entries(&server, server.share_root()).len(), 5);
}

#[test]
fn deep_directories_work_and_bottomless_ones_are_refused() {
    let host = Host::new();
    let server = serve_with(&host, |builder| builder.descriptor_budget(80));
    let mut inode = server.share_root();
    let mut deepest = Vec::new();
    for _ in 0..1000 {
        let made = server
            .mkdir(ROOT_CALLER, inode, c"d", file_mode(0o755))
            .unwrap();
        inode = made.inode;
        deepest.push(inode);
    }
    for inode in deepest.iter().rev().step_by(97) {
        server.getattr(*inode, None).unwrap();
    }
    let (file, handle) = server.create_file(*deepest.last().unwrap(), "f", O_RDWR | O_CREAT);
    server.write_handle(file.inode, handle, "deep").unwrap();
    for inode in deepest.iter().rev() {
        let parent = if *inode == deepest[0] {
            server.share_root()
        } else {
            deepest[deepest.binary_search(inode).unwrap() - 1]
        };
        if *inode == *deepest.last().unwrap() {
            server.unlink(*inode, c"f").unwrap();
        }
        server.rmdir(parent, c"d").unwrap();
    }
}

#[test]
fn forgetting_closes_descriptors() {
    let host = Host::new();
    for number in 0..20 {
        host.write(&format!("d{number}/file"), "x");
    }
    let server = host.serve(Access::ReadWrite);
    let mut nodes = Vec::new();
    for number in 0..20 {
        nodes.push(
            server
                .walk(&format!("shares/0/d{number}/file"))
                .unwrap()
                .inode,
        );
        nodes.push(server.walk(&format!("shares/0/d{number}")).unwrap().inode);
    }
    assert_eq!(server.descriptors.open(), 20);
    for inode in nodes {
        server.forget(inode, 5);
    }
    assert_eq!(server.descriptors.open(), 0);
    assert_eq!(server.nodes.len(), 1);
}

#[test]
fn wrong_configurations_are_refused() {
    let host = Host::new();
    host.write("file", "");
    let share = |path: &Path, protected: &str| Share {
        root: path_fd(path),
        access: Access::ReadWrite,
        protected: vec![ProtectedPath {
            path: protected.into(),
            when_missing: WhenMissing::DenyCreation,
        }],
    };
    for path in ["", "/etc", "../x", "a/../b", "."] {
        assert!(
            builder()
                .share(share(&host.path(""), path))
                .build()
                .is_err(),
            "{path}"
        );
    }
    assert!(
        builder()
            .share(share(&host.path("file"), "x"))
            .build()
            .is_err()
    );
    assert!(
        builder()
            .share(share(Path::new("/dev/null"), "x"))
            .build()
            .is_err()
    );
    for name in ["", "..", "a/b", "init", "shares", "dev", "a\0b"] {
        assert!(builder().directory(name).build().is_err(), "{name:?}");
    }
    assert!(builder().descriptor_budget(10).build().is_err());
}

#[test]
fn many_shares_are_served() {
    let hosts: Vec<Host> = (0..200).map(|_| Host::new()).collect();
    let mut builder = builder();
    for (number, host) in hosts.iter().enumerate() {
        host.write("number", &number.to_string());
        builder = builder.share(Share {
            root: path_fd(&host.path("")),
            access: Access::ReadOnly,
            protected: Vec::new(),
        });
    }
    let server = builder.build().unwrap();
    for number in 0..200 {
        let file = server.walk(&format!("shares/{number}/number")).unwrap();
        assert_eq!(server.read_all(file.inode).unwrap(), number.to_string());
    }
    assert_eq!(all_entries(&server, 3).len(), 202);
}

#[test]
fn requests_from_several_threads_agree() {
    let host = Host::new();
    for number in 0..100 {
        host.write(&format!("d{}/f{number}", number % 10), &number.to_string());
    }
    let server = serve_with(&host, |builder| builder.descriptor_budget(80));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..300 {
                    let number = (round * 7 + thread) % 100;
                    let path = format!("shares/0/d{}/f{number}", number % 10);
                    let file = server.walk(&path).unwrap();
                    assert_eq!(server.read_all(file.inode).unwrap(), number.to_string());
                    server.forget(file.inode, 1);
                }
            });
        }
    });
}
