//! The one thing no safe crate does for us: a TAP device whose frames carry the virtio header.
//!
//! Header `linux/if_tun.h`. One operation per block.

#![allow(unsafe_code, reason = "ioctls of the TAP driver")]

use std::ffi::c_void;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Opcode, Setter, Updater, opcode};

/// `TUNSETIFF`.
const SET_INTERFACE: Opcode = opcode::write::<i32>(b'T', 202);
/// `TUNSETOFFLOAD`.
const SET_OFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
/// `TUNSETVNETHDRSZ`.
const SET_HEADER_SIZE: Opcode = opcode::write::<i32>(b'T', 216);
/// `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000;
/// What the other end of a TAP device does for the kernel that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offload {
    /// `TUN_F_CSUM`: checksums are left undone.
    Checksums = 1,
    /// `TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6`: large segments come whole as well.
    Segments = 1 | 2 | 4,
}
/// Bytes of `virtio_net_hdr_v1`.
const HEADER_SIZE: i32 = 12;

/// `struct ifreq` as `TUNSETIFF` uses it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Makes a TAP device of that name (at most 15 bytes).
pub(crate) fn open_tap(name: &str, offload: Offload) -> Result<OwnedFd> {
    anyhow::ensure!(name.len() < 16, "{name:?} is too long for an interface");
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tap = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
        .context("cannot open /dev/net/tun")?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: FLAGS,
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` (40 bytes), which InterfaceRequest is.
    let made = unsafe { Updater::<SET_INTERFACE, InterfaceRequest>::new(&mut request) };
    // SAFETY: the pattern was made for this call.
    unsafe { rustix::ioctl::ioctl(&tap, made) }
        .with_context(|| format!("cannot make the TAP device {name}"))?;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    let header = unsafe { Setter::<SET_HEADER_SIZE, i32>::new(HEADER_SIZE) };
    // SAFETY: the pattern was made for this call.
    unsafe { rustix::ioctl::ioctl(&tap, header) }.context("TUNSETVNETHDRSZ")?;
    // SAFETY: TUNSETOFFLOAD takes its argument as a number, not as a pointer.
    let offload = unsafe { Number::<SET_OFFLOAD>::new(offload as usize) };
    // SAFETY: the pattern was made for this call.
    unsafe { rustix::ioctl::ioctl(&tap, offload) }.context("TUNSETOFFLOAD")?;
    Ok(tap)
}

/// An ioctl whose argument is a number.
struct Number<const OPCODE: Opcode>(usize);

impl<const OPCODE: Opcode> Number<OPCODE> {
    /// # Safety
    /// `OPCODE` must take a number.
    unsafe fn new(number: usize) -> Self {
        Self(number)
    }
}

// SAFETY: the argument is never dereferenced, nothing is written through it.
unsafe impl<const OPCODE: Opcode> rustix::ioctl::Ioctl for Number<OPCODE> {
    type Output = ();
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.0 as *mut c_void
    }

    unsafe fn output_from_ptr(
        _: rustix::ioctl::IoctlOutput,
        _: *mut c_void,
    ) -> rustix::io::Result<()> {
        Ok(())
    }
}
