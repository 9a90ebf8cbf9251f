//! Datagrams between one port of the guest and one address and port outside, and echo requests of one program to one
//! address: what waits for the far end, and all there are.
//!
//! A flow begins with the guest's first datagram, which waits in it while the handler decides, and ends when its consumer
//! lets go of it ([`GuestDatagrams`](crate::GuestDatagrams)). What finds no room is dropped, as on any network.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::config::{
    DATAGRAM_BUDGET, MAX_DATAGRAM_FLOWS, MAX_FLOW_DATAGRAM_BYTES, MAX_FLOW_DATAGRAMS,
};
use crate::flow::FlowKey;
use crate::handler::DatagramKind;

/// Which flow. Of an echo request the guest's port is its identifier, the other port is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct DatagramKey {
    pub(crate) kind: DatagramKind,
    pub(crate) ends: FlowKey,
}

/// One flow.
#[derive(Debug)]
pub(crate) struct DatagramFlow {
    pub(crate) key: DatagramKey,
    waiting: RefCell<VecDeque<Vec<u8>>>,
    bytes: Cell<usize>,
    all: Rc<Cell<usize>>,
    waker: RefCell<Option<Waker>>,
}

impl DatagramFlow {
    /// Keeps a datagram for the far end, or drops it when there is no room.
    pub(crate) fn push(&self, payload: &[u8]) {
        let mut waiting = self.waiting.borrow_mut();
        let (own, all) = (
            self.bytes.get() + payload.len(),
            self.all.get() + payload.len(),
        );
        let full = waiting.len() >= MAX_FLOW_DATAGRAMS;
        if full || own > MAX_FLOW_DATAGRAM_BYTES || all > DATAGRAM_BUDGET {
            return;
        }
        self.bytes.set(own);
        self.all.set(all);
        waiting.push_back(payload.to_vec());
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The datagram that waits longest.
    pub(crate) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Vec<u8>> {
        if let Some(payload) = self.waiting.borrow_mut().pop_front() {
            self.bytes.set(self.bytes.get() - payload.len());
            self.all.set(self.all.get() - payload.len());
            return Poll::Ready(payload);
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for DatagramFlow {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.bytes.get());
    }
}

/// All flows of datagrams.
#[derive(Debug, Default)]
pub(crate) struct DatagramTable {
    flows: HashMap<DatagramKey, Rc<DatagramFlow>>,
    bytes: Rc<Cell<usize>>,
}

impl DatagramTable {
    pub(crate) fn find(&self, key: &DatagramKey) -> Option<&Rc<DatagramFlow>> {
        self.flows.get(key)
    }

    /// Makes a flow, unless there are enough.
    pub(crate) fn insert(&mut self, key: DatagramKey) -> Option<Rc<DatagramFlow>> {
        if self.flows.len() >= MAX_DATAGRAM_FLOWS {
            return None;
        }
        let flow = Rc::new(DatagramFlow {
            key,
            waiting: RefCell::default(),
            bytes: Cell::new(0),
            all: Rc::clone(&self.bytes),
            waker: RefCell::default(),
        });
        self.flows.insert(key, Rc::clone(&flow));
        Some(flow)
    }

    pub(crate) fn remove(&mut self, key: &DatagramKey) {
        self.flows.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(guest_port: u16) -> DatagramKey {
        DatagramKey {
            kind: DatagramKind::Udp,
            ends: FlowKey {
                guest_port,
                remote: ([192, 0, 2, 1], 123).into(),
            },
        }
    }

    fn popped(flow: &DatagramFlow) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        std::iter::from_fn(|| match flow.poll_pop(&mut cx) {
            Poll::Ready(_) => Some(()),
            Poll::Pending => None,
        })
        .count()
    }

    #[test]
    fn what_waits_in_one_flow_is_bounded_by_number_and_bytes() {
        let mut table = DatagramTable::default();
        let flow = table.insert(key(1)).unwrap();
        for _ in 0..10 * MAX_FLOW_DATAGRAMS {
            flow.push(b"x");
        }
        assert_eq!(popped(&flow), MAX_FLOW_DATAGRAMS);
        for _ in 0..MAX_FLOW_DATAGRAMS {
            flow.push(&[0; 60_000]);
        }
        assert_eq!(popped(&flow), MAX_FLOW_DATAGRAM_BYTES / 60_000);
    }

    #[test]
    fn what_waits_in_all_flows_is_bounded_and_given_back() {
        let mut table = DatagramTable::default();
        let flows: Vec<_> = (0..200)
            .map(|port| table.insert(key(port)).unwrap())
            .collect();
        for flow in &flows {
            for _ in 0..4 {
                flow.push(&[0; 60_000]);
            }
        }
        assert!(table.bytes.get() <= DATAGRAM_BUDGET);
        assert!(table.bytes.get() > DATAGRAM_BUDGET - 60_000);
        for flow in flows {
            table.remove(&flow.key);
        }
        assert_eq!(table.bytes.get(), 0);
    }

    #[test]
    fn the_number_of_flows_is_bounded() {
        let mut table = DatagramTable::default();
        for port in 0..MAX_DATAGRAM_FLOWS {
            assert!(table.insert(key(port as u16)).is_some());
        }
        assert!(table.insert(key(u16::MAX)).is_none());
        table.remove(&key(0));
        assert!(table.insert(key(u16::MAX)).is_some());
    }
}
