//! What can be wrong with the machine is found before anything else happens: KVM, the kernel file,
//! memory. A tiny guest runs on a thread of its own while the launch is planned, because a device
//! that opens proves little.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use agent_vm_vmm::{KvmError, preflight, probe_tiny_guest};

use crate::args::ByteSize;
use crate::command_error::{CommandError, UsageError};
use crate::env_vars;
use crate::host_facts::HostFacts;
use crate::kernel_file::{self, KernelMissing};
use crate::launch_request::Context;
use crate::settings::Settings;

/// A machine on which the quick checks passed.
pub(crate) struct Preflight {
    kernel: PathBuf,
    probe: Option<JoinHandle<Result<(), KvmError>>>,
}

impl Preflight {
    /// Compares the memory asked for with what there is, checks the kernel file and `/dev/kvm`, and
    /// starts the tiny guest.
    ///
    /// # Errors
    /// What is missing, with the fix.
    pub(crate) fn start(
        context: &Context,
        settings: &Settings,
        host: &HostFacts,
    ) -> Result<Self, CommandError> {
        check_memory(settings.memory_mib, host)?;
        let kernel =
            kernel_file::locate(context.env.path(env_vars::KERNEL), context.env.program())?;
        preflight()?;
        // Where time runs slowly a fixed limit would refuse a machine that works. Without a thread
        // the probe is left out as well; the launch then tells what is wrong, only later.
        let probe = if settings.timeout_scale > 1.0 {
            None
        } else {
            let thread = std::thread::Builder::new().name("kvm-probe".to_owned());
            thread.spawn(probe_tiny_guest).ok()
        };
        Ok(Self { kernel, probe })
    }

    /// The kernel file.
    pub(crate) fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// Waits for the tiny guest.
    ///
    /// # Errors
    /// When it did not run.
    pub(crate) fn finish(self) -> Result<(), CommandError> {
        match self.probe.map(JoinHandle::join) {
            Some(Ok(result)) => Ok(result?),
            // A panic of the probe says nothing about the machine.
            Some(Err(_)) | None => Ok(()),
        }
    }
}

/// Where the kernel is, or would be: for a plan that is only shown.
pub(crate) fn kernel_for_plan(context: &Context) -> PathBuf {
    match kernel_file::locate(context.env.path(env_vars::KERNEL), context.env.program()) {
        Ok(path)
        | Err(KernelMissing::Named { path } | KernelMissing::NotInstalled { expected: path }) => {
            path
        }
    }
}

fn check_memory(memory_mib: u32, host: &HostFacts) -> Result<(), UsageError> {
    match host.available_mib {
        Some(available) if u64::from(memory_mib) > available => Err(UsageError::Memory {
            asked: ByteSize::from_mib(memory_mib.into()),
            available: ByteSize::from_mib(available),
        }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_larger_than_available_is_refused() {
        let host = |available_mib| HostFacts {
            available_mib,
            processors: 1,
        };
        assert!(check_memory(2048, &host(Some(2048))).is_ok());
        assert!(check_memory(2048, &host(None)).is_ok());
        let error = check_memory(4096, &host(Some(2048))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the machine needs 4GiB of memory, this host has 2GiB available"
        );
    }
}
