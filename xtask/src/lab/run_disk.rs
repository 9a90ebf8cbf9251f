//! The disk of one run, mounted on `/usr/local` in the emulated host: our programs, the script and `--files`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{LabArguments, Programs, TIMEOUT_SCALE, pulse};
use crate::shell;

const HOST_SCRIPT: &str = include_str!("host.sh");

/// Free room on the disk beyond what it is filled with, in KiB.
const SLACK_KIB: u64 = 64 * 1024;

/// Name of the disk's file in the directory of the run.
pub(crate) const FILE: &str = "run.ext4";

/// Makes the disk in `directory`.
///
/// # Errors
/// When a program or directory cannot be read, or two directories have one name.
pub(crate) fn make(directory: &Path, arguments: &LabArguments, programs: &Programs) -> Result<()> {
    let stage = directory.join("local");
    let lab = stage.join("lab");
    fs_err::create_dir_all(lab.join("files"))?;
    fs_err::create_dir_all(stage.join("bin"))?;
    fs_err::create_dir_all(stage.join("lib/agent-vm"))?;
    if let Some(agent_vm) = &programs.agent_vm {
        copy(agent_vm, &stage.join("bin/agent-vm"))?;
    }
    if let Some(kernel) = &programs.kernel {
        copy(kernel, &stage.join("lib/agent-vm/libkrunfw.so"))?;
    }
    for source in &arguments.files {
        let name = fs_err::canonicalize(source)?;
        let name = name
            .file_name()
            .context("--files needs a directory with a name")?;
        let target = lab.join("files").join(name);
        if target.exists() {
            bail!("--files names two directories {}", name.display());
        }
        copy(source, &target)?;
        // Every user of the emulated host may read them, whatever they were here.
        shell::output(
            Command::new("chmod")
                .args(["-R", "a+rX", "--"])
                .arg(&target),
        )?;
    }
    fs_err::write(lab.join("script.sh"), arguments.script.join(" "))?;
    fs_err::write(lab.join("run.env"), environment(arguments))?;
    fs_err::write(lab.join("host.sh"), HOST_SCRIPT)?;
    shell::run(
        shell::tool("chmod")
            .args(["0755", "host.sh"])
            .current_dir(&lab),
    )?;
    file_system(&stage, &directory.join(FILE))
}

fn environment(arguments: &LabArguments) -> String {
    let (user, home) = if arguments.root {
        ("root", "/root")
    } else {
        ("user", "/home/user")
    };
    let out = if arguments.out.is_some() { "1" } else { "" };
    // Counted instructions are for measuring: nothing else runs there.
    let pulse = if arguments.icount {
        String::new()
    } else {
        pulse::INTERVAL.as_secs().to_string()
    };
    format!(
        "LAB_USER={user}\nLAB_HOME={home}\nLAB_OUT={out}\nLAB_PULSE={pulse}\nLAB_TIMEOUT_SCALE={TIMEOUT_SCALE}\n"
    )
}

/// Copies a file or tree with its links, modes and times; owners stay when we may set them.
fn copy(source: &Path, target: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command
        .args(["-a", "--reflink=auto", "--"])
        .arg(source)
        .arg(target);
    shell::output(&mut command).map(drop)
}

fn file_system(stage: &Path, disk: &Path) -> Result<()> {
    let used = shell::output(Command::new("du").args(["-sk", "--"]).arg(stage))?;
    let used: u64 = used.split_whitespace().next().unwrap_or_default().parse()?;
    let size = used + used / 8 + SLACK_KIB;
    let mut command = shell::tool("mke2fs");
    command
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0"])
        .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", "-d"])
        .args([stage, disk])
        .arg(format!("{size}k"));
    shell::output(&mut command)?;
    fs_err::remove_dir_all(stage)?;
    Ok(())
}
