//! When which flow needs a turn without a packet: a heap of times.
//!
//! A flow is armed with its earliest time only; a later one is found when that fires. Entries of flows that are gone
//! are dropped when they come up, or all at once when they outnumber the living.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::{Rc, Weak};

use smoltcp::time::Instant;

use crate::flow::Flow;

/// Times of flows.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<Timer>>,
}

#[derive(Debug)]
struct Timer {
    at: Instant,
    flow: Weak<Flow>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Timers {
    /// Gives `flow` a turn at `at`, unless it has an earlier one. `living` is the number of flows there are.
    pub(crate) fn arm(&mut self, flow: &Rc<Flow>, at: Instant, living: usize) {
        if flow.armed.get().is_some_and(|armed| armed <= at) {
            return;
        }
        flow.armed.set(Some(at));
        if self.heap.len() > 4 * living + SLACK {
            self.heap.retain(|Reverse(timer)| timer.is_live());
        }
        self.heap.push(Reverse(Timer {
            at,
            flow: Rc::downgrade(flow),
        }));
    }

    /// The next flow whose time has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Rc<Flow>> {
        while let Some(Reverse(timer)) = self.heap.peek() {
            if timer.is_live() && timer.at > now {
                return None;
            }
            let Reverse(timer) = self.heap.pop()?;
            if timer.is_live()
                && let Some(flow) = timer.flow.upgrade()
            {
                flow.armed.set(None);
                return Some(flow);
            }
        }
        None
    }

    /// When the next turn is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(timer)| timer.at)
    }
}

impl Timer {
    fn is_live(&self) -> bool {
        self.flow
            .upgrade()
            .is_some_and(|flow| !flow.over.get() && flow.armed.get() == Some(self.at))
    }
}

/// Entries of gone flows that are not worth cleaning up.
const SLACK: usize = 1_024;
