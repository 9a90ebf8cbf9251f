//! Microseconds a request costs the file server, over 10 000 files in 100 directories: what `git status` asks.
//! `cargo run --release -p agent-vm-files --example walk_bench`; one JSON object a line.

use std::ffi::CString;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use agent_vm_files::{Access, FileServer, FileServerBuilder, OwnerMap, Share};

const DIRECTORIES: usize = 100;
const FILES: usize = 100;

fn main() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    for directory in 0..DIRECTORIES {
        let path = dir.path().join(directory.to_string());
        fs_err::create_dir(&path)?;
        for file in 0..FILES {
            fs_err::write(path.join(file.to_string()), b"content")?;
        }
    }
    let owners = OwnerMap {
        host_uid: rustix::process::geteuid().as_raw(),
        host_gid: rustix::process::getegid().as_raw(),
        guest_uid: 0,
        guest_gid: 0,
    };
    let share = Share {
        root: fs_err::File::open(dir.path())?.into_parts().0.into(),
        access: Access::ReadWrite,
        protected: Vec::new(),
    };
    let server = FileServerBuilder::new(tempfile::tempfile()?, owners)
        .share(share)
        .build()
        .map_err(io::Error::other)?;
    let root = server
        .lookup(server.lookup(1, c"shares")?.inode, c"0")?
        .inode;
    report("first lookup", || walk(&server, root, |_| Ok(())))?;
    report("lookup again", || walk(&server, root, |_| Ok(())))?;
    report("lookup and getattr", || {
        walk(&server, root, |inode| server.getattr(inode, None).map(drop))
    })?;
    report("lookup, open, release", || {
        walk(&server, root, |inode| {
            let opened = server.open(inode, false, 0)?;
            server.release(inode, opened.handle)
        })
    })?;
    report("readdirplus entry", || list(&server, root))
}

fn walk(server: &FileServer, root: u64, then: impl Fn(u64) -> io::Result<()>) -> io::Result<()> {
    for directory in 0..DIRECTORIES {
        let name = CString::new(directory.to_string())?;
        let inode = server.lookup(root, &name)?.inode;
        for file in 0..FILES {
            let name = CString::new(file.to_string())?;
            then(server.lookup(inode, &name)?.inode)?;
        }
    }
    Ok(())
}

fn list(server: &FileServer, root: u64) -> io::Result<()> {
    for directory in 0..DIRECTORIES {
        let name = CString::new(directory.to_string())?;
        let inode = server.lookup(root, &name)?.inode;
        let handle = server.opendir(inode)?.handle;
        server.readdirplus(inode, handle, 0, &mut |_, _| Ok(1))?;
        server.releasedir(inode, handle)?;
    }
    Ok(())
}

fn report(name: &str, run: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let started = Instant::now();
    run()?;
    let each: Duration = started.elapsed() / (DIRECTORIES * FILES) as u32;
    let value = each.as_nanos() as f64 / 1000.0;
    let mut out = io::stdout();
    writeln!(out, r#"{{"name":"{name}","unit":"us","value":{value:.2}}}"#)
}
