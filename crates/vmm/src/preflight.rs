//! Tells, before anything is prepared, whether this machine can run a VM, and what to do if not.
//!
//! That `/dev/kvm` opens proves little: on paravirtual hosts (`kvm_pvm`) it creates VMs and
//! emulates them, and a real kernel dies after seconds. [`probe_tiny_guest`] therefore runs a guest
//! of a few instructions the way a kernel begins: in 64-bit mode with paging, using an instruction
//! no emulator of KVM's knows.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use kvm_bindings::{KVM_API_VERSION, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VcpuExit};
use rustix::fs::{AtFlags, CWD, FileType};
use rustix::io::Errno;

/// Where the kernel's virtualisation is.
pub const KVM_DEVICE: &str = "/dev/kvm";
/// How long the tiny guest may take; a real one needs far less than a millisecond.
pub const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Why this machine cannot run a VM.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no such device: virtualisation is off in the firmware, its module is not loaded,
    /// or this is a VM or container without it.
    #[error("{KVM_DEVICE} does not exist")]
    Missing,
    /// The user may not use it.
    #[error("permission to use {KVM_DEVICE} is denied")]
    PermissionDenied {
        /// The device's group.
        group_id: u32,
        /// What that group is called here, if it has a name.
        group_name: Option<String>,
        /// Whether membership in the group would be enough.
        group_may_use: bool,
    },
    /// It cannot be opened for another reason.
    #[error("cannot open {KVM_DEVICE}")]
    Open(#[source] io::Error),
    /// It is not KVM, or one without a needed feature.
    #[error("{KVM_DEVICE} is not usable: {what}")]
    Unusable {
        /// What is wrong or missing.
        what: &'static str,
    },
    /// A call that always works on a usable KVM did not.
    #[error("{KVM_DEVICE} is not usable: {what}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The tiny guest did not run as a real processor would run it.
    #[error("KVM of this machine cannot run guests: {what}")]
    CannotRunGuests {
        /// How it showed.
        what: &'static str,
    },
}

/// Checks that `/dev/kvm` is there, may be used, and offers what a VM needs. Takes well below a
/// millisecond and starts nothing.
///
/// # Errors
/// See [`KvmError`].
pub fn preflight() -> Result<(), KvmError> {
    open_kvm().map(drop)
}

/// Runs a tiny guest, for at most [`PROBE_LIMIT`], and checks what it did.
///
/// A guest that never ends leaves its thread behind; the program is about to end with an error
/// then.
///
/// # Errors
/// See [`KvmError`].
pub fn probe_tiny_guest() -> Result<(), KvmError> {
    let kvm = open_kvm()?;
    let (sender, receiver) = mpsc::channel();
    let run = move || {
        // The receiver is gone when the limit was exceeded.
        let _ = sender.send(run_tiny_guest(&kvm));
    };
    std::thread::Builder::new()
        .name("kvm probe".to_owned())
        .spawn(run)
        .map_err(KvmError::Open)?;
    receiver
        .recv_timeout(PROBE_LIMIT)
        .unwrap_or(Err(KvmError::CannotRunGuests {
            what: "a guest of ten instructions did not end",
        }))
}

fn open_kvm() -> Result<Kvm, KvmError> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let device = rustix::fs::open(KVM_DEVICE, flags, rustix::fs::Mode::empty()).map_err(
        |error| match error {
            Errno::NOENT | Errno::NXIO | Errno::NODEV => KvmError::Missing,
            Errno::ACCESS | Errno::PERM => permission_denied(),
            other => KvmError::Open(other.into()),
        },
    )?;
    let stat = rustix::fs::fstat(&device).map_err(|error| KvmError::Open(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return Err(KvmError::Unusable {
            what: "it is not a device",
        });
    }
    let kvm = crate::ffi::kvm_from(device);
    if kvm.get_api_version() != KVM_API_VERSION.cast_signed() {
        return Err(KvmError::Unusable {
            what: "it does not speak KVM's interface",
        });
    }
    let needed = [
        Cap::UserMemory,
        Cap::Irqchip,
        Cap::Irqfd,
        Cap::Ioeventfd,
        Cap::SplitIrqchip,
        Cap::ExtCpuid,
    ];
    if needed
        .into_iter()
        .any(|capability| !kvm.check_extension(capability))
    {
        return Err(KvmError::Unusable {
            what: "a feature that every KVM since Linux 4.5 has is missing",
        });
    }
    Ok(kvm)
}

/// Who may use the device, for a message that helps.
fn permission_denied() -> KvmError {
    let unknown = KvmError::PermissionDenied {
        group_id: 0,
        group_name: None,
        group_may_use: false,
    };
    let Ok(stat) = rustix::fs::statat(CWD, KVM_DEVICE, AtFlags::empty()) else {
        return unknown;
    };
    KvmError::PermissionDenied {
        group_id: stat.st_gid,
        group_name: group_name(stat.st_gid),
        // Root's own group is nobody's way in.
        group_may_use: stat.st_gid != 0 && stat.st_mode & 0o060 == 0o060,
    }
}

/// The name of a group in `/etc/group`; names that are not plain text are none.
fn group_name(id: u32) -> Option<String> {
    const MAX_FILE: u64 = 1 << 20;
    let mut text = String::new();
    let file = fs_err::File::open("/etc/group").ok()?;
    io::Read::read_to_string(&mut io::Read::take(file, MAX_FILE), &mut text).ok()?;
    group_name_in(&text, id)
}

fn group_name_in(text: &str, id: u32) -> Option<String> {
    let name = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(id)).then_some(name)
    })?;
    let plain = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    plain.then(|| name.to_owned())
}

/// Guest memory of the probe, in bytes: page tables, then code, then a word for the result.
const MEMORY: usize = 0x1_0000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const CODE: u64 = 0x8000;
/// Where the guest writes what it computed.
const RESULT: u64 = 0x9000;
/// What it must have computed: the sum of 1 to 1000.
const EXPECTED: u64 = 500_500;

/// 64-bit code: sums 1..=1000 in a vector register, stores the sum, halts. Vector arithmetic is
/// executed by processors only: KVM's emulator has none of it.
const PROGRAM: &[u8] = &[
    0xb9, 0xe8, 0x03, 0x00, 0x00, // mov ecx, 1000
    0x66, 0x0f, 0xef, 0xc0, // pxor xmm0, xmm0
    0x66, 0x48, 0x0f, 0x6e, 0xc9, // next: movq xmm1, rcx
    0x66, 0x0f, 0xd4, 0xc1, // paddq xmm0, xmm1
    0xff, 0xc9, // dec ecx
    0x75, 0xf3, // jnz next
    0x66, 0x48, 0x0f, 0x7e, 0xc0, // movq rax, xmm0
    0x48, 0xa3, 0x00, 0x90, 0, 0, 0, 0, 0, 0,    // mov [0x9000], rax
    0xf4, // hlt
];

fn run_tiny_guest(kvm: &Kvm) -> Result<(), KvmError> {
    let refused = |what| move |source| KvmError::Refused { what, source };
    let memory = crate::ffi::ProbeMemory::new(MEMORY).map_err(KvmError::Open)?;
    for (at, word) in [(PML4, PDPT | 3), (PDPT, 0x83)] {
        memory.write(at, &word.to_le_bytes());
    }
    memory.write(CODE, PROGRAM);
    let vm = kvm.create_vm().map_err(refused("a VM cannot be created"))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory.address(),
    };
    crate::ffi::set_probe_memory(&vm, region, &memory).map_err(refused("it takes no memory"))?;
    let mut vcpu = vm
        .create_vcpu(0)
        .map_err(refused("a processor cannot be created"))?;
    enter_long_mode(&vcpu).map_err(refused("a processor cannot be set up"))?;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => break,
            Ok(VcpuExit::Intr) => {}
            Err(error) if error.errno() == Errno::INTR.raw_os_error() => {}
            Ok(_) => {
                return Err(KvmError::CannotRunGuests {
                    what: "a guest ended in an unexpected way",
                });
            }
            Err(source) => {
                return Err(KvmError::Refused {
                    what: "a processor does not run",
                    source,
                });
            }
        }
    }
    // The memory is alive until here: the VM still refers to it.
    if memory.read_u64(RESULT) != EXPECTED {
        return Err(KvmError::CannotRunGuests {
            what: "a guest computed a wrong result",
        });
    }
    Ok(())
}

/// 64-bit mode with the first GiB mapped to itself, as the boot protocol enters a kernel (Intel
/// SDM vol. 3, 10.8.5: PAE, LME, PG).
fn enter_long_mode(vcpu: &kvm_ioctls::VcpuFd) -> Result<(), kvm_ioctls::Error> {
    const CR0: u64 = 0x8000_0033; // PG, NE, ET, MP, PE
    const CR4: u64 = 0x620; // PAE, OSFXSR, OSXMMEXCPT
    const EFER: u64 = 0x500; // LME, LMA
    let mut sregs = vcpu.get_sregs()?;
    let code = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 8,
        type_: 11,
        present: 1,
        dpl: 0,
        db: 0,
        s: 1,
        l: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let data = kvm_segment {
        selector: 16,
        type_: 3,
        db: 1,
        l: 0,
        ..code
    };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0, PML4, CR4, EFER);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rip: CODE,
        rflags: 2,
        ..kvm_regs::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_name_of_a_group() {
        let text = "root:x:0:\nkvm:x:104:alice\nbad\x1b:x:7:\n::8:\n";
        assert_eq!(group_name_in(text, 104).as_deref(), Some("kvm"));
        assert_eq!(group_name_in(text, 1), None);
        assert_eq!(group_name_in(text, 7), None);
        assert_eq!(group_name_in("garbage", 0), None);
    }

    #[test]
    fn loop_of_the_program_jumps_to_its_beginning() {
        // `jnz` is relative to the instruction after it.
        let after = PROGRAM
            .windows(2)
            .position(|bytes| bytes == [0x75, 0xf3])
            .unwrap()
            + 2;
        let target = after - usize::from(0xf3_u8.wrapping_neg());
        assert_eq!(PROGRAM[target..target + 5], [0x66, 0x48, 0x0f, 0x6e, 0xc9]);
    }

    #[test]
    fn verdict_about_this_machine_comes_in_time() {
        let begun = std::time::Instant::now();
        let verdict = probe_tiny_guest();
        assert!(
            begun.elapsed() < PROBE_LIMIT + Duration::from_secs(2),
            "{verdict:?}"
        );
        println!("this machine: {verdict:?}");
    }

    #[test]
    fn device_that_opens_passes_or_says_why() {
        if fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .open(KVM_DEVICE)
            .is_err()
        {
            assert!(preflight().is_err());
        }
    }
}
