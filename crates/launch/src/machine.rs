//! The running virtual machine as the launch sees it: its process, watched without blocking, and its console.

use std::os::fd::OwnedFd;
use std::time::Duration;

use agent_vm_vmm::{ExitReason, Vm, VmExit};
use tokio::io::unix::AsyncFd;

use crate::console::Console;

/// A virtual machine that is killed when this is dropped.
pub(crate) struct Machine {
    vm: Vm,
    pidfd: AsyncFd<OwnedFd>,
    console: Console,
}

/// The virtual machine ended when it should not have.
#[derive(Debug, thiserror::Error)]
#[error("the virtual machine ended: {}", panic.as_deref().map_or_else(|| reason.to_string(), |text| format!("the guest kernel panicked: {text}")))]
pub struct MachineEnded {
    /// Why, as the VMM process reports it.
    pub reason: ExitReason,
    /// What the guest's kernel said when it panicked; escaped.
    pub panic: Option<String>,
    /// The last lines of the console; escaped.
    pub console: Vec<String>,
}

impl Machine {
    /// Watches a started VM. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// When its process cannot be watched.
    pub(crate) fn new(vm: Vm, console: Console) -> std::io::Result<Self> {
        let pidfd = vm.pidfd().try_clone_to_owned()?;
        #[allow(
            deprecated,
            reason = "unsound only for types that may close their descriptor early; OwnedFd does not"
        )]
        let pidfd = AsyncFd::new(pidfd)?;
        Ok(Self { vm, pidfd, console })
    }

    /// What the guest's console said.
    pub(crate) fn console(&self) -> Console {
        self.console.clone()
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended(&mut self) -> VmExit {
        loop {
            if let Some(exit) = self.vm.try_wait() {
                return exit;
            }
            match self.pidfd.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // A process that cannot be watched is waited for in the old way.
                Err(_) => return self.vm.wait(),
            }
        }
    }

    /// Why the machine is gone. Called when the control stream broke: the process ends within `grace` or is killed.
    pub(crate) async fn post_mortem(&mut self, grace: Duration) -> MachineEnded {
        let exit = if let Ok(exit) = tokio::time::timeout(grace, self.ended()).await {
            exit
        } else {
            self.vm.kill();
            self.ended().await
        };
        // The reader of the console runs on this thread: let it see the last bytes.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let panic = self.console.panic_reason();
        MachineEnded {
            reason: exit.reason,
            panic,
            console: self.console.last_lines(),
        }
    }
}
