//! Starts a program: user, directory, search path, streams, session.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use agent_vm_protocol::{Exec, ExecFailure, ExecFailureKind, OutputStream, Tty};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::program::Program;
use super::streams::Output;
use crate::sys;
use crate::users::{self, Identity};

/// Search path of a program without `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Group that owns terminals (`tty`), as every distribution numbers it.
const TTY_GROUP: u32 = 5;

/// The program's ends of its streams, and ours.
struct Streams {
    theirs: [OwnedFd; 3],
    input: OwnedFd,
    outputs: Vec<Output>,
    terminal: Option<OwnedFd>,
}

/// Starts `exec`; the program runs when this returns.
pub(super) fn start(exec: &Exec, max_open_files: u64) -> Result<Program, ExecFailure> {
    let identity = identity(exec)?;
    let cwd = open_directory(exec)?;
    let name = exec.argv.first().filter(|name| !name.is_empty());
    let name =
        name.ok_or_else(|| failure(ExecFailureKind::Invalid, "there is no program to start"))?;
    let streams = match &exec.tty {
        Some(tty) => terminal(tty, &identity),
        None => pipes(&identity),
    };
    let streams = streams.map_err(|error| system("cannot make its streams", &error))?;
    let program = sys::Program {
        candidates: c_strings(candidates(name, exec))?,
        argv: c_strings(exec.argv.iter().cloned())?,
        env: c_strings(environment(exec, &identity))?,
        prepare: Box::new(preparation(
            identity,
            cwd,
            max_open_files,
            streams.terminal.is_some(),
        )),
    };
    let [stdin, stdout, stderr] = streams.theirs;
    // PID 1 has no other way to start programs; `prepare` and `execve` in `sys` replace the standard behaviour.
    #[expect(
        clippy::disallowed_methods,
        reason = "the guest is not the host: it starts what the session asks for"
    )]
    let mut command = Command::new("/");
    command
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr));
    let child = sys::spawn(&mut command, program).map_err(|error| exec_failure(name, &error))?;
    drop(command);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid =
        pid.ok_or_else(|| failure(ExecFailureKind::System, "its process id is out of range"))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(|errno| system("cannot watch it", &errno.into()))?;
    let program = Program::new(exec.id, pid, pidfd, streams.input, streams.outputs);
    Ok(match streams.terminal {
        Some(master) => program.with_terminal(master),
        None => program,
    })
}

fn identity(exec: &Exec) -> Result<Identity, ExecFailure> {
    let read = |path| read_account_file(path).unwrap_or_default();
    users::resolve(&exec.user, &read("/etc/passwd"), &read("/etc/group"))
        .map_err(|error| failure(ExecFailureKind::User, &error.to_string()))
}

fn read_account_file(path: &str) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    io::Read::read_to_end(&mut std::fs::File::open(path)?, &mut content)?;
    Ok(content)
}

fn open_directory(exec: &Exec) -> Result<OwnedFd, ExecFailure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(exec.cwd.as_bytes(), flags, Mode::empty()).map_err(|errno| {
        let message = format!(
            "cannot enter the working directory {}: {}",
            exec.cwd,
            io::Error::from(errno)
        );
        ExecFailure {
            kind: ExecFailureKind::Directory,
            message,
        }
    })
}

/// Runs in the child as root: session, terminal, limits, directory, user. Only system calls.
fn preparation(
    identity: Identity,
    cwd: OwnedFd,
    max_open_files: u64,
    terminal: bool,
) -> impl FnMut() -> io::Result<()> + Send + Sync {
    let groups: Vec<_> = identity
        .groups
        .iter()
        .map(|gid| rustix::process::Gid::from_raw(*gid))
        .collect();
    let uid = rustix::process::Uid::from_raw(identity.uid);
    let gid = rustix::process::Gid::from_raw(identity.gid);
    move || {
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        rustix::process::umask(Mode::from_raw_mode(0o022));
        raise_open_files(max_open_files);
        rustix::process::fchdir(&cwd)?;
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_groups(&groups)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        } else if rustix::process::geteuid() != uid {
            return Err(io::Error::from(rustix::io::Errno::PERM));
        }
        Ok(())
    }
}

fn raise_open_files(limit: u64) {
    let both = |value| Rlimit {
        current: value,
        maximum: value,
    };
    if rustix::process::setrlimit(Resource::Nofile, both(Some(limit))).is_err() {
        let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
        // Without the right to raise it, the hard limit is the best there is.
        let _ = rustix::process::setrlimit(Resource::Nofile, both(hard));
    }
}

fn candidates(name: &[u8], exec: &Exec) -> Vec<Vec<u8>> {
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    let path = exec
        .env
        .iter()
        .find(|(key, _)| key == b"PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value);
    let directories = path.split(|byte| *byte == b':');
    directories
        .map(|directory| {
            if directory.is_empty() {
                b"."
            } else {
                directory
            }
        })
        .map(|d| [d, b"/", name].concat())
        .collect()
}

fn environment(exec: &Exec, identity: &Identity) -> Vec<Vec<u8>> {
    let mut env: Vec<Vec<u8>> = exec
        .env
        .iter()
        .map(|(name, value)| [name, &b"="[..], value].concat())
        .collect();
    let mut add = |name: &[u8], value: Option<&[u8]>| {
        let missing = !exec.env.iter().any(|(key, _)| key == name);
        if let Some(value) = value.filter(|_| missing) {
            env.push([name, b"=", value].concat());
        }
    };
    add(b"HOME", identity.home.as_deref());
    add(b"TERM", exec.tty.as_ref().map(|tty| tty.term.as_slice()));
    env
}

fn c_strings(strings: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<CString>, ExecFailure> {
    let nul = |_| {
        failure(
            ExecFailureKind::Invalid,
            "an argument or variable contains a NUL byte",
        )
    };
    strings
        .into_iter()
        .map(|bytes| CString::new(bytes).map_err(nul))
        .collect()
}

fn pipes(identity: &Identity) -> io::Result<Streams> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (stdin, input) = pipe()?;
    let (out, stdout) = pipe()?;
    let (err, stderr) = pipe()?;
    for fd in [&input, &out, &err] {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    // So that the program can open /dev/stdin, /dev/stdout and /dev/stderr.
    for fd in [&stdin, &stdout, &stderr] {
        give_to(fd, identity.uid, identity.gid)?;
    }
    let outputs = vec![
        Output::new(OutputStream::Stdout, out),
        Output::new(OutputStream::Stderr, err),
    ];
    Ok(Streams {
        theirs: [stdin, stdout, stderr],
        input,
        outputs,
        terminal: None,
    })
}

fn terminal(tty: &Tty, identity: &Identity) -> io::Result<Streams> {
    let master =
        rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    let size = Winsize {
        ws_row: tty.size.rows,
        ws_col: tty.size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    give_to(&slave, identity.uid, TTY_GROUP)?;
    let theirs = [slave.try_clone()?, slave.try_clone()?, slave];
    let outputs = vec![Output::new(OutputStream::Stdout, master.try_clone()?)];
    Ok(Streams {
        theirs,
        input: master.try_clone()?,
        outputs,
        terminal: Some(master),
    })
}

fn give_to(fd: &OwnedFd, uid: u32, gid: u32) -> io::Result<()> {
    if uid == 0 || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(uid),
        rustix::fs::Gid::from_raw(gid),
    );
    Ok(rustix::fs::fchown(fd, Some(uid), Some(gid))?)
}

fn exec_failure(name: &[u8], error: &io::Error) -> ExecFailure {
    let name = String::from_utf8_lossy(name);
    let kind = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => ExecFailureKind::NotFound,
        Some(
            libc::EACCES
            | libc::ENOEXEC
            | libc::EISDIR
            | libc::ELOOP
            | libc::ETXTBSY
            | libc::ELIBBAD,
        ) => ExecFailureKind::NotExecutable,
        Some(libc::E2BIG | libc::ENAMETOOLONG) => ExecFailureKind::Invalid,
        _ => ExecFailureKind::System,
    };
    ExecFailure {
        kind,
        message: format!("cannot execute {name}: {error}"),
    }
}

fn failure(kind: ExecFailureKind, message: &str) -> ExecFailure {
    ExecFailure {
        kind,
        message: message.to_owned(),
    }
}

fn system(what: &str, error: &io::Error) -> ExecFailure {
    ExecFailure {
        kind: ExecFailureKind::System,
        message: format!("{what}: {error}"),
    }
}
