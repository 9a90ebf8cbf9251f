//! Boots the pinned kernel through the engine with a network card on libkrun's own stream link and nothing else: the
//! peer of `cargo xtask bench lab-net`.
//!
//! `bare_net KERNEL INIT MEMORY_MIB SHARE SOCKET`: SHARE is a directory, SOCKET where passt listens. What the guest
//! writes to its console goes to standard error, lines that are JSON objects to standard output, until the line `end`.
//! Not part of the product.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "a measuring program"
)]

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::fs::{Mode, OFlags};

/// The guest's last line.
const END: &str = "end";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [kernel, init, memory_mib, share, socket] = &arguments[..] else {
        return Err("usage: bare_net KERNEL INIT MEMORY_MIB SHARE SOCKET".into());
    };
    let open = |path: &str| -> std::io::Result<OwnedFd> {
        Ok(fs_err::File::open(path)?.into_parts().0.into())
    };
    let (log, console) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let vm = agent_vm_vmm::BareVm {
        kernel: open(kernel)?,
        init: agent_vm_vmm::sealed_memory_file("init", &fs_err::read(init)?)?,
        memory_mib: memory_mib.parse()?,
        console,
        share: Some(rustix::fs::open(
            share,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )?),
        network: Some(UnixStream::connect(socket)?.into()),
    };
    std::thread::spawn(move || {
        let lines = BufReader::new(std::fs::File::from(log)).lines();
        for line in lines.map_while(Result::ok) {
            match line.trim_end() {
                END => std::process::exit(0),
                line if line.starts_with('{') => println!("{line}"),
                line => eprintln!("guest: {line}"),
            }
        }
        std::process::exit(1);
    });
    let Err(error) = vm.run();
    Err(error.into())
}
