//! Which nodes keep an `O_PATH` descriptor open, within a limit.
//!
//! Second-chance order: when full, the longest kept descriptor not used since it was last considered
//! is closed; its node is opened again by name when needed.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::{Errno, Result};

use crate::node::Node;

#[derive(Debug)]
pub(crate) struct DescriptorCache {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Weak<Node>>,
    open: usize,
}

impl DescriptorCache {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            inner: Mutex::default(),
        }
    }

    /// Keeps `fd` open for `node`, closing another one if the limit is reached.
    ///
    /// # Errors
    /// `ENFILE` when there is nothing to close.
    pub(crate) fn keep(&self, node: &Arc<Node>, fd: Arc<OwnedFd>) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.open >= self.limit {
            inner.close_one()?;
        }
        if !node.keep_path(fd) {
            return Ok(());
        }
        if inner.queue.len() > 2 * self.limit {
            inner.queue.retain(|kept| {
                kept.upgrade()
                    .is_some_and(|node: Arc<Node>| node.has_path())
            });
        }
        inner.open += 1;
        inner.queue.push_back(Arc::downgrade(node));
        Ok(())
    }

    /// Closes the descriptor of a node the guest forgot.
    pub(crate) fn close(&self, node: &Node) {
        let mut inner = self.inner.lock();
        if node.take_path().is_some() {
            inner.open -= 1;
        }
    }

    /// Number of descriptors kept.
    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.inner.lock().open
    }
}

impl Inner {
    fn close_one(&mut self) -> Result<()> {
        // Twice around: the first may only clear the marks.
        for _ in 0..2 * self.queue.len() {
            let Some(kept) = self.queue.pop_front() else {
                break;
            };
            let Some(node) = kept.upgrade() else {
                continue;
            };
            if node.recently_used.swap(false, Ordering::Relaxed) {
                self.queue.push_back(kept);
                continue;
            }
            if node.take_path().is_some() {
                self.open -= 1;
                return Ok(());
            }
        }
        Err(Errno::NFILE)
    }
}
