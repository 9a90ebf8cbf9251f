//! All unsafe code of the guest: calls that neither `std` nor `rustix` offers as safe functions.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;

use agent_vm_protocol::GUEST_SOCKET_BUFFER;
use rustix::ioctl::{Opcode, Setter, opcode};

/// A program to start, prepared so that the child allocates nothing between `fork` and `execve`.
pub struct Program {
    /// Executables to try, in order.
    pub candidates: Vec<CString>,
    /// Arguments, the first is the program's name.
    pub argv: Vec<CString>,
    /// `NAME=value` each.
    pub env: Vec<CString>,
    /// Runs in the child before `execve`, as root; must only make system calls.
    pub prepare: Box<dyn FnMut() -> io::Result<()> + Send + Sync>,
}

/// NULL-terminated vector of C strings whose pointers stay valid as long as it lives.
struct PointerList {
    pointers: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

impl PointerList {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([ptr::null()])
            .collect();
        Self {
            pointers,
            _strings: strings,
        }
    }
}

// SAFETY: the pointers lead into the heap blocks owned by `_strings`, which are never changed.
unsafe impl Send for PointerList {}
// SAFETY: as above, only reads happen.
unsafe impl Sync for PointerList {}

/// Starts `program` with the standard streams of `command`. The error carries `errno` of what failed in the child.
///
/// # Errors
/// `fork`, the preparation, or `execve` of every candidate failed; of the last, `EACCES` outweighs `ENOENT`.
pub fn spawn(command: &mut Command, program: Program) -> io::Result<Child> {
    let argv = PointerList::new(program.argv);
    let env = PointerList::new(program.env);
    let candidates = program.candidates;
    let mut prepare = program.prepare;
    let run = move || {
        unblock_all_signals()?;
        prepare()?;
        Err(exec_first(&candidates, &argv, &env))
    };
    // SAFETY: after fork the closure only makes system calls on memory prepared before; it does not allocate or lock.
    unsafe { command.pre_exec(run) };
    command.spawn()
}

fn exec_first(candidates: &[CString], argv: &PointerList, env: &PointerList) -> io::Error {
    let mut worst = libc::ENOENT;
    for path in candidates {
        // SAFETY: `path` is a C string; both lists end with NULL and hold pointers to live C strings.
        unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
        let errno = io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        match errno {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = errno,
            other => return io::Error::from_raw_os_error(other),
        }
    }
    io::Error::from_raw_os_error(worst)
}

fn unblock_all_signals() -> io::Result<()> {
    let set = empty_signal_set();
    // SAFETY: `set` is an initialised signal set; a null old set is allowed.
    let result = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn empty_signal_set() -> libc::sigset_t {
    // SAFETY: a signal set is plain bits; all zero is a valid (empty) one.
    unsafe { std::mem::zeroed() }
}

/// Blocks SIGCHLD for this thread and gives a descriptor that becomes readable when one is pending.
///
/// # Errors
/// The kernel's.
pub fn child_signal() -> io::Result<OwnedFd> {
    let mut set = empty_signal_set();
    // SAFETY: `set` is an initialised signal set.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    // SAFETY: `set` is initialised; a null old set is allowed.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    // SAFETY: `set` is initialised; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `linux/vm_sockets.h`.
const SO_VM_SOCKETS_BUFFER_SIZE: libc::c_int = 0;
/// `linux/vm_sockets.h`.
const SO_VM_SOCKETS_BUFFER_MAX_SIZE: libc::c_int = 2;

fn set_vsock_option(socket: &OwnedFd, option: libc::c_int, value: u64) -> io::Result<()> {
    let pointer = (&raw const value).cast::<libc::c_void>();
    let length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `pointer` leads to `length` readable bytes, which both options are.
    if unsafe { libc::setsockopt(socket.as_raw_fd(), libc::AF_VSOCK, option, pointer, length) } != 0
    {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Connects to `port` of the host (CID 2) over vsock, waiting until it is connected.
///
/// # Errors
/// The kernel's: `ETIMEDOUT` after 2 s when nothing answers, `ECONNRESET` when refused.
pub fn connect_to_host(port: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let raw = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave this descriptor to us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    for option in [SO_VM_SOCKETS_BUFFER_MAX_SIZE, SO_VM_SOCKETS_BUFFER_SIZE] {
        set_vsock_option(&socket, option, GUEST_SOCKET_BUFFER)?;
    }
    // SAFETY: the address is plain integers; all zero is valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = libc::VMADDR_CID_HOST;
    address.svm_port = port;
    let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    let pointer = (&raw const address).cast::<libc::sockaddr>();
    // SAFETY: `pointer` leads to `length` bytes of an initialised address of its family.
    if unsafe { libc::connect(socket.as_raw_fd(), pointer, length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Grows the mounted ext4 file system `mount` to `blocks` file system blocks (`EXT4_IOC_RESIZE_FS`).
///
/// # Errors
/// The kernel's; the file system stays usable at its old size.
pub fn ext4_resize(mount: impl AsFd, blocks: u64) -> io::Result<()> {
    const EXT4_IOC_RESIZE_FS: Opcode = opcode::write::<u64>(b'f', 16);
    // SAFETY: this opcode reads one u64, as `Setter` passes it.
    let request = unsafe { Setter::<EXT4_IOC_RESIZE_FS, u64>::new(blocks) };
    // SAFETY: the request is the one defined above; on a descriptor that does not know it the kernel gives ENOTTY.
    Ok(unsafe { rustix::ioctl::ioctl(mount, request) }?)
}
