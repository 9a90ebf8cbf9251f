//! The notice of a newer image. A launch tells what an earlier one found out, and asks the registry while its program runs: nothing is
//! asked before, and nothing waits for the answer.

use std::time::{Duration, SystemTime};

use agent_vm_image::{PullOptions, Reference, Store, UpdateState};
use tokio::sync::oneshot;

use crate::ui::Ui;

/// How long the program has the machine for itself before the registry is asked; longer on slow machines.
const DELAY: Duration = Duration::from_secs(1);

/// A question to be asked once the program runs.
pub(crate) struct UpdateQuestion {
    store: Store,
    reference: Reference,
    options: PullOptions,
    delay: Duration,
}

/// A question being asked; given up, and waited for, when dropped.
pub(crate) struct Asking {
    give_up: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl UpdateQuestion {
    /// Tells what is known, and gives the question if it is time to ask again. Asks no network.
    pub(crate) fn new(
        store: Store,
        reference: Reference,
        options: impl FnOnce() -> Option<PullOptions>,
        timeout_scale: f64,
        ui: Ui,
    ) -> Option<Self> {
        // A store that cannot be read is told by the launch itself.
        match store.update_state(&reference, SystemTime::now()).ok()? {
            UpdateState::Fixed | UpdateState::Current => None,
            UpdateState::Newer(_) => {
                ui.status(&format!(
                    "a newer image is available: `agent-vm pull {reference}` gets it"
                ));
                None
            }
            UpdateState::Unknown => Some(Self {
                store,
                reference,
                options: options()?,
                delay: DELAY.mul_f64(timeout_scale),
            }),
        }
    }

    /// Begins to ask, on a thread of its own.
    pub(crate) fn ask(self) -> Asking {
        let (give_up, given_up) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("update-check".to_owned())
            .spawn(move || self.ask_until(given_up));
        Asking {
            give_up: Some(give_up),
            // Without a thread there is no notice; nothing else depends on it.
            thread: thread.ok(),
        }
    }

    fn ask_until(self, given_up: oneshot::Receiver<()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let Ok(runtime) = runtime else {
            return;
        };
        let ask = async {
            tokio::time::sleep(self.delay).await;
            let now = SystemTime::now();
            // Who cannot be asked today is asked tomorrow; it is nobody's trouble now.
            let _ = self
                .store
                .ask_for_update(&self.reference, &self.options, now)
                .await;
        };
        runtime.block_on(async {
            tokio::select! {
                _ = given_up => {}
                () = ask => {}
            }
        });
        // Name resolution cannot be interrupted; nobody waits for it.
        runtime.shutdown_background();
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        drop(self.give_up.take());
        if let Some(thread) = self.thread.take() {
            // A panic there must not become one here.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
