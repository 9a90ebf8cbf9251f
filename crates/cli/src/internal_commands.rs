//! Commands agent-vm starts itself with; hidden, and read before anything else happens.

use std::ffi::OsString;
use std::process::ExitCode;

use agent_vm_launch::session::{TTY_GUARD_COMMAND, tty_guard_main};

use crate::ui;

/// Runs the internal command of these arguments, if it is one.
pub(crate) fn run(arguments: &[OsString]) -> Option<ExitCode> {
    match arguments.get(1)?.to_str()? {
        agent_vm_vmm::CHILD_COMMAND => agent_vm_vmm::child_main(),
        TTY_GUARD_COMMAND => Some(ExitCode::from(tty_guard_main())),
        "__kvm-probe" => Some(kvm_probe()),
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
