//! Boots the pinned kernel through the engine with nothing else, and says how long it took to the
//! first instruction of user space: the yardstick of `cargo xtask bench launch`.
//!
//! `bare_boot KERNEL [MEMORY_MIB]` prints one line of JSON:
//! `{"name":"bare_boot","unit":"ms","value":123.4}`. Not part of the product.
#![allow(clippy::print_stdout, clippy::exit, reason = "a measuring program")]

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::fs::MemfdFlags;

/// What the guest writes.
const MARK: &str = "first instruction";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let mut args = std::env::args().skip(1);
    let kernel = args.next().ok_or("usage: bare_boot KERNEL [MEMORY_MIB]")?;
    let memory_mib = args.next().map_or(Ok(256), |text| text.parse())?;
    let kernel: OwnedFd = fs_err::File::open(kernel)?.into_parts().0.into();
    let mut init = std::fs::File::from(rustix::fs::memfd_create("init", MemfdFlags::CLOEXEC)?);
    init.write_all(&tiny_program())?;
    let (log, console) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    std::thread::spawn(move || {
        for line in BufReader::new(std::fs::File::from(log))
            .lines()
            .map_while(Result::ok)
        {
            if line.contains(MARK) {
                let value = begun.elapsed().as_secs_f64() * 1000.0;
                println!("{{\"name\":\"bare_boot\",\"unit\":\"ms\",\"value\":{value:.3}}}");
                std::process::exit(0);
            }
        }
        std::process::exit(1);
    });
    let vm = agent_vm_vmm::BareVm {
        kernel,
        init: init.into(),
        memory_mib,
        console,
        share: None,
        network: None,
    };
    let Err(error) = vm.run();
    Err(error.into())
}

/// A static x86-64 executable that writes [`MARK`] and reboots.
fn tiny_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let text = format!("{MARK}\n");
    let code_len = 59_u64;
    let message = BASE + HEADERS + code_len;
    let mut code = Vec::new();
    // write(1, message, len)
    code.extend([0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0x48, 0xbe]);
    code.extend(message.to_le_bytes());
    code.push(0xba);
    code.extend((text.len() as u32).to_le_bytes());
    code.extend([0x0f, 0x05]);
    // reboot(0xfee1dead, 672274793, RB_AUTOBOOT)
    code.extend([0xb8, 169, 0, 0, 0, 0xbf]);
    code.extend(0xfee1_dead_u32.to_le_bytes());
    code.push(0xbe);
    code.extend(672_274_793_u32.to_le_bytes());
    code.push(0xba);
    code.extend(0x0123_4567_u32.to_le_bytes());
    code.extend([0x0f, 0x05, 0xeb, 0xfe]);
    code.resize(code_len as usize, 0x90);

    let size = HEADERS + code_len + text.len() as u64;
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    out.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [BASE + HEADERS, 64, 0] {
        out.extend(u64::to_le_bytes(word));
    }
    out.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    out.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, BASE, BASE, size, size, 0x1000] {
        out.extend(u64::to_le_bytes(word));
    }
    out.extend(code);
    out.extend(text.as_bytes());
    out
}
