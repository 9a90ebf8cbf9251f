//! The file tree of one layer, or of all layers of an image, in memory: names, attributes and where the contents are, but no contents.
//!
//! Made for a million entries in some tens of megabytes: nodes of 32 bytes, names in one buffer, attributes shared. A name that is
//! replaced just points to another node; what hung below the old one can no longer be reached and is left out when the tree is written.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use hashbrown::HashTable;

mod nodes;

use nodes::Nodes;

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

/// One file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    /// Bytes of a file or of a symlink's target.
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) mtime_ns: u32,
    /// Index into the shared attributes.
    attributes: u32,
    /// First block of a file, place of the target of a symlink or lower link, number of a device; in a merged tree the name of a
    /// directory (index of its entry).
    pub(crate) data: u32,
    flags: u32,
}

/// Nothing of lower layers shows in this directory.
const OPAQUE: u32 = 1;
/// The name is gone from lower layers.
const WHITEOUT: u32 = 2;
/// A directory the layer does not name: a lower one at its place stays what it is.
const IMPLIED: u32 = 4;
/// Another name of a file of a lower layer.
const LOWER_LINK: u32 = 8;

/// What a name that was taken away points to.
const GONE: NodeId = NodeId(u32::MAX);

/// What many files have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Attributes {
    /// Type and permission bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Index into the tree's xattr sets; zero is none.
    pub(crate) xattrs: u32,
}

/// What a new node is made of.
#[derive(Debug, Clone)]
pub(crate) struct NewNode {
    pub(crate) attributes: Attributes,
    pub(crate) mtime: i64,
    pub(crate) mtime_ns: u32,
    pub(crate) size: u64,
    pub(crate) data: u32,
}

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
    nodes: Nodes,
    dentries: Vec<Dentry>,
    /// All names and link targets.
    text: Vec<u8>,
    attributes: Vec<Attributes>,
    attribute_index: HashMap<Attributes, u32>,
    xattr_sets: Vec<Vec<u8>>,
    xattr_index: HashMap<Vec<u8>, u32>,
    xattr_bytes: usize,
    lookup: HashTable<u32>,
    hasher: RandomState,
}

/// The tree would need more memory than is given to one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TreeFull;

/// The most bytes of names and link targets.
const MAX_TEXT_BYTES: usize = 48 << 20;
/// The most bytes of distinct extended attributes.
const MAX_XATTR_BYTES: usize = 16 << 20;

impl Tree {
    pub(crate) fn new() -> Self {
        let mut tree = Self {
            nodes: Nodes::default(),
            dentries: Vec::new(),
            text: Vec::new(),
            attributes: Vec::new(),
            attribute_index: HashMap::new(),
            xattr_sets: vec![Vec::new()],
            xattr_index: HashMap::new(),
            xattr_bytes: 0,
            lookup: HashTable::new(),
            hasher: RandomState::new(),
        };
        let root = tree.add(NewNode::implied_directory());
        tree.node_mut(root).set_implied(true);
        tree
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        self.nodes.at(id)
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.at_mut(id)
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

    pub(crate) fn dentries(&self) -> &[Dentry] {
        &self.dentries
    }

    pub(crate) fn name(&self, dentry: &Dentry) -> &[u8] {
        &self.text[dentry.name_at as usize..][..usize::from(dentry.name_length)]
    }

    pub(crate) fn link_target(&self, id: NodeId) -> &[u8] {
        let node = self.node(id);
        &self.text[node.data as usize..]
            [..usize::try_from(node.size).expect("link targets are in memory")]
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
        for dentry in &mut self.dentries {
            if dentry.parent == directory {
                dentry.node = GONE;
            }
        }
    }

    /// Makes a file that has no name yet.
    pub(crate) fn add(&mut self, new: NewNode) -> NodeId {
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
        id
    }

    /// Gives an existing file other attributes and times; what it contains stays. They are named now, no longer implied.
    pub(crate) fn set_attributes(&mut self, id: NodeId, new: NewNode) {
        let attributes = self.intern(new.attributes);
        let node = self.node_mut(id);
        (node.attributes, node.mtime, node.mtime_ns) = (attributes, new.mtime, new.mtime_ns);
        node.set_implied(false);
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
            let dentry = &dentries[at as usize];
            hasher.hash_one((
                dentry.parent,
                &text[dentry.name_at as usize..][..usize::from(dentry.name_length)],
            ))
        });
        Ok(at)
    }

    /// Gives back the memory that finding names takes; from now on nothing is found.
    pub(crate) fn forget_names(&mut self) {
        self.lookup = HashTable::new();
    }

    /// Keeps a link target; gives its place.
    pub(crate) fn store_text(&mut self, text: &[u8]) -> Result<u32, TreeFull> {
        if self.text.len() + text.len() > MAX_TEXT_BYTES {
            return Err(TreeFull);
        }
        let at = u32::try_from(self.text.len()).expect("bounded by MAX_TEXT_BYTES");
        self.text.extend_from_slice(text);
        Ok(at)
    }

    /// Keeps an encoded set of extended attributes; gives its index.
    pub(crate) fn store_xattrs(&mut self, encoded: Vec<u8>) -> Result<u32, TreeFull> {
        if encoded.is_empty() {
            return Ok(0);
        }
        if let Some(&index) = self.xattr_index.get(&encoded) {
            return Ok(index);
        }
        self.xattr_bytes += encoded.len();
        if self.xattr_bytes > MAX_XATTR_BYTES {
            return Err(TreeFull);
        }
        let index = u32::try_from(self.xattr_sets.len()).expect("bounded by MAX_XATTR_BYTES");
        self.xattr_sets.push(encoded.clone());
        self.xattr_index.insert(encoded, index);
        Ok(index)
    }

    fn is_named(&self, at: u32, parent: NodeId, name: &[u8]) -> bool {
        let dentry = &self.dentries[at as usize];
        dentry.parent == parent && self.name(dentry) == name
    }

    fn intern(&mut self, attributes: Attributes) -> u32 {
        if let Some(&index) = self.attribute_index.get(&attributes) {
            return index;
        }
        let index = u32::try_from(self.attributes.len()).expect("at most one for each node");
        self.attributes.push(attributes.clone());
        self.attribute_index.insert(attributes, index);
        index
    }
}

impl Node {
    pub(crate) fn is_opaque(&self) -> bool {
        self.flags & OPAQUE != 0
    }

    pub(crate) fn set_opaque(&mut self) {
        self.flags |= OPAQUE;
    }

    pub(crate) fn is_whiteout(&self) -> bool {
        self.flags & WHITEOUT != 0
    }

    pub(crate) fn set_whiteout(&mut self) {
        self.flags |= WHITEOUT;
    }

    pub(crate) fn is_implied(&self) -> bool {
        self.flags & IMPLIED != 0
    }

    pub(crate) fn set_implied(&mut self, implied: bool) {
        self.flags = self.flags & !IMPLIED | if implied { IMPLIED } else { 0 };
    }

    pub(crate) fn is_lower_link(&self) -> bool {
        self.flags & LOWER_LINK != 0
    }

    pub(crate) fn set_lower_link(&mut self) {
        self.flags |= LOWER_LINK;
    }
}

impl Dentry {
    /// Whether the name was taken away.
    pub(crate) fn is_gone(&self) -> bool {
        self.node == GONE
    }
}

impl NewNode {
    /// A directory the archive does not name, only something below it: what it is where no lower layer has it.
    pub(crate) fn implied_directory() -> Self {
        Self::plain(S_IFDIR | 0o755)
    }

    /// The stand-in for a file of a lower layer, whose path is kept at `at` of the tree's text.
    pub(crate) fn lower_link(at: u32, length: usize) -> Self {
        Self {
            size: length as u64,
            data: at,
            ..Self::plain(S_IFREG)
        }
    }

    /// The sign that a name of a lower layer is gone: a character device 0:0, as overlayfs has it.
    pub(crate) fn whiteout() -> Self {
        Self::plain(S_IFCHR)
    }

    fn plain(mode: u16) -> Self {
        let attributes = Attributes {
            mode,
            uid: 0,
            gid: 0,
            xattrs: 0,
        };
        Self {
            attributes,
            mtime: 0,
            mtime_ns: 0,
            size: 0,
            data: 0,
        }
    }
}
