//! The file tree of one layer, or of all layers of an image, in memory: names, attributes and where the contents are, but no contents.
//!
//! Made for a million entries in some tens of megabytes: nodes of 32 bytes, attributes shared, nothing held twice while it grows. A tree
//! counts what it takes, and what writing it will take, and does not grow beyond the room it is given. A name that is replaced just
//! points to another node; what hung below the old one can no longer be reached and is left out when the tree is written.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use hashbrown::HashTable;

mod node;
mod pieces;

pub(crate) use node::{Attributes, NewNode, Node};
pub(crate) use pieces::Pieces;

use pieces::Text;

/// File type bits of a mode (POSIX `S_IFMT`).
pub(crate) const S_IFMT: u16 = 0o170_000;
pub(crate) const S_IFDIR: u16 = 0o040_000;
pub(crate) const S_IFREG: u16 = 0o100_000;
pub(crate) const S_IFLNK: u16 = 0o120_000;
pub(crate) const S_IFCHR: u16 = 0o020_000;
pub(crate) const S_IFBLK: u16 = 0o060_000;
pub(crate) const S_IFIFO: u16 = 0o010_000;

/// A file, whatever its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(pub(crate) u32);

/// The root directory.
pub(crate) const ROOT: NodeId = NodeId(0);

/// What a name that was taken away points to.
const GONE: NodeId = NodeId(u32::MAX);

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dentry {
    pub(crate) parent: NodeId,
    pub(crate) node: NodeId,
    name_at: u32,
    name_length: u8,
}

/// The tree; it always has a root directory.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Pieces<Node>,
    dentries: Pieces<Dentry>,
    /// All names and link targets.
    text: Text,
    text_bytes: usize,
    attributes: Pieces<Attributes>,
    attribute_index: HashTable<u32>,
    xattr_sets: Vec<Box<[u8]>>,
    xattr_index: HashTable<u32>,
    xattr_bytes: usize,
    lookup: HashTable<u32>,
    hasher: RandomState,
    /// The most bytes that making and writing the tree may take.
    room: u64,
    /// Bytes others take out of the room.
    aside: u64,
}

/// The tree would need more memory than it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TreeFull {
    /// [`MAX_TEXT_BYTES`] or [`MAX_XATTR_BYTES`].
    Text,
    /// The room given to this tree.
    Room,
}

/// Bytes of a node; of one that is written, also its place and its turn.
const NODE_BYTES: u64 = size_of::<Node>() as u64;
const WRITTEN_NODE_BYTES: u64 = NODE_BYTES + 8;
/// Bytes of a name that can be found (five for each of up to 2.3 places of the table), and of one that is sorted to be written.
const FOUND_NAME_BYTES: u64 = size_of::<Dentry>() as u64 + 12;
const SORTED_NAME_BYTES: u64 = size_of::<Dentry>() as u64 + 4;
/// Bytes of distinct attributes with their index, and of a set of extended attributes besides its own.
const ATTRIBUTES_BYTES: u64 = size_of::<Attributes>() as u64 + 18;
const XATTR_SET_BYTES: u64 = 64;

/// The most bytes of names and link targets.
const MAX_TEXT_BYTES: usize = 48 << 20;
/// The most bytes of distinct extended attributes.
const MAX_XATTR_BYTES: usize = 16 << 20;

impl Tree {
    /// A tree that takes at most `room` bytes until it is written.
    pub(crate) fn new(room: u64) -> Self {
        let mut tree = Self {
            nodes: Pieces::new(),
            dentries: Pieces::new(),
            text: Text::default(),
            text_bytes: 0,
            attributes: Pieces::new(),
            attribute_index: HashTable::new(),
            xattr_sets: vec![Box::default()],
            xattr_index: HashTable::new(),
            xattr_bytes: 0,
            lookup: HashTable::new(),
            hasher: RandomState::new(),
            room: u64::MAX,
            aside: 0,
        };
        let root = tree.add(NewNode::implied_directory());
        tree.node_mut(root.expect("there is room for one"))
            .set_implied(true);
        tree.room = room;
        tree
    }

    /// The room for so many files, each with one name, with names, link targets and extended attributes of so many bytes together.
    pub(crate) fn room_for(files: u64, text: u64) -> u64 {
        files * (WRITTEN_NODE_BYTES + FOUND_NAME_BYTES) + text
    }

    /// Makes ready for so many more names, as far as there is room: what finds them is then not held twice while it grows.
    pub(crate) fn expect_names(&mut self, more: usize) {
        let room = usize::try_from(self.room / (WRITTEN_NODE_BYTES + SORTED_NAME_BYTES));
        let more = more.min(room.unwrap_or(usize::MAX));
        let Self {
            lookup,
            dentries,
            text,
            hasher,
            ..
        } = self;
        lookup.reserve(more, |&at| name_hash(hasher, text, &dentries[at as usize]));
    }

    /// Takes room for something that is not part of the tree, but must be held while it is made.
    pub(crate) fn set_aside(&mut self, bytes: u64) -> Result<(), TreeFull> {
        self.aside += bytes;
        self.check(0)
    }

    /// Gives back room that was set aside.
    pub(crate) fn put_back(&mut self, bytes: u64) {
        self.aside -= bytes;
    }

    /// Whether there is room for so many more bytes.
    fn check(&self, more: usize) -> Result<(), TreeFull> {
        let (nodes, names) = (self.nodes.len() as u64, self.dentries.len() as u64);
        let making = nodes * NODE_BYTES + names * FOUND_NAME_BYTES;
        let writing = nodes * WRITTEN_NODE_BYTES + names * SORTED_NAME_BYTES;
        let text = (self.text_bytes + self.xattr_bytes + more) as u64;
        let attributes = self.attributes.len() as u64 * ATTRIBUTES_BYTES
            + self.xattr_sets.len() as u64 * XATTR_SET_BYTES;
        let needed = making.max(writing) + text + attributes + self.aside;
        (needed <= self.room).then_some(()).ok_or(TreeFull::Room)
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn attributes(&self, id: NodeId) -> &Attributes {
        &self.attributes[self.node(id).attributes as usize]
    }

    /// The encoded extended attributes with this index.
    pub(crate) fn xattrs(&self, index: u32) -> &[u8] {
        &self.xattr_sets[index as usize]
    }

    pub(crate) fn kind(&self, id: NodeId) -> u16 {
        self.attributes(id).mode & S_IFMT
    }

    pub(crate) fn dentries(&self) -> &Pieces<Dentry> {
        &self.dentries
    }

    pub(crate) fn name(&self, dentry: &Dentry) -> &[u8] {
        self.text
            .at(dentry.name_at as usize, usize::from(dentry.name_length))
    }

    pub(crate) fn link_target(&self, id: NodeId) -> &[u8] {
        let node = self.node(id);
        let length = usize::try_from(node.size).expect("link targets are in memory");
        self.text.at(node.data as usize, length)
    }

    /// What `name` in `parent` is.
    pub(crate) fn find(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let hash = self.hasher.hash_one((parent, name));
        self.lookup
            .find(hash, |&at| self.is_named(at, parent, name))
            .map(|&at| self.dentries[at as usize])
            .filter(|dentry| !dentry.is_gone())
            .map(|dentry| dentry.node)
    }

    /// Takes the name `name` in `parent` away.
    pub(crate) fn unlink(&mut self, parent: NodeId, name: &[u8]) {
        let hash = self.hasher.hash_one((parent, name));
        let found = self
            .lookup
            .find(hash, |&at| self.is_named(at, parent, name));
        if let Some(&at) = found {
            self.dentries[at as usize].node = GONE;
        }
    }

    /// Takes all names in `directory` away. Looks at every name of the tree.
    pub(crate) fn unlink_all(&mut self, directory: NodeId) {
        for dentry in self.dentries.iter_mut() {
            if dentry.parent == directory {
                dentry.node = GONE;
            }
        }
    }

    /// Makes a file that has no name yet.
    pub(crate) fn add(&mut self, new: NewNode) -> Result<NodeId, TreeFull> {
        let attributes = self.intern(new.attributes);
        let id = NodeId(u32::try_from(self.nodes.len()).expect("the number of entries is bounded"));
        let NewNode {
            mtime,
            mtime_ns,
            size,
            data,
            ..
        } = new;
        self.nodes.push(Node {
            size,
            mtime,
            mtime_ns,
            attributes,
            data,
            flags: 0,
        });
        self.check(0).map(|()| id)
    }

    /// Gives an existing file other attributes and times; what it contains stays. They are named now, no longer implied.
    pub(crate) fn set_attributes(&mut self, id: NodeId, new: NewNode) -> Result<(), TreeFull> {
        let attributes = self.intern(new.attributes);
        let node = self.node_mut(id);
        (node.attributes, node.mtime, node.mtime_ns) = (attributes, new.mtime, new.mtime_ns);
        node.set_implied(false);
        self.check(0)
    }

    /// Gives `node` the name `name` in `parent`, in place of what had it; gives the index of the name.
    pub(crate) fn link(
        &mut self,
        parent: NodeId,
        name: &[u8],
        node: NodeId,
    ) -> Result<u32, TreeFull> {
        let hash = self.hasher.hash_one((parent, name));
        if let Some(&at) = self
            .lookup
            .find(hash, |&at| self.is_named(at, parent, name))
        {
            self.dentries[at as usize].node = node;
            return Ok(at);
        }
        let name_at = self.store_text(name)?;
        let name_length = u8::try_from(name.len()).expect("names have at most 255 bytes");
        let at = u32::try_from(self.dentries.len()).expect("the number of entries is bounded");
        self.dentries.push(Dentry {
            parent,
            node,
            name_at,
            name_length,
        });
        let Self {
            lookup,
            dentries,
            text,
            hasher,
            ..
        } = self;
        lookup.insert_unique(hash, at, |&at| {
            name_hash(hasher, text, &dentries[at as usize])
        });
        self.check(0).map(|()| at)
    }

    /// Gives back the memory that finding names takes; from now on nothing is found.
    pub(crate) fn forget_names(&mut self) {
        self.lookup = HashTable::new();
    }

    /// Keeps a link target; gives its place.
    pub(crate) fn store_text(&mut self, text: &[u8]) -> Result<u32, TreeFull> {
        if self.text_bytes + text.len() > MAX_TEXT_BYTES {
            return Err(TreeFull::Text);
        }
        self.check(text.len())?;
        self.text_bytes += text.len();
        Ok(u32::try_from(self.text.push(text)).expect("bounded by MAX_TEXT_BYTES"))
    }

    /// Keeps an encoded set of extended attributes; gives its index.
    pub(crate) fn store_xattrs(&mut self, encoded: &[u8]) -> Result<u32, TreeFull> {
        if encoded.is_empty() {
            return Ok(0);
        }
        let hash = self.hasher.hash_one(encoded);
        let same = |&index: &u32| *self.xattr_sets[index as usize] == *encoded;
        if let Some(&index) = self.xattr_index.find(hash, same) {
            return Ok(index);
        }
        if self.xattr_bytes + encoded.len() > MAX_XATTR_BYTES {
            return Err(TreeFull::Text);
        }
        self.check(encoded.len())?;
        self.xattr_bytes += encoded.len();
        let index = u32::try_from(self.xattr_sets.len()).expect("bounded by MAX_XATTR_BYTES");
        self.xattr_sets.push(encoded.into());
        let Self {
            xattr_index,
            xattr_sets,
            hasher,
            ..
        } = self;
        xattr_index.insert_unique(hash, index, |&index| {
            hasher.hash_one(&*xattr_sets[index as usize])
        });
        Ok(index)
    }

    fn is_named(&self, at: u32, parent: NodeId, name: &[u8]) -> bool {
        let dentry = &self.dentries[at as usize];
        dentry.parent == parent && self.name(dentry) == name
    }

    fn intern(&mut self, attributes: Attributes) -> u32 {
        let hash = self.hasher.hash_one(&attributes);
        let same = |&index: &u32| self.attributes[index as usize] == attributes;
        if let Some(&index) = self.attribute_index.find(hash, same) {
            return index;
        }
        let index = u32::try_from(self.attributes.len()).expect("at most one for each node");
        self.attributes.push(attributes);
        let Self {
            attribute_index,
            attributes,
            hasher,
            ..
        } = self;
        attribute_index.insert_unique(hash, index, |&index| {
            hasher.hash_one(&attributes[index as usize])
        });
        index
    }
}

fn name_hash(hasher: &RandomState, text: &Text, dentry: &Dentry) -> u64 {
    let name = text.at(dentry.name_at as usize, usize::from(dentry.name_length));
    hasher.hash_one((dentry.parent, name))
}

impl Dentry {
    /// Whether the name was taken away.
    pub(crate) fn is_gone(&self) -> bool {
        self.node == GONE
    }
}
