//! Starts one VM through `spawn` and talks to a test guest over its control connection: the
//! host half of this crate's lab test. Not part of the product.
//!
//! `vm_lab KERNEL INIT MEMORY_MIB VCPUS COMMAND [disk=PATH|disk-rw=PATH|share=PATH|share-rw=PATH]…`
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test program"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use agent_vm_vmm::{Access, Disk, GuestOwner, ProtectedPath, Share, VmSpec, WhenMissing};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) == Some(agent_vm_vmm::CHILD_COMMAND) {
        agent_vm_vmm::child_main();
    }
    if args.get(1).map(String::as_str) == Some("probe") {
        let begun = Instant::now();
        println!(
            "preflight {:?} {:?}",
            agent_vm_vmm::preflight(),
            begun.elapsed()
        );
        let begun = Instant::now();
        println!(
            "probe {:?} {:?}",
            agent_vm_vmm::probe_tiny_guest(),
            begun.elapsed()
        );
        return;
    }
    let begun = Instant::now();
    let [_, kernel, init, memory, vcpus, command, rest @ ..] = args.as_slice() else {
        panic!("usage")
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (link, guest_link) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let (log, console) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut spec = VmSpec {
        vcpus: vcpus.parse().unwrap(),
        memory_mib: memory.parse().unwrap(),
        kernel: open(kernel, false),
        init: open(init, false),
        disks: Vec::new(),
        shares: Vec::new(),
        owner: GuestOwner {
            uid: 1000,
            gid: 1000,
        },
        network: guest_link,
        control: theirs.into(),
        forward: None,
        console,
    };
    for word in rest {
        match word.split_once('=').unwrap() {
            ("disk", path) => spec.disks.push(Disk::Raw {
                image: open(path, false),
                access: Access::ReadOnly,
            }),
            ("disk-rw", path) => spec.disks.push(Disk::Raw {
                image: open(path, true),
                access: Access::ReadWrite,
            }),
            ("share", path) => spec.shares.push(share(path, Access::ReadOnly)),
            ("share-rw", path) => spec.shares.push(share(path, Access::ReadWrite)),
            _ => panic!("{word}"),
        }
    }
    let mut vm = match agent_vm_vmm::spawn(spec) {
        Ok(vm) => vm,
        Err(error) => {
            return println!(
                "EXIT not spawned: {error}: {:?}",
                std::error::Error::source(&error)
            );
        }
    };
    let logger = std::thread::spawn(move || show("console", std::fs::File::from(log), begun));
    std::thread::spawn(move || serve_link(link));
    let pid = vm.pid();
    println!(
        "[{:?}] spawned {pid}, control fd {}",
        begun.elapsed(),
        ours.as_raw_fd()
    );
    let talk = talk(ours, command, pid, begun);
    let exit = vm.wait_timeout(Duration::from_secs(120));
    if exit.is_none() {
        vm.kill();
        println!("KILLED after 60 s: {:?}", vm.wait());
    }
    logger.join().unwrap();
    println!("[{:?}] talk {talk:?} EXIT {exit:?}", begun.elapsed());
}

fn talk(ours: UnixStream, command: &str, pid: u32, begun: Instant) -> std::io::Result<()> {
    ours.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut lines = BufReader::new(ours.try_clone()?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    println!("[{:?}] guest says {line:?}", begun.elapsed());
    if let Some(signal) = command.strip_prefix("signal ") {
        std::process::Command::new("kill")
            .args([format!("-{signal}"), pid.to_string()])
            .status()?;
        return Ok(());
    }
    if command == "inspect" {
        println!("INSPECT {pid}");
        std::thread::sleep(Duration::from_secs(20));
    }
    if command == "abandon" {
        return Ok(());
    }
    writeln!(&ours, "{command}")?;
    if command.starts_with("flood") {
        let mut total = 0_u64;
        let mut buffer = vec![0; 65536];
        while total < 8 << 20 {
            match lines.read(&mut buffer) {
                Ok(count) => total += count as u64,
                Err(error) => {
                    println!("[{:?}] stuck after {total} bytes", begun.elapsed());
                    return Err(error);
                }
            }
        }
        println!("[{:?}] flood of {total} bytes", begun.elapsed());
        let data = vec![7_u8; 1 << 20];
        for _ in 0..8 {
            (&ours).write_all(&data)?;
        }
    }
    show("guest", lines, begun);
    Ok(())
}

fn show(what: &str, input: impl Read, begun: Instant) {
    for line in BufReader::new(input).split(b'\n') {
        let Ok(line) = line else { break };
        println!(
            "[{:?}] {what}: {}",
            begun.elapsed(),
            String::from_utf8_lossy(&line)
        );
    }
}

/// Answers ARP and echoes ICMP, keeping the virtio header: enough for `ping`.
fn serve_link(link: OwnedFd) {
    let mut buffer = vec![0_u8; 70_000];
    let (mut count, mut largest, mut partial) = (0, 0, 0);
    while let Ok((_, len)) = rustix::net::recv(&link, &mut buffer[..], RecvFlags::empty()) {
        if len == 0 {
            break;
        }
        count += 1;
        largest = largest.max(len);
        partial += usize::from(buffer[0] & 1 != 0);
        if let Some(reply) = reply_to(&buffer[..len]) {
            rustix::net::send(&link, &reply, rustix::net::SendFlags::empty()).unwrap();
        }
    }
    println!("link: {count} frames, largest {largest}, {partial} with partial checksum");
}

fn reply_to(message: &[u8]) -> Option<Vec<u8>> {
    let mut reply = message.to_vec();
    reply[..12].fill(0);
    reply[0] = 2; // DATA_VALID
    let gateway = [2, 0x76, 0x6d, 0, 0, 1];
    let frame = &mut reply[12..];
    let guest: [u8; 6] = frame[6..12].try_into().unwrap();
    frame[..6].copy_from_slice(&guest);
    frame[6..12].copy_from_slice(&gateway);
    match frame[12..14] {
        [8, 6] => {
            frame[21] = 2;
            let asked: [u8; 4] = frame[38..42].try_into().unwrap();
            let sender: [u8; 10] = frame[22..32].try_into().unwrap();
            frame[32..42].copy_from_slice(&sender);
            frame[22..28].copy_from_slice(&gateway);
            frame[28..32].copy_from_slice(&asked);
            Some(reply)
        }
        [8, 0] if frame[23] == 1 && frame[34] == 8 => {
            let from: [u8; 4] = frame[26..30].try_into().unwrap();
            let to: [u8; 4] = frame[30..34].try_into().unwrap();
            frame[26..30].copy_from_slice(&to);
            frame[30..34].copy_from_slice(&from);
            frame[34] = 0;
            // Echo request 8 became reply 0: the one's complement sum rises by 0x0800.
            let sum = u32::from(u16::from_be_bytes([frame[36], frame[37]])) + 0x0800;
            let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
            frame[36..38].copy_from_slice(&sum.to_be_bytes());
            Some(reply)
        }
        _ => None,
    }
}

fn open(path: &str, write: bool) -> OwnedFd {
    let file = fs_err::OpenOptions::new()
        .read(true)
        .write(write)
        .open(path)
        .unwrap();
    file.into_parts().0.into()
}

fn share(path: &str, access: Access) -> Share {
    let mut options = std::fs::OpenOptions::new();
    options
        .read(true)
        .custom_flags(rustix::fs::OFlags::PATH.bits().cast_signed());
    let hooks = ProtectedPath {
        path: ".git/hooks".to_owned(),
        when_missing: WhenMissing::DenyCreation,
    };
    Share {
        root: options.open(path).unwrap().into(),
        access,
        protected: if path.ends_with("tree") {
            vec![hooks]
        } else {
            Vec::new()
        },
    }
}
