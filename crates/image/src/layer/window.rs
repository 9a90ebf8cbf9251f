//! The memory of zstd windows: all layers that are decoded at once share one budget.
//!
//! A frame says how far back its references reach, and a decoder must hold that much. A decoder asks for the share of the frame it is
//! about to read while it holds none, and gives it back before it asks for a larger one: nobody waits while others wait for him. Shares
//! are given in the order they were asked for, so a layer with a large window waits for a bounded time and then runs by itself.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// All windows of a pull together, in bytes: one of the largest that is read (`zstd -21`, `--long=26`), or eight of 8 MiB, which is what
/// `zstd -19` makes.
pub(super) const WINDOW_BUDGET: u64 = 1 << 26;

/// What is left of the budget.
#[derive(Debug)]
pub(crate) struct WindowBudget {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: u64,
    /// Number of the next who asks, and of the next who is served.
    next: u64,
    serving: u64,
}

/// A part of the budget, given back on drop.
#[derive(Debug)]
pub(super) struct WindowShare {
    budget: Arc<WindowBudget>,
    bytes: u64,
}

impl WindowBudget {
    /// A budget of [`WINDOW_BUDGET`] bytes.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                free: WINDOW_BUDGET,
                next: 0,
                serving: 0,
            }),
            changed: Condvar::new(),
        })
    }

    /// Waits until `bytes` are free; the caller holds no share. More than the budget is cut to the budget.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> WindowShare {
        let bytes = bytes.min(WINDOW_BUDGET);
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        while state.serving != number || state.free < bytes {
            self.changed.wait(&mut state);
        }
        state.serving += 1;
        state.free -= bytes;
        self.changed.notify_all();
        WindowShare {
            budget: Arc::clone(self),
            bytes,
        }
    }
}

impl WindowShare {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for WindowShare {
    fn drop(&mut self) {
        self.budget.state.lock().free += self.bytes;
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn shares_never_exceed_the_budget_and_everybody_gets_one() {
        let (budget, held) = (WindowBudget::new(), Arc::new(AtomicU64::new(0)));
        let threads: Vec<_> = (0..16_u64)
            .map(|number| {
                let (budget, held) = (Arc::clone(&budget), Arc::clone(&held));
                std::thread::spawn(move || {
                    for round in 0..200 {
                        let share = budget.take(1 << (16 + (number + round) % 11));
                        let now = held.fetch_add(share.bytes(), Ordering::SeqCst) + share.bytes();
                        assert!(now <= WINDOW_BUDGET, "{now}");
                        std::thread::yield_now();
                        held.fetch_sub(share.bytes(), Ordering::SeqCst);
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(budget.state.lock().free, WINDOW_BUDGET);
    }

    #[test]
    fn a_large_share_is_not_overtaken_for_ever() {
        let budget = WindowBudget::new();
        let small = budget.take(1);
        let large = {
            let budget = Arc::clone(&budget);
            std::thread::spawn(move || drop(budget.take(WINDOW_BUDGET)))
        };
        while budget.state.lock().next < 2 {
            std::thread::yield_now();
        }
        let later = {
            let budget = Arc::clone(&budget);
            std::thread::spawn(move || drop(budget.take(1)))
        };
        while budget.state.lock().next < 3 {
            std::thread::yield_now();
        }
        assert_eq!(
            budget.state.lock().serving,
            1,
            "who came later waits behind the large one"
        );
        drop(small);
        large.join().unwrap();
        later.join().unwrap();
    }
}
