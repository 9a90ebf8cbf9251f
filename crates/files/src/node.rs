//! What the guest holds a node id for: one file of one share.
//!
//! A node needs no descriptor to exist: it knows the directory node and the name it was last seen
//! under, and is opened from there when needed, checking that it still is the same file. So any
//! number of files can be known with few descriptors.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::guard::{Guard, Guards};
use crate::handle_table::FileHandle;
use crate::host::{Meta, TYPE_MASK};
use crate::owner::{MemoryRecords, OwnerRecord};
use crate::reply::Timestamp;
use crate::share::Access;

/// What makes two names the same file. The birth time and type tell a reused inode number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) share: u32,
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) kind: u32,
    pub(crate) born: (i64, u32),
}

impl Identity {
    pub(crate) fn of(share: u32, meta: &Meta) -> Self {
        Self {
            share,
            dev: meta.dev,
            ino: meta.ino,
            kind: meta.mode & TYPE_MASK,
            born: (meta.born.seconds, meta.born.nanoseconds),
        }
    }
}

/// A share while it is served.
#[derive(Debug)]
pub(crate) struct ShareState {
    pub(crate) index: u32,
    pub(crate) access: Access,
    pub(crate) guards: Guards,
    /// Device of the root; others get marked inode numbers.
    pub(crate) root_dev: u64,
    /// Devices mounted inside the share, by first sight.
    pub(crate) other_devs: Mutex<Vec<u64>>,
    /// Whether the file system takes `user.*` attributes; falls once it refused.
    pub(crate) takes_xattrs: AtomicBool,
    pub(crate) memory_records: MemoryRecords,
}

/// Devices inside one share whose inode numbers are told apart.
const OTHER_DEVS_MAX: usize = 0x7fff;
/// Inode numbers below this are told apart across devices of a share.
const DEVICE_SHIFT: u32 = 48;

impl ShareState {
    /// The inode number to show: the host's own, marked when another device is mounted inside.
    pub(crate) fn shown_ino(&self, dev: u64, ino: u64) -> u64 {
        if dev == self.root_dev {
            return ino;
        }
        let mut devs = self.other_devs.lock();
        let place = devs.iter().position(|known| *known == dev);
        let place = place.unwrap_or_else(|| {
            if devs.len() < OTHER_DEVS_MAX {
                devs.push(dev);
            }
            devs.len() - 1
        });
        ino ^ (place as u64 + 1) << DEVICE_SHIFT
    }
}

/// Content as it was when the guest last opened the file.
pub(crate) type Version = (Timestamp, Timestamp, u64);

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) share: Arc<ShareState>,
    pub(crate) identity: Identity,
    /// A share's root: never forgotten, its descriptor never closed.
    pub(crate) permanent: bool,
    guard: AtomicU32,
    /// Set when the descriptor was used; second chance of the descriptor cache.
    pub(crate) recently_used: AtomicBool,
    state: Mutex<NodeState>,
}

#[derive(Debug)]
struct NodeState {
    parent: u64,
    name: CString,
    path: Option<Arc<OwnedFd>>,
    handles: Vec<Weak<FileHandle>>,
    /// The ownership record as of a change time.
    record: Option<(Timestamp, Option<OwnerRecord>)>,
    opened: Option<Version>,
}

/// A descriptor of a node, kept open while this lives.
#[derive(Clone, Debug)]
pub(crate) enum NodeFd {
    Path(Arc<OwnedFd>),
    Handle(Arc<FileHandle>),
}

impl AsFd for NodeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Path(fd) => fd.as_fd(),
            Self::Handle(handle) => handle.file.as_fd(),
        }
    }
}

impl Node {
    /// A node seen as `name` in the directory node `parent`.
    pub(crate) fn new(
        id: u64,
        share: Arc<ShareState>,
        identity: Identity,
        (parent, name): (u64, &CStr),
    ) -> Self {
        Self {
            id,
            share,
            identity,
            permanent: false,
            guard: AtomicU32::new(Guard::Free.to_bits()),
            recently_used: AtomicBool::new(false),
            state: Mutex::new(NodeState {
                parent,
                name: name.to_owned(),
                path: None,
                handles: Vec::new(),
                record: None,
                opened: None,
            }),
        }
    }

    /// The root of a share.
    pub(crate) fn root(id: u64, share: Arc<ShareState>, identity: Identity, fd: OwnedFd) -> Self {
        let guard = share.guards.root();
        let mut node = Self::new(id, share, identity, (0, c""));
        node.permanent = true;
        node.guard = AtomicU32::new(guard.to_bits());
        node.state.get_mut().path = Some(Arc::new(fd));
        node
    }

    /// The type bits.
    pub(crate) fn kind(&self) -> u32 {
        self.identity.kind
    }

    pub(crate) fn guard(&self) -> Guard {
        Guard::from_bits(self.guard.load(Ordering::Acquire))
    }

    /// Makes the guard at least as strict as `guard`.
    pub(crate) fn raise_guard(&self, guard: Guard) {
        if guard != Guard::Free {
            self.guard.fetch_max(guard.to_bits(), Ordering::AcqRel);
        }
    }

    /// The directory node and name it was last seen under.
    pub(crate) fn location(&self) -> (u64, CString) {
        let state = self.state.lock();
        (state.parent, state.name.clone())
    }

    pub(crate) fn move_to(&self, parent: u64, name: &CStr) {
        if self.permanent {
            return;
        }
        let mut state = self.state.lock();
        if state.parent != parent || state.name.as_c_str() != name {
            state.parent = parent;
            state.name = name.to_owned();
        }
    }

    /// An open descriptor, if there is one.
    pub(crate) fn open_fd(&self) -> Option<NodeFd> {
        let state = self.state.lock();
        if let Some(fd) = &state.path {
            self.recently_used.store(true, Ordering::Relaxed);
            return Some(NodeFd::Path(fd.clone()));
        }
        state
            .handles
            .iter()
            .find_map(Weak::upgrade)
            .map(NodeFd::Handle)
    }

    pub(crate) fn has_path(&self) -> bool {
        self.state.lock().path.is_some()
    }

    /// Keeps a descriptor; false if there was one already.
    pub(crate) fn keep_path(&self, fd: Arc<OwnedFd>) -> bool {
        let mut state = self.state.lock();
        let vacant = state.path.is_none();
        if vacant {
            state.path = Some(fd);
        }
        vacant
    }

    pub(crate) fn take_path(&self) -> Option<Arc<OwnedFd>> {
        if self.permanent {
            return None;
        }
        self.state.lock().path.take()
    }

    pub(crate) fn add_handle(&self, handle: &Arc<FileHandle>) {
        self.state.lock().handles.push(Arc::downgrade(handle));
    }

    /// Forgets closed handles.
    pub(crate) fn drop_closed_handles(&self) {
        let mut state = self.state.lock();
        state.handles.retain(|handle| handle.strong_count() > 0);
        state.handles.shrink_to(4);
    }

    /// The ownership record if read at this change time before.
    pub(crate) fn cached_record(&self, ctime: Timestamp) -> Option<Option<OwnerRecord>> {
        let state = self.state.lock();
        state
            .record
            .filter(|(at, _)| *at == ctime)
            .map(|(_, record)| record)
    }

    pub(crate) fn cache_record(&self, ctime: Timestamp, record: Option<OwnerRecord>) {
        self.state.lock().record = Some((ctime, record));
    }

    pub(crate) fn forget_record(&self) {
        self.state.lock().record = None;
    }

    /// Whether a set-id bit may be recorded: unknown counts as yes.
    pub(crate) fn may_have_set_id(&self) -> bool {
        match self.state.lock().record {
            None => true,
            Some((_, None)) => self.share.memory_records.find(&self.identity).is_some(),
            Some((_, Some(record))) => record.special & 0o6000 != 0,
        }
    }

    /// Notes the content the guest opens now; answers what it opened before.
    pub(crate) fn note_opened(&self, version: Option<Version>) -> Option<Version> {
        std::mem::replace(&mut self.state.lock().opened, version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share() -> Arc<ShareState> {
        Arc::new(ShareState {
            index: 0,
            access: Access::ReadWrite,
            guards: Guards::default(),
            root_dev: 1,
            other_devs: Mutex::default(),
            takes_xattrs: AtomicBool::new(true),
            memory_records: MemoryRecords::default(),
        })
    }

    #[test]
    fn inode_numbers_of_other_devices_differ_from_those_of_the_root() {
        let share = share();
        assert_eq!(share.shown_ino(1, 5), 5);
        let second = share.shown_ino(2, 5);
        let third = share.shown_ino(3, 5);
        assert_eq!(share.shown_ino(2, 5), second);
        assert!(second != 5 && third != 5 && second != third);
    }

    #[test]
    fn guard_of_a_node_never_weakens() {
        let node = Node::new(1, share(), Identity::default(), (0, c"a"));
        node.raise_guard(Guard::Inside);
        node.raise_guard(Guard::Prefix(3));
        node.raise_guard(Guard::Free);
        assert_eq!(node.guard(), Guard::Inside);
    }

    #[test]
    fn record_is_only_valid_for_its_change_time() {
        let node = Node::new(1, share(), Identity::default(), (0, c"a"));
        let at = |seconds| Timestamp {
            seconds,
            nanoseconds: 0,
        };
        assert_eq!(node.cached_record(at(1)), None);
        node.cache_record(at(1), None);
        assert_eq!(node.cached_record(at(1)), Some(None));
        assert_eq!(node.cached_record(at(2)), None);
    }
}
