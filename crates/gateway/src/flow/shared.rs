//! What all flows of a gateway share: the dirty list, the pool of stacks, the memory budget.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use super::Flow;
use super::stack::Stack;
use crate::config::{BACKLOG_BUDGET, FLOW_BUFFER, FLOW_FLOOR, MAX_POOLED, POOL_BUDGET};

/// What flows share with the gateway.
#[derive(Debug)]
pub(crate) struct Shared {
    dirty: RefCell<VecDeque<Rc<Flow>>>,
    gateway: RefCell<Option<Waker>>,
    /// Unused stacks, and how many bytes of their buffers were touched.
    pool: RefCell<Vec<(Stack, usize)>>,
    pooled: Cell<usize>,
    backlog: Cell<usize>,
    mtu: u16,
}

impl Shared {
    pub(crate) fn new(mtu: u16) -> Rc<Self> {
        Rc::new(Self {
            dirty: RefCell::default(),
            gateway: RefCell::default(),
            pool: RefCell::default(),
            pooled: Cell::new(0),
            backlog: Cell::new(0),
            mtu,
        })
    }

    /// Remembers whom to wake when a flow becomes dirty.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut slot = self.gateway.borrow_mut();
        match slot.as_mut() {
            Some(known) => known.clone_from(waker),
            None => *slot = Some(waker.clone()),
        }
    }

    /// Wakes the gateway.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.gateway.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// MTU of the link.
    pub(crate) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Adds a flow to the dirty list and wakes the gateway.
    pub(super) fn push_dirty(&self, flow: Rc<Flow>) {
        self.dirty.borrow_mut().push_back(flow);
        self.wake();
    }

    /// A stack of an earlier flow, if one is left, and how many bytes of its buffers were touched.
    pub(super) fn unused_stack(&self) -> Option<(Stack, usize)> {
        let (stack, touched) = self.pool.borrow_mut().pop()?;
        self.pooled.set(self.pooled.get() - touched);
        Some((stack, touched))
    }

    /// Keeps a stack for a later flow, unless there are enough or they hold enough memory.
    pub(super) fn keep_stack(&self, stack: Stack, touched: usize) {
        let mut pool = self.pool.borrow_mut();
        let pooled = self.pooled.get() + touched;
        if pool.len() < MAX_POOLED && pooled <= POOL_BUDGET {
            self.pooled.set(pooled);
            pool.push((stack, touched));
        }
    }

    /// Takes the flow that waits longest for its turn.
    pub(crate) fn next_dirty(&self) -> Option<Rc<Flow>> {
        let flow = self.dirty.borrow_mut().pop_front()?;
        flow.dirty.set(false);
        Some(flow)
    }

    pub(crate) fn dirty_count(&self) -> usize {
        self.dirty.borrow().len()
    }

    /// Raises a reservation to cover `needed` bytes if the budget allows; says whether it does.
    pub(super) fn reserve(&self, reservation: &mut usize, needed: usize) -> bool {
        if needed <= *reservation {
            return true;
        }
        let wanted = needed.next_power_of_two().clamp(FLOW_FLOOR, FLOW_BUFFER);
        let more = wanted.saturating_sub(*reservation);
        if self.backlog.get() + more > BACKLOG_BUDGET {
            return false;
        }
        self.backlog.set(self.backlog.get() + more);
        *reservation = wanted;
        true
    }

    /// Takes a reservation back to what every flow may have.
    pub(super) fn settle(&self, reservation: &mut usize) {
        self.release(*reservation);
        *reservation = FLOW_FLOOR;
    }

    /// Gives a reservation back.
    pub(super) fn release(&self, reservation: usize) {
        self.backlog
            .set(self.backlog.get() - (reservation - FLOW_FLOOR));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_kept_and_comes_back() {
        let shared = Shared::new(1_500);
        let mut reservations = Vec::new();
        loop {
            let mut one = FLOW_FLOOR;
            if !shared.reserve(&mut one, FLOW_BUFFER) {
                break;
            }
            reservations.push(one);
        }
        assert_eq!(
            reservations.len(),
            BACKLOG_BUDGET / (FLOW_BUFFER - FLOW_FLOOR)
        );
        let mut late = FLOW_FLOOR;
        assert!(!shared.reserve(&mut late, FLOW_BUFFER));
        assert!(
            shared.reserve(&mut late, FLOW_FLOOR),
            "the floor is always there"
        );
        shared.settle(&mut reservations[0]);
        assert!(shared.reserve(&mut late, FLOW_BUFFER));
        assert!(!shared.reserve(&mut reservations[0], FLOW_BUFFER));
    }
}
