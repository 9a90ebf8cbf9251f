//! The read-only tree into which the shares are grafted: `/init`, empty directories, `/shares/N`.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::sync::Arc;

use crate::host::{Meta, TYPE_DIRECTORY, TYPE_REGULAR};
use crate::node::Node;
use crate::reply::Attr;

/// Node id of the root (`FUSE_ROOT_ID`).
pub(crate) const ROOT: u64 = 1;
/// Node id of `/init`.
pub(crate) const INIT: u64 = 2;
/// Node id of `/shares`.
pub(crate) const SHARES: u64 = 3;
/// Node id of the first empty directory.
pub(crate) const FIRST_EMPTY: u64 = 4;

/// What a node id of the synthetic tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Synthetic {
    /// A directory; only root and `/shares` hold anything.
    Directory(u64),
    /// `/init`.
    Init,
}

impl Synthetic {
    pub(crate) fn id(self) -> u64 {
        match self {
            Self::Directory(id) => id,
            Self::Init => INIT,
        }
    }
}

#[derive(Debug)]
pub(crate) struct SyntheticTree {
    /// Bytes of `/init`.
    pub(crate) init: File,
    /// Attributes of `init` on the host: its size counts.
    pub(crate) init_meta: Meta,
    /// Names of the empty directories; the first has id [`FIRST_EMPTY`].
    pub(crate) empty: Vec<CString>,
    /// The roots of the shares.
    pub(crate) shares: Vec<Arc<Node>>,
}

/// A child found in the tree.
pub(crate) enum Child<'a> {
    Synthetic(Synthetic),
    Share(&'a Arc<Node>),
}

impl SyntheticTree {
    /// The id after the last synthetic node.
    pub(crate) fn first_free_id(empty: usize) -> u64 {
        FIRST_EMPTY + empty as u64
    }

    /// What `id` is, if it belongs to the tree.
    pub(crate) fn find(&self, id: u64) -> Option<Synthetic> {
        match id {
            INIT => Some(Synthetic::Init),
            ROOT | SHARES => Some(Synthetic::Directory(id)),
            _ => (FIRST_EMPTY..Self::first_free_id(self.empty.len()))
                .contains(&id)
                .then_some(Synthetic::Directory(id)),
        }
    }

    /// The child `name` of directory `id`.
    pub(crate) fn child(&self, id: u64, name: &CStr) -> Option<Child<'_>> {
        let position = (0..).map_while(|index| self.nth(id, index));
        position
            .filter(|(child_name, _)| child_name.as_c_str() == name)
            .map(|(_, child)| child)
            .next()
    }

    /// The child at `index` of directory `id`, in the order of listings.
    pub(crate) fn nth(&self, id: u64, index: usize) -> Option<(CString, Child<'_>)> {
        let directory = |id| Child::Synthetic(Synthetic::Directory(id));
        match (id, index) {
            (ROOT, 0) => Some((c"init".into(), Child::Synthetic(Synthetic::Init))),
            (ROOT, 1) => Some((c"shares".into(), directory(SHARES))),
            (ROOT, _) => {
                let name = self.empty.get(index - 2)?;
                Some((name.clone(), directory(FIRST_EMPTY + index as u64 - 2)))
            }
            (SHARES, _) => {
                let share = self.shares.get(index)?;
                let name = CString::new(index.to_string()).expect("digits hold no NUL");
                Some((name, Child::Share(share)))
            }
            _ => None,
        }
    }

    /// Attributes of a synthetic node.
    pub(crate) fn attr(&self, node: Synthetic) -> Attr {
        let time = self.init_meta.mtime;
        let (mode, size) = match node {
            Synthetic::Init => (TYPE_REGULAR | 0o755, self.init_meta.size),
            Synthetic::Directory(_) => (TYPE_DIRECTORY | 0o755, 0),
        };
        Attr {
            ino: node.id(),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            mode,
            nlink: 1,
            blksize: 4096,
            ..Attr::default()
        }
    }
}
