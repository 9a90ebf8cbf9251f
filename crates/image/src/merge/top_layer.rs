//! Putting one layer on top of the tree of those below, in up to three passes over its metadata: links to lower files are looked up,
//! lower files are taken away, the layer's own are added. Most layers need the last one only.

use std::collections::{HashMap, VecDeque};
use std::io;

use super::Merge;
use super::follow::Missing;
use crate::convert::{MAX_ENTRIES, PathError};
use crate::erofs::{BlockInput, LayerReader, ReadError, StoredInode, Stream, names};
use crate::escape::Escaped;
use crate::tree::{NewNode, NodeId, ROOT, S_IFDIR, S_IFLNK, TreeFull};

/// Why a layer cannot be put on top of the others.
pub(super) enum Refusal {
    Damaged,
    Read(io::Error),
    Entry(Escaped, &'static str),
    Links(Escaped, PathError),
    Limit(&'static str),
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(source) => Self::Read(source),
            ReadError::Damaged => Self::Damaged,
        }
    }
}

impl From<TreeFull> for Refusal {
    fn from(full: TreeFull) -> Self {
        Self::Limit(match full {
            TreeFull::Text => "names or extended attributes",
            TreeFull::Room => "files, names or extended attributes together",
        })
    }
}

/// Room for a directory still to go through, and for a file that was found and may be asked for again: twice while their lists grow.
const PENDING_BYTES: u64 = 16;
const FOUND_BYTES: u64 = 40;

/// The layer that is put on top.
pub(super) struct TopLayer<'a, I> {
    reader: LayerReader<I>,
    base: u32,
    pub(super) merge: &'a mut Merge,
    /// What the layer's links to lower files name, by inode number.
    lower_links: HashMap<u32, Option<NodeId>>,
    /// Files of this layer with several names, by inode number.
    shared: HashMap<u32, NodeId>,
    /// Nothing of lower layers is left in the root.
    emptied_root: bool,
}

/// A directory of the layer still to go through, and the one of the image it goes into.
struct Pending {
    nid: u32,
    into: NodeId,
}

/// Which part of the work is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Links to lower files are looked up.
    Find,
    /// Lower files are taken away.
    Remove,
    /// The layer's own are added.
    Add,
}

impl<'a, I: BlockInput> TopLayer<'a, I> {
    pub(super) fn new(merge: &'a mut Merge, reader: LayerReader<I>, base: u32) -> Self {
        Self {
            reader,
            base,
            merge,
            lower_links: HashMap::new(),
            shared: HashMap::new(),
            emptied_root: false,
        }
    }

    pub(super) fn apply(mut self) -> Result<(), Refusal> {
        let root = self.reader.inode(self.reader.root(), Stream::Directories)?;
        if root.kind() != S_IFDIR {
            return Err(Refusal::Damaged);
        }
        let inodes = usize::try_from(self.reader.inodes()).unwrap_or(usize::MAX);
        self.merge.tree.expect_names(inodes);
        if root.marks.links {
            self.walk(Pass::Find)?;
        }
        if root.marks.removes {
            if root.marks.opaque {
                self.empty_root();
            }
            self.walk(Pass::Remove)?;
        }
        if !root.marks.implied {
            let new = self.new_node(&root)?;
            self.merge.tree.set_attributes(ROOT, new)?;
        }
        self.walk(Pass::Add)?;
        let found = self.lower_links.len() + self.shared.len();
        self.merge.tree.put_back(found as u64 * FOUND_BYTES);
        Ok(())
    }

    /// Goes through the layer's directories, parents first.
    fn walk(&mut self, pass: Pass) -> Result<(), Refusal> {
        let mut ahead = VecDeque::from([Pending {
            nid: self.reader.root(),
            into: ROOT,
        }]);
        self.merge.tree.set_aside(PENDING_BYTES)?;
        // A damaged layer may go round, a sound one comes to each of its directories once and has no more names than its archive had entries.
        let (mut directories_left, mut names_left) = (self.reader.inodes(), MAX_ENTRIES);
        while let Some(Pending { nid, into }) = ahead.pop_front() {
            directories_left = directories_left.checked_sub(1).ok_or(Refusal::Damaged)?;
            self.merge.tree.put_back(PENDING_BYTES);
            let directory = self.reader.inode(nid, Stream::Directories)?;
            for number in 0..directory.directory_blocks() {
                let block = self.reader.directory_block(&directory, number)?;
                for name in names(&block) {
                    let (name, nid) = name.ok_or(Refusal::Damaged)?;
                    names_left = names_left.checked_sub(1).ok_or(Refusal::Damaged)?;
                    let child = self.reader.inode(nid, Stream::Children)?;
                    let place = Place { parent: into, name };
                    let descend = match pass {
                        Pass::Find => self.find(nid, &child)?,
                        Pass::Remove => self.remove(place, &child)?,
                        Pass::Add => self.add(place, nid, &child)?,
                    };
                    let tree = &mut self.merge.tree;
                    tree.set_aside(descend.map_or(0, |_| PENDING_BYTES))?;
                    ahead.extend(descend.map(|into| Pending { nid, into }));
                }
            }
        }
        Ok(())
    }
}

/// A name in a directory of the image.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) parent: NodeId,
    pub(super) name: &'a [u8],
}

/// The three passes over one entry; each gives the directory of the image to go on with, if the entry is one to go into.
impl<I: BlockInput> TopLayer<'_, I> {
    fn find(&mut self, nid: u32, child: &StoredInode) -> Result<Option<NodeId>, Refusal> {
        if let Some(path) = &child.marks.lower_link {
            let found = self.lower_file(path)?;
            if self.lower_links.insert(nid, found).is_none() {
                self.merge.tree.set_aside(FOUND_BYTES)?;
            }
        }
        // Where it goes does not matter here.
        Ok((child.kind() == S_IFDIR).then_some(ROOT))
    }

    fn remove(&mut self, place: Place<'_>, child: &StoredInode) -> Result<Option<NodeId>, Refusal> {
        if child.is_whiteout() {
            self.merge.tree.unlink(place.parent, place.name);
            return Ok(None);
        }
        if child.kind() != S_IFDIR {
            return Ok(None);
        }
        if child.marks.opaque && !child.marks.implied {
            self.merge.tree.unlink(place.parent, place.name);
            return Ok(None);
        }
        let found = self.merge.tree.find(place.parent, place.name);
        match found.map(|node| (node, self.merge.tree.kind(node))) {
            Some((directory, S_IFDIR)) if child.marks.opaque => {
                self.empty(place, directory)?;
                Ok(None)
            }
            Some((directory, S_IFDIR)) => Ok(Some(directory)),
            Some((link, S_IFLNK)) if child.marks.implied => {
                let mut walk = self.walk_to(place.parent);
                let Some(directory) = self.follow(&mut walk, place, link, Missing::Leave)? else {
                    return Ok(None);
                };
                if !child.marks.opaque {
                    return Ok(Some(directory));
                }
                match walk.place() {
                    None => self.empty_root(),
                    Some((parent, name)) => {
                        self.empty(Place { parent, name }, directory)?;
                    }
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn add(
        &mut self,
        place: Place<'_>,
        nid: u32,
        child: &StoredInode,
    ) -> Result<Option<NodeId>, Refusal> {
        if child.is_whiteout() {
            return Ok(None);
        }
        if child.kind() == S_IFDIR {
            return self.add_directory(place, child).map(Some);
        }
        let known = match &child.marks.lower_link {
            Some(_) => Some(self.lower_link(place, nid)?),
            None => self.shared.get(&nid).copied(),
        };
        let node = match known {
            Some(node) => node,
            None => self.add_file(nid, child)?,
        };
        self.merge.tree.link(place.parent, place.name, node)?;
        Ok(None)
    }
}

impl<I: BlockInput> TopLayer<'_, I> {
    fn add_file(&mut self, nid: u32, child: &StoredInode) -> Result<NodeId, Refusal> {
        let mut new = self.new_node(child)?;
        if child.kind() == S_IFLNK {
            let target = self.reader.link_target(child)?;
            new.data = self.merge.tree.store_text(&target)?;
            new.size = target.len() as u64;
        }
        let node = self.merge.tree.add(new)?;
        if child.is_shared() {
            self.merge.tree.set_aside(FOUND_BYTES)?;
            self.shared.insert(nid, node);
        }
        Ok(node)
    }

    fn lower_link(&self, place: Place<'_>, nid: u32) -> Result<NodeId, Refusal> {
        let found = self.lower_links.get(&nid).copied().flatten();
        found.ok_or_else(|| {
            Refusal::Entry(
                self.shown(place),
                "it is a hard link to a file that is neither an earlier entry nor in a layer below",
            )
        })
    }

    fn add_directory(&mut self, place: Place<'_>, child: &StoredInode) -> Result<NodeId, Refusal> {
        let implied = child.marks.implied;
        if let Some(directory) = self.lower_directory(place, implied)? {
            if !implied {
                let new = self.new_node(child)?;
                self.merge.tree.set_attributes(directory, new)?;
            }
            return Ok(directory);
        }
        let new = self.new_node(child)?;
        self.make_directory(place, new)
    }

    /// The directory of the image a directory of the layer goes into; `None` if there is none and it takes its place.
    fn lower_directory(
        &mut self,
        place: Place<'_>,
        implied: bool,
    ) -> Result<Option<NodeId>, Refusal> {
        let found = self.merge.tree.find(place.parent, place.name);
        match found.map(|node| (node, self.merge.tree.kind(node))) {
            Some((directory, S_IFDIR)) => Ok(Some(directory)),
            Some((link, S_IFLNK)) if implied => {
                let mut walk = self.walk_to(place.parent);
                self.follow(&mut walk, place, link, Missing::Make)
            }
            _ => Ok(None),
        }
    }

    /// Directories know their name, so that symlinks in them can be followed.
    pub(super) fn make_directory(
        &mut self,
        place: Place<'_>,
        new: NewNode,
    ) -> Result<NodeId, Refusal> {
        let node = self.merge.tree.add(new)?;
        let at = self.merge.tree.link(place.parent, place.name, node)?;
        self.merge.tree.node_mut(node).data = at;
        Ok(node)
    }

    /// Puts an empty directory with the same attributes in place of `directory`.
    fn empty(&mut self, place: Place<'_>, directory: NodeId) -> Result<(), Refusal> {
        let tree = &self.merge.tree;
        let (attributes, old) = (tree.attributes(directory).clone(), tree.node(directory));
        let same = NewNode {
            attributes,
            mtime: old.mtime,
            mtime_ns: old.mtime_ns,
            size: 0,
            data: 0,
        };
        self.make_directory(place, same).map(drop)
    }

    fn empty_root(&mut self) {
        // Once is enough: nothing is added while lower files are taken away.
        if !std::mem::replace(&mut self.emptied_root, true) {
            self.merge.tree.unlink_all(ROOT);
        }
    }

    fn new_node(&mut self, inode: &StoredInode) -> Result<NewNode, Refusal> {
        let xattrs = self.merge.tree.store_xattrs(&inode.xattrs)?;
        Ok(inode.to_new(xattrs, self.base))
    }

    /// A name with its path, for messages.
    pub(super) fn shown(&self, place: Place<'_>) -> Escaped {
        Escaped::new(self.walk_to(place.parent).rest(place.name))
    }
}
