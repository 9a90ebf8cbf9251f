//! Commands agent-vm starts itself with; hidden, and read before anything else happens.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use agent_vm_launch::session::{TTY_GUARD_COMMAND, tty_guard_main};

use crate::args::{self, Command};
use crate::command_error::UsageError;
use crate::commands::link;
use crate::env_vars::EnvVars;
use crate::launch_request::Context;
use crate::ui::{self, Ui};
use crate::{fail, usage};

/// Runs the internal command of these arguments, if it is one.
pub(crate) fn run(arguments: &[OsString]) -> Option<ExitCode> {
    match arguments.get(1)?.to_str()? {
        agent_vm_vmm::CHILD_COMMAND => agent_vm_vmm::child_main(),
        TTY_GUARD_COMMAND => Some(ExitCode::from(tty_guard_main())),
        "__kvm-probe" => Some(kvm_probe()),
        "__link" => Some(serve_link(&arguments[2..])),
        _ => None,
    }
}

/// Says in one line whether this machine runs guests, by running a tiny one; 0 when it does.
fn kvm_probe() -> ExitCode {
    let (text, code) = match agent_vm_vmm::probe_tiny_guest() {
        Ok(()) => ("KVM runs guests\n".to_owned(), ExitCode::SUCCESS),
        Err(error) => (format!("{error}\n"), ExitCode::FAILURE),
    };
    // The exit code says the same.
    let _ = ui::data(&text);
    code
}

/// `__link SOCKET OPTIONS -- CMD`: the options are those of `shell`, so `--agent` names whom it is set up for.
fn serve_link(arguments: &[OsString]) -> ExitCode {
    let context = Context {
        env: EnvVars::read(),
        started: Instant::now(),
    };
    let ui = Ui::new(&context.env);
    let Some((socket, rest)) = arguments.split_first() else {
        return fail(&UsageError::NoProgram.into(), ui);
    };
    let mut typed: Vec<OsString> = vec!["agent-vm".into(), "shell".into()];
    typed.extend_from_slice(rest);
    let shell = match args::parse(&typed).map(|cli| cli.command) {
        Ok(Command::Shell(shell)) => shell,
        Ok(_) => return fail(&UsageError::NoProgram.into(), ui),
        Err(error) => return usage(&error, ui),
    };
    match link::run(&context, Path::new(socket), &shell) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, ui),
    }
}
