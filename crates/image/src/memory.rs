//! The memory of a pull: what grows with an image takes a share of one budget, in all layers that are made at once.
//!
//! That are the windows of zstd frames, which a decoder must hold, and the trees of layers, from when they are made until they are written.
//! A layer asks for the share of the frame it is about to read, or of its tree, while it holds none, and gives it back before it asks
//! for another: nobody waits while others wait for him. Shares are given in the order they were asked for, so a layer that needs much
//! waits for a bounded time and then runs by itself. What does not grow (buffers, decoders without their windows, the program itself) is
//! not counted; it takes the rest of the 96 MiB. The tree of all layers is made when no other is there, with the whole budget as its room.
//!
//! | what | limit |
//! |---|---|
//! | a file with one name, beside the bytes of the name | 60 bytes; about 34 more for owner and mode no other file has |
//! | files of a layer, and of an image with all its layers (replaced ones counted) | what the budget has room for: 10⁶ with names of 15 bytes on average |
//! | a zstd window | 64 MiB, however many files are behind it |
//! | an image beyond that | refused, naming the layer and the entry |

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

mod allocator;

/// What a pull may take for windows and trees together, in bytes.
pub(crate) const MEMORY_BUDGET: u64 = 72 << 20;

/// What is left of the budget.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
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
pub(crate) struct MemoryShare {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl MemoryBudget {
    /// A budget of [`MEMORY_BUDGET`] bytes. What is given back is free for the system too, from then on.
    pub(crate) fn new() -> Arc<Self> {
        allocator::give_back_what_is_freed();
        Arc::new(Self {
            state: Mutex::new(State {
                free: MEMORY_BUDGET,
                next: 0,
                serving: 0,
            }),
            changed: Condvar::new(),
        })
    }

    /// Waits until `bytes` are free; the caller holds no share. More than the budget is cut to the budget.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> MemoryShare {
        let bytes = bytes.min(MEMORY_BUDGET);
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        while state.serving != number || state.free < bytes {
            self.changed.wait(&mut state);
        }
        state.serving += 1;
        state.free -= bytes;
        self.changed.notify_all();
        MemoryShare {
            budget: Arc::clone(self),
            bytes,
        }
    }
}

impl MemoryShare {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for MemoryShare {
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
        let (budget, held) = (MemoryBudget::new(), Arc::new(AtomicU64::new(0)));
        let threads: Vec<_> = (0..16_u64)
            .map(|number| {
                let (budget, held) = (Arc::clone(&budget), Arc::clone(&held));
                std::thread::spawn(move || {
                    for round in 0..200 {
                        let share = budget.take(1 << (16 + (number + round) % 11));
                        let now = held.fetch_add(share.bytes(), Ordering::SeqCst) + share.bytes();
                        assert!(now <= MEMORY_BUDGET, "{now}");
                        std::thread::yield_now();
                        held.fetch_sub(share.bytes(), Ordering::SeqCst);
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(budget.state.lock().free, MEMORY_BUDGET);
    }

    #[test]
    fn a_large_share_is_not_overtaken_for_ever() {
        let budget = MemoryBudget::new();
        let small = budget.take(1);
        let large = {
            let budget = Arc::clone(&budget);
            std::thread::spawn(move || drop(budget.take(MEMORY_BUDGET)))
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
