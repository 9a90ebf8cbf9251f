//! Driving a virtio-mmio device from user space (virtio 1.2, section 4.2), polling, without interrupts.
//!
//! Registers are mapped from `/dev/mem`; queues and buffers lie in locked pages whose physical addresses come from
//! `/proc/self/pagemap`.

use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::mm::{MapFlags, MlockAllFlags, ProtFlags, mlockall, mmap, mmap_anonymous};

/// Size of pages, register windows and buffers in bytes.
pub(crate) const PAGE: usize = 4096;

/// Bytes of `struct fuse_out_header` (`linux/fuse.h`).
const REPLY_HEADER: u32 = 16;

const MAGIC: u32 = 0x7472_6976;
const FILE_SYSTEM_DEVICE: u32 = 26;
const QUEUE_SIZE: u16 = 8;
const REQUEST_QUEUE: u32 = 1;
/// How long the host may take for one request.
const PATIENCE: Duration = Duration::from_secs(20);
const O_SYNC: i32 = 0o4_010_000;

/// Where the parts of a queue lie in its page.
const AVAILABLE: usize = 512;
const USED: usize = 1024;

mod register {
    pub(super) const MAGIC: usize = 0x00;
    pub(super) const DEVICE_ID: usize = 0x08;
    pub(super) const DRIVER_FEATURES: usize = 0x20;
    pub(super) const DRIVER_FEATURES_SELECT: usize = 0x24;
    pub(super) const QUEUE_SELECT: usize = 0x30;
    pub(super) const QUEUE_SIZE: usize = 0x38;
    pub(super) const QUEUE_READY: usize = 0x44;
    pub(super) const QUEUE_NOTIFY: usize = 0x50;
    pub(super) const STATUS: usize = 0x70;
    pub(super) const DESCRIPTORS: usize = 0x80;
    pub(super) const AVAILABLE: usize = 0x90;
    pub(super) const USED: usize = 0xa0;
}

/// The file system device, ours.
pub(crate) struct Device {
    registers: Memory,
    queue: Page,
    /// Kept for as long as the device knows its address.
    _priority_queue: Page,
    request: Page,
    reply: Page,
    submitted: u16,
}

impl Device {
    /// Prepares everything, then unbinds the kernel's driver and starts the device anew.
    pub(crate) fn take_over() -> Result<Self> {
        // What PID 1 may still need of its program must be in memory when its file system goes.
        drop(fs_err::read("/proc/1/exe"));
        let _ = fs_err::write("/proc/sys/vm/compact_unevictable_allowed", "0");
        mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).context("cannot lock memory")?;
        let registers = find_registers()?;
        let mut device = Self {
            registers,
            queue: Page::new()?,
            _priority_queue: Page::new()?,
            request: Page::new()?,
            reply: Page::new()?,
            submitted: 0,
        };
        unbind_driver()?;
        device.start()?;
        Ok(device)
    }

    fn start(&mut self) -> Result<()> {
        let queues = [self._priority_queue.physical, self.queue.physical];
        let registers = &self.registers;
        let set = |register, value| registers.write_u32(register, value);
        set(register::STATUS, 0);
        set(register::STATUS, 1);
        set(register::STATUS, 3);
        for (select, features) in [(0, 0), (1, 1)] {
            set(register::DRIVER_FEATURES_SELECT, select);
            set(register::DRIVER_FEATURES, features);
        }
        set(register::STATUS, 11);
        ensure!(
            registers.read_u32(register::STATUS) == 11,
            "features refused"
        );
        for (index, page) in queues.into_iter().enumerate() {
            set(register::QUEUE_SELECT, index as u32);
            set(register::QUEUE_SIZE, QUEUE_SIZE.into());
            for (low, part) in [
                (register::DESCRIPTORS, 0),
                (register::AVAILABLE, AVAILABLE),
                (register::USED, USED),
            ] {
                let address = page + part as u64;
                set(low, address as u32);
                set(low + 4, (address >> 32) as u32);
            }
            set(register::QUEUE_READY, 1);
        }
        set(register::STATUS, 15);
        ensure!(
            registers.read_u32(register::STATUS) == 15,
            "device did not start"
        );
        Ok(())
    }

    /// Sends one request and waits until the host is done with it. The reply is the whole reply page, filled with
    /// 0xff where the host wrote nothing.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        ensure!(request.len() <= PAGE, "request above one page");
        self.request.memory.write(0, request);
        self.reply.memory.write(0, &[0xff; PAGE]);
        let queue = &self.queue.memory;
        const NEXT: u16 = 1;
        const WRITE: u16 = 2;
        queue.write_descriptor(0, self.request.physical, request.len() as u32, (NEXT, 1));
        // The header apart from the rest, as the kernel's driver has it.
        let (header, rest) = (REPLY_HEADER, PAGE as u32 - REPLY_HEADER);
        queue.write_descriptor(1, self.reply.physical, header, (WRITE | NEXT, 2));
        queue.write_descriptor(2, self.reply.physical + u64::from(header), rest, (WRITE, 0));
        let slot = usize::from(self.submitted % QUEUE_SIZE);
        queue.write_u16(AVAILABLE + 4 + 2 * slot, 0);
        // No interrupt: the driver that would take it is gone.
        queue.write_u16(AVAILABLE, 1);
        fence(Ordering::SeqCst);
        self.submitted = self.submitted.wrapping_add(1);
        queue.write_u16(AVAILABLE + 2, self.submitted);
        fence(Ordering::SeqCst);
        self.registers
            .write_u32(register::QUEUE_NOTIFY, REQUEST_QUEUE);
        let started = Instant::now();
        while queue.read_u16(USED + 2) != self.submitted {
            if started.elapsed() > PATIENCE {
                bail!("the host did not take request {}", self.submitted);
            }
            std::thread::yield_now();
        }
        fence(Ordering::SeqCst);
        let mut reply = vec![0; PAGE];
        self.reply.memory.read(0, &mut reply);
        Ok(reply)
    }
}

/// Windows the kernel knows of; the one with the file system device is ours.
fn find_registers() -> Result<Memory> {
    let memory = fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_SYNC)
        .open("/dev/mem")?;
    let known = [
        fs_err::read_to_string("/proc/iomem").unwrap_or_default(),
        fs_err::read_to_string("/proc/cmdline").unwrap_or_default(),
    ];
    let mut windows = windows_in_iomem(&known[0]);
    windows.extend(windows_in_command_line(&known[1]));
    for window in &windows {
        let registers = Memory::device(memory.file(), *window)?;
        if registers.read_u32(register::MAGIC) == MAGIC
            && registers.read_u32(register::DEVICE_ID) == FILE_SYSTEM_DEVICE
        {
            return Ok(registers);
        }
    }
    bail!("no virtio-fs device among windows {windows:x?}")
}

fn windows_in_iomem(text: &str) -> Vec<u64> {
    let lines = text.lines().filter(|line| line.contains("virtio-mmio"));
    let starts = lines.filter_map(|line| line.trim().split('-').next());
    let windows = starts.filter_map(|start| u64::from_str_radix(start, 16).ok());
    windows.filter(|window| *window != 0).collect()
}

fn windows_in_command_line(text: &str) -> Vec<u64> {
    let devices = text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("virtio_mmio.device="));
    devices
        .filter_map(|device| device.split(['@', ':']).nth(1))
        .filter_map(|address| u64::from_str_radix(address.strip_prefix("0x")?, 16).ok())
        .collect()
}

fn unbind_driver() -> Result<()> {
    for entry in fs_err::read_dir("/sys/bus/virtio/devices")? {
        let entry = entry?;
        let id = fs_err::read_to_string(entry.path().join("device"))?;
        if u32::from_str_radix(id.trim().trim_start_matches("0x"), 16) == Ok(FILE_SYSTEM_DEVICE) {
            let name = entry.file_name();
            let bytes = name.as_encoded_bytes();
            return Ok(fs_err::write(
                "/sys/bus/virtio/drivers/virtiofs/unbind",
                bytes,
            )?);
        }
    }
    bail!("the kernel has no virtio-fs device")
}

/// One page of ours that stays where it is.
struct Page {
    memory: Memory,
    physical: u64,
}

impl Page {
    fn new() -> Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::LOCKED | MapFlags::POPULATE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), PAGE, access, flags) };
        let memory = Memory(base.context("cannot map a page")?);
        memory.write(0, &[0; PAGE]);
        let physical = physical_address(memory.0 as usize)?;
        Ok(Self { memory, physical })
    }
}

fn physical_address(address: usize) -> Result<u64> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let map = File::open("/proc/self/pagemap")?;
    let mut entry = [0; 8];
    map.read_exact_at(&mut entry, (address / PAGE * 8) as u64)?;
    let entry = u64::from_le_bytes(entry);
    ensure!(
        entry & PRESENT != 0 && entry & FRAME != 0,
        "page has no address: not root?"
    );
    Ok((entry & FRAME) * PAGE as u64)
}

/// A mapped page, shared with the host; never unmapped. Only accesses within it are made.
struct Memory(*mut c_void);

impl Memory {
    fn device(file: &File, window: u64) -> Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let none = std::ptr::null_mut();
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory of ours.
        let base = unsafe { mmap(none, PAGE, access, MapFlags::SHARED, file, window) };
        Ok(Self(base.with_context(|| {
            format!("cannot map registers at {window:#x}")
        })?))
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        let fits = offset.is_multiple_of(size_of::<T>()) && offset + size_of::<T>() <= PAGE;
        assert!(fits, "access inside the page");
        self.0.cast::<u8>().wrapping_add(offset).cast()
    }

    fn read_u32(&self, offset: usize) -> u32 {
        let from = self.at::<u32>(offset);
        // SAFETY: `at` gives an aligned address inside a mapped readable page.
        unsafe { from.read_volatile() }
    }

    fn write_u32(&self, offset: usize, value: u32) {
        let to = self.at::<u32>(offset);
        // SAFETY: `at` gives an aligned address inside a mapped writable page.
        unsafe { to.write_volatile(value) }
    }

    fn read_u16(&self, offset: usize) -> u16 {
        let from = self.at::<u16>(offset);
        // SAFETY: `at` gives an aligned address inside a mapped readable page.
        unsafe { from.read_volatile() }
    }

    fn write_u16(&self, offset: usize, value: u16) {
        let to = self.at::<u16>(offset);
        // SAFETY: `at` gives an aligned address inside a mapped writable page.
        unsafe { to.write_volatile(value) }
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            let from = self.at::<u8>(offset + index);
            // SAFETY: `at` gives an address inside a mapped readable page.
            *byte = unsafe { from.read_volatile() };
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            let to = self.at::<u8>(offset + index);
            // SAFETY: `at` gives an address inside a mapped writable page.
            unsafe { to.write_volatile(*byte) };
        }
    }

    /// Writes descriptor `index`; `chain` is (flags, next).
    fn write_descriptor(&self, index: usize, address: u64, length: u32, chain: (u16, u16)) {
        let at = index * 16;
        self.write_u32(at, address as u32);
        self.write_u32(at + 4, (address >> 32) as u32);
        self.write_u32(at + 8, length);
        self.write_u16(at + 12, chain.0);
        self.write_u16(at + 14, chain.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_windows_in_iomem_and_command_line() {
        let iomem = "c0000000-cfffffff : PCI\nd0000000-d0000fff : virtio-mmio.0\n  d0001000-d0001fff : virtio-mmio.1 \n";
        assert_eq!(windows_in_iomem(iomem), [0xd000_0000, 0xd000_1000]);
        let line = "quiet virtio_mmio.device=4K@0xd0000000:5 x virtio_mmio.device=4K@0xd0001000:6";
        assert_eq!(windows_in_command_line(line), [0xd000_0000, 0xd000_1000]);
    }
}
