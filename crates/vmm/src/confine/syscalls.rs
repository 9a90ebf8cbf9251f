//! The system calls the virtual machine makes, and nothing else: any other one kills the process
//! (SIGSYS), so that a gap shows in tests and an intruder does not get a second try.
//!
//! Not among them: every way to make a socket, start a program, map executable memory, signal or
//! trace another process, change identity or mounts. `clone3` answers "not there", because its
//! flags cannot be looked at; the C library then uses `clone`, which may make threads only.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Allowed whatever their arguments are.
const PLAIN: &[i64] = &[
    // Descriptors, waiting, time.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    // The sockets it has: read, write, close one half. `recvmsg` and `sendmsg`, which carry
    // descriptors, are not among them.
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    // Threads, memory, signals of this process.
    libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    // Files of disks and shares; which ones is Landlock's business.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_statfs,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_copy_file_range,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_utimensat,
    libc::SYS_getxattr,
    libc::SYS_fgetxattr,
    libc::SYS_lgetxattr,
    libc::SYS_setxattr,
    libc::SYS_fsetxattr,
    libc::SYS_lsetxattr,
    libc::SYS_listxattr,
    libc::SYS_flistxattr,
    libc::SYS_llistxattr,
    libc::SYS_removexattr,
    libc::SYS_fremovexattr,
    libc::SYS_lremovexattr,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
];

/// `fcntl` commands: flags, duplication, and locks on disk images.
const FCNTL: &[i32] = &[
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_DUPFD_CLOEXEC,
    libc::F_OFD_GETLK,
    libc::F_OFD_SETLK,
];
/// `prctl` commands: names of threads and of memory.
const PRCTL: &[i32] = &[libc::PR_SET_NAME, libc::PR_SET_VMA];
/// The `ioctl` type of KVM (linux/kvm.h, `KVMIO`), in the second byte of a request.
const KVM_REQUESTS: u64 = 0xae00;
/// Other `ioctl` requests: non-blocking mode, and the harmless question whether this is a terminal.
const IOCTL: &[u64] = &[0x5421, 0x5401];
/// `ENOSYS`.
const NO_SUCH_CALL: u32 = 38;

/// Why the filter is not in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("no filter for this processor: {0}")]
    Build(#[from] BackendError),
    #[error("{0}")]
    Apply(#[from] seccompiler::Error),
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Applies the filter to this thread and all it will start.
pub(crate) fn restrict() -> Result<(), FilterError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    for program in programs(architecture, std::process::id())? {
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}

/// The filters in the order they are applied; the kernel obeys the strictest answer.
fn programs(architecture: TargetArch, pid: u32) -> Result<[BpfProgram; 2], BackendError> {
    let hidden = SeccompFilter::new(
        Rules::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(NO_SUCH_CALL),
        architecture,
    )?;
    let mut rules: Rules = PLAIN.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_clone3, Vec::new());
    rules.extend(conditional(pid)?);
    let allowed = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        architecture,
    )?;
    Ok([hidden.try_into()?, allowed.try_into()?])
}

/// Allowed with certain arguments only.
fn conditional(pid: u32) -> Result<Rules, BackendError> {
    let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
    let executable = libc::PROT_EXEC as u64;
    let mut ioctls = equal_to_any(1, IOCTL.iter().copied())?;
    ioctls.push(one(1, Len::Dword, Op::MaskedEq(0xff00), KVM_REQUESTS)?);
    Ok(Rules::from([
        (
            libc::SYS_clone,
            vec![one(0, Len::Qword, Op::MaskedEq(thread), thread)?],
        ),
        (
            libc::SYS_mmap,
            vec![one(2, Len::Qword, Op::MaskedEq(executable), 0)?],
        ),
        (
            libc::SYS_mprotect,
            vec![one(2, Len::Qword, Op::MaskedEq(executable), 0)?],
        ),
        (
            libc::SYS_tgkill,
            vec![one(0, Len::Dword, Op::Eq, pid.into())?],
        ),
        // No address: only to the other end of a connected pair.
        (libc::SYS_sendto, vec![one(4, Len::Qword, Op::Eq, 0)?]),
        (
            libc::SYS_fcntl,
            equal_to_any(
                1,
                FCNTL
                    .iter()
                    .map(|command| u64::from(command.cast_unsigned())),
            )?,
        ),
        (
            libc::SYS_prctl,
            equal_to_any(
                0,
                PRCTL
                    .iter()
                    .map(|command| u64::from(command.cast_unsigned())),
            )?,
        ),
        (libc::SYS_ioctl, ioctls),
    ]))
}

fn one(argument: u8, len: Len, operator: Op, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, len, operator, value)?])
}

fn equal_to_any(
    argument: u8,
    values: impl Iterator<Item = u64>,
) -> Result<Vec<SeccompRule>, BackendError> {
    values
        .map(|value| one(argument, Len::Dword, Op::Eq, value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_build_for_both_architectures() {
        for architecture in [TargetArch::x86_64, TargetArch::aarch64] {
            let programs = programs(architecture, 1).unwrap();
            // The kernel takes at most 4096 instructions (BPF_MAXINSNS).
            assert!(
                programs
                    .iter()
                    .all(|program| !program.is_empty() && program.len() < 4096)
            );
        }
    }

    #[test]
    fn nothing_that_makes_sockets_programs_or_descriptors_of_others() {
        let conditional = conditional(1).unwrap();
        for call in [
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_sendmsg,
            libc::SYS_recvmsg,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_kill,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_pidfd_getfd,
            libc::SYS_setuid,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_io_uring_setup,
            libc::SYS_bpf,
            libc::SYS_chroot,
            libc::SYS_memfd_create,
        ] {
            assert!(
                !PLAIN.contains(&call) && !conditional.contains_key(&call),
                "{call}"
            );
        }
    }

    #[test]
    fn no_call_is_both_plain_and_conditional() {
        for call in conditional(1).unwrap().keys() {
            assert!(!PLAIN.contains(call), "{call}");
        }
    }
}
