//! One boot of the emulated host: QEMU's arguments, what the script prints while it runs, and how it ended.

use std::io::{Read as _, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::base::Base;
use super::pulse::Pulse;
use super::{Attempt, Ending, LabArguments, Loss, run_disk};
use crate::shell;

/// How often new output is passed on.
const POLL: Duration = Duration::from_millis(20);

/// Ports of the virtual serial device; each leads to a file of that name in the directory of the run.
const PORTS: &[&str] = &["stdout", "stderr", "status", "out", "pulse"];

/// How many lines of the kernel's log are shown when the emulated host dies.
const CONSOLE_LINES: usize = 60;

/// Boots and waits, passing on what the script prints.
///
/// # Errors
/// When QEMU cannot be started.
pub(crate) fn run(
    base: &Base,
    directory: &Path,
    arguments: &LabArguments,
    stdout: &mut dyn Write,
) -> Result<Attempt> {
    // Names within the directory: QEMU's option syntax gives commas in paths a meaning.
    symlink(&base.kernel, directory.join("kernel"))?;
    symlink(&base.initramfs, directory.join("initramfs"))?;
    symlink(&base.disk, directory.join("userland.ext4"))?;
    for port in PORTS {
        fs_err::write(directory.join(port), "")?;
    }
    let mut stdout = Tail::open(&directory.join("stdout"), stdout)?;
    let mut stderr = Tail::open(&directory.join("stderr"), std::io::stderr())?;
    let mut child = command(directory, arguments)
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let mut pulse = Tail::open(&directory.join("pulse"), Pulse::new(arguments.smp))?;
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    loop {
        let ended = child.try_wait()?;
        stdout.pass_on()?;
        stderr.pass_on()?;
        pulse.pass_on()?;
        if ended.is_some() {
            break;
        }
        if let Some(processor) = pulse.to.lost(Instant::now()) {
            end(&mut child)?;
            return Ok(Attempt::Lost(Loss::Stalled { processor }));
        }
        if Instant::now() > deadline {
            end(&mut child)?;
            return Ok(Attempt::Ended(Ending::TimedOut));
        }
        std::thread::sleep(POLL);
    }
    let status = fs_err::read_to_string(directory.join("status"))?;
    Ok(match parse_status(&status) {
        Some(ending) => Attempt::Ended(ending),
        None => Attempt::Lost(Loss::Died {
            console: console_tail(directory),
        }),
    })
}

fn command(directory: &Path, arguments: &LabArguments) -> Command {
    // The emulated host ends with us, however we end.
    let mut command = shell::tool("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
    let (accelerator, processor) = if arguments.icount {
        command.args(["-icount", "shift=0,sleep=off"]);
        ("tcg,thread=single", "max,svm=on,-xsave")
    } else {
        ("tcg,thread=multi", "max,svm=on")
    };
    let without = arguments
        .without
        .iter()
        .map(|feature| format!(",-{feature}"));
    let processor = format!("{processor}{}", without.collect::<String>());
    command
        .current_dir(directory)
        .env("TMPDIR", directory)
        .args(["-accel", accelerator, "-cpu", &processor])
        .args(["-smp", &arguments.smp.to_string(), "-m", &arguments.mem])
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-nic",
            "none",
        ])
        .args(["-kernel", "kernel", "-initrd", "initramfs"])
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off nokaslr",
        ])
        .args(["-serial", "file:console"])
        .args([
            "-drive",
            "if=virtio,format=raw,file=userland.ext4,snapshot=on",
        ])
        .args([
            "-drive",
            &format!("if=virtio,format=raw,file={},snapshot=on", run_disk::FILE),
        ])
        .args(["-device", "virtio-serial-pci"]);
    for port in PORTS {
        command
            .args(["-chardev", &format!("file,id={port},path={port}")])
            .args([
                "-device",
                &format!("virtserialport,chardev={port},name={port}"),
            ]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn end(child: &mut Child) -> Result<()> {
    child.kill().context("cannot end qemu")?;
    child.wait()?;
    Ok(())
}

/// Passes on what is appended to a file.
struct Tail<W> {
    file: fs_err::File,
    to: W,
}

impl<W: Write> Tail<W> {
    fn open(path: &Path, to: W) -> Result<Self> {
        Ok(Self {
            file: fs_err::File::open(path)?,
            to,
        })
    }

    fn pass_on(&mut self) -> Result<()> {
        let mut buffer = [0; 64 * 1024];
        loop {
            let count = self.file.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.to.write_all(&buffer[..count])?;
            self.to.flush()?;
        }
    }
}

/// Reads `up SECONDS exit STATUS`.
fn parse_status(text: &str) -> Option<Ending> {
    let words: Vec<_> = text.split_whitespace().collect();
    let ["up", seconds, "exit", status] = words[..] else {
        return None;
    };
    let boot = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
    Some(Ending::Exited {
        status: status.parse().ok()?,
        boot,
    })
}

fn console_tail(directory: &Path) -> String {
    let console = fs_err::read(directory.join("console")).unwrap_or_default();
    let console = String::from_utf8_lossy(&console).replace('\r', "");
    let lines: Vec<_> = console.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_status_only_when_it_is_whole() {
        let boot = Duration::from_millis(3_500);
        assert_eq!(
            parse_status("up 3.50 exit 7\n"),
            Some(Ending::Exited { status: 7, boot })
        );
        for broken in [
            "",
            "up 3.50",
            "up 3.50 exit",
            "up x exit 0",
            "up 1 exit 256",
            "up -1 exit 0",
        ] {
            assert_eq!(parse_status(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn passes_on_what_is_appended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stdout");
        fs_err::write(&path, "one\n").unwrap();
        let mut tail = Tail::open(&path, Vec::new()).unwrap();
        tail.pass_on().unwrap();
        let mut more = fs_err::OpenOptions::new().append(true).open(&path).unwrap();
        more.write_all(b"two\n").unwrap();
        tail.pass_on().unwrap();
        assert_eq!(tail.to, b"one\ntwo\n");
    }
}
