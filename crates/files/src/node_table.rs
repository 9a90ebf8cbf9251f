//! Node ids and how often the guest holds each.
//!
//! An id is never given twice, so a stale one finds nothing. The table is bounded; beyond, lookups
//! answer `ENFILE` until the guest forgets.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::{Errno, Result};

use crate::node::{Identity, Node};

/// Most nodes the guest may hold at once; about 300 bytes each.
pub(crate) const NODES_MAX: usize = 1 << 22;

#[derive(Debug)]
pub(crate) struct NodeTable {
    inner: Mutex<Inner>,
    capacity: usize,
}

#[derive(Debug)]
struct Inner {
    by_id: HashMap<u64, Held>,
    by_identity: HashMap<Identity, u64>,
    next_id: u64,
}

#[derive(Debug)]
struct Held {
    node: Arc<Node>,
    lookups: u64,
}

impl NodeTable {
    /// An empty table giving ids from `first_id` on.
    pub(crate) fn new(first_id: u64, capacity: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                by_id: HashMap::new(),
                by_identity: HashMap::new(),
                next_id: first_id,
            }),
            capacity,
        }
    }

    /// Adds the root of a share under the next id.
    pub(crate) fn add_root(&self, identity: Identity, make: impl FnOnce(u64) -> Node) -> Arc<Node> {
        let mut inner = self.inner.lock();
        let node = Arc::new(make(inner.next_id));
        inner.by_identity.insert(identity, node.id);
        inner.add(node.clone());
        node
    }

    pub(crate) fn find(&self, id: u64) -> Option<Arc<Node>> {
        let inner = self.inner.lock();
        inner.by_id.get(&id).map(|held| held.node.clone())
    }

    pub(crate) fn find_identity(&self, identity: &Identity) -> Option<Arc<Node>> {
        let inner = self.inner.lock();
        let id = inner.by_identity.get(identity)?;
        inner.by_id.get(id).map(|held| held.node.clone())
    }

    /// The node of `identity`, made if there is none, with one more lookup.
    ///
    /// # Errors
    /// `ENFILE` when the table is full.
    pub(crate) fn look_up(
        &self,
        identity: Identity,
        make: impl FnOnce(u64) -> Node,
    ) -> Result<Arc<Node>> {
        let inner = &mut *self.inner.lock();
        let full = inner.by_id.len() >= self.capacity;
        match inner.by_identity.entry(identity) {
            Slot::Occupied(slot) => {
                let held = inner
                    .by_id
                    .get_mut(slot.get())
                    .expect("both maps change together");
                held.lookups = held.lookups.saturating_add(1);
                Ok(held.node.clone())
            }
            Slot::Vacant(_) if full => Err(Errno::NFILE),
            Slot::Vacant(slot) => {
                let node = Arc::new(make(inner.next_id));
                slot.insert(node.id);
                inner.add(node.clone());
                Ok(node)
            }
        }
    }

    /// Takes `count` lookups away; answers the node if that was the last.
    pub(crate) fn forget(&self, id: u64, count: u64) -> Option<Arc<Node>> {
        let mut inner = self.inner.lock();
        let held = inner.by_id.get_mut(&id)?;
        held.lookups = held.lookups.saturating_sub(count);
        if held.lookups > 0 || held.node.permanent {
            return None;
        }
        inner.remove(id)
    }

    /// Forgets everything except the roots of shares; answers what went.
    pub(crate) fn clear(&self) -> Vec<Arc<Node>> {
        let mut inner = self.inner.lock();
        let gone: Vec<u64> = inner
            .by_id
            .values()
            .filter(|held| !held.node.permanent)
            .map(|held| held.node.id)
            .collect();
        gone.into_iter().filter_map(|id| inner.remove(id)).collect()
    }

    /// Number of nodes held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().by_id.len()
    }
}

impl Inner {
    fn add(&mut self, node: Arc<Node>) {
        self.next_id = node.id + 1;
        self.by_id.insert(node.id, Held { node, lookups: 1 });
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Node>> {
        let node = self.by_id.remove(&id)?.node;
        self.by_identity.remove(&node.identity);
        Some(node)
    }
}
