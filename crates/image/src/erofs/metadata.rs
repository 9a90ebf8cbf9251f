//! The second half of an image: which names can be reached, where each inode goes, directories and inodes in order, the superblock.

use std::collections::HashMap;
use std::io;

use super::data::DataWriter;
use super::directory::{self, Name};
use super::format::{INODE_SIZE, Inode, Layout, SLOT, Superblock};
use super::xattr::{HEADER, Marks};
use super::{BLOCK_SIZE, BlockOutput, ImageKind, uuid};
use crate::digest::ImageDigest;
use crate::tree::{
    NodeId, ROOT, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, Tree,
};

/// Where the root's inode is, in slots from the beginning of the inodes. Not zero: user space takes inode number 0 for "no file".
const ROOT_SLOT: u64 = 1;

/// Completes the image of the layer `diff_id`: writes all but the contents, which `data` has already.
pub(crate) fn write<O: BlockOutput>(
    tree: &mut Tree,
    data: DataWriter<O>,
    diff_id: ImageDigest,
) -> io::Result<O> {
    write_image(tree, data, Purpose::Layer, diff_id)
}

/// Writes a merged image: `tree` has blocks counted from the first of the layers, which have `layer_blocks` together.
pub(crate) fn write_merged<O: BlockOutput>(
    tree: &mut Tree,
    output: O,
    identity: ImageDigest,
    layer_blocks: u64,
) -> io::Result<O> {
    let purpose = Purpose::Merged { layer_blocks };
    write_image(tree, DataWriter::new(output), purpose, identity)
}

/// What the image is for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Layer,
    Merged { layer_blocks: u64 },
}

fn write_image<O: BlockOutput>(
    tree: &mut Tree,
    mut data: DataWriter<O>,
    purpose: Purpose,
    identity: ImageDigest,
) -> io::Result<O> {
    tree.forget_names();
    let plan = Plan::make(tree, u64::from(data.begin()?), purpose)?;
    for index in 0..plan.sequence.len() {
        plan.write_blocks(tree, plan.file(tree, index), &mut data)?;
    }
    let meta_block = data.begin()?;
    let mut at = 0;
    for (number, index) in (1..).zip(0..plan.sequence.len()) {
        let file = plan.file(tree, index);
        let place = plan.offset(file.node);
        data.zeros(place - at)?;
        at = place + plan.write_inode(tree, file, number, &mut data)?;
    }
    let (mut output, own_blocks) = data.finish()?;
    let (kind, layer_blocks) = match purpose {
        Purpose::Layer => (ImageKind::Layer, 0),
        Purpose::Merged { layer_blocks } => (ImageKind::Merged, layer_blocks),
    };
    let blocks = u32::try_from(own_blocks + layer_blocks).map_err(|_| too_large())?;
    let root_nid = u16::try_from(ROOT_SLOT).expect("a small constant");
    let superblock = Superblock {
        kind,
        uuid: uuid(identity),
        root_nid,
        inodes: plan.sequence.len() as u64,
        blocks,
        meta_block,
    };
    output.write_at(&superblock.emit(), 0)?;
    output.set_length(own_blocks * BLOCK_SIZE)?;
    Ok(output)
}

fn too_large() -> io::Error {
    io::Error::other("the image would have more than 2^32 blocks")
}

/// A file that is written, and the directory above it.
#[derive(Clone, Copy)]
struct File {
    node: NodeId,
    above: NodeId,
}

/// In place of the root's name.
const NO_NAME: u32 = u32::MAX;

/// The order and place of everything. What it takes is counted by [`Tree`].
struct Plan {
    /// Names, sorted by directory, then by name.
    order: Vec<u32>,
    /// Files that can be reached, in the order of their inodes: the first name of each, [`NO_NAME`] for the root.
    sequence: Vec<u32>,
    /// By node: place of the inode, in slots.
    slots: Vec<u32>,
    /// Blocks of the few link targets that do not fit beside their inode.
    link_blocks: HashMap<NodeId, u32>,
    /// What the root says about the whole layer.
    root_marks: Marks,
    purpose: Purpose,
    /// Where the first content is that the tree counts from.
    contents_at: u32,
}

impl Plan {
    /// Decides on everything; `next_block` is where directories that need blocks of their own begin.
    fn make(tree: &mut Tree, next_block: u64, purpose: Purpose) -> io::Result<Self> {
        let named = (0..)
            .zip(tree.dentries().iter())
            .filter(|(_, dentry)| !dentry.is_gone());
        let mut order = Vec::with_capacity(tree.dentries().len());
        order.extend(named.map(|(at, _): (u32, _)| at));
        order.sort_unstable_by(|&left, &right| {
            let (left, right) = (
                &tree.dentries()[left as usize],
                &tree.dentries()[right as usize],
            );
            left.parent
                .cmp(&right.parent)
                .then_with(|| tree.name(left).cmp(tree.name(right)))
        });
        let count = tree.node_count();
        let mut plan = Self {
            order,
            sequence: Vec::with_capacity(count),
            slots: vec![0; count],
            link_blocks: HashMap::new(),
            root_marks: Marks::default(),
            purpose,
            contents_at: 0,
        };
        plan.reach(tree);
        plan.place(tree, next_block)?;
        Ok(plan)
    }

    /// Walks from the root, counts links. Parents come before their children, so the root is the first.
    fn reach(&mut self, tree: &mut Tree) {
        tree.node_mut(ROOT).add_links(2);
        self.root_marks.removes = tree.node(ROOT).is_opaque();
        self.sequence.push(NO_NAME);
        let mut index = 0;
        while index < self.sequence.len() {
            let File { node, .. } = self.file(tree, index);
            index += 1;
            if tree.kind(node) == S_IFDIR {
                self.reach_children(tree, node);
            }
        }
    }

    fn reach_children(&mut self, tree: &mut Tree, directory: NodeId) {
        for at in self.children(tree, directory) {
            let name = self.order[at];
            let child = tree.dentries()[name as usize].node;
            if hidden(tree, directory, child) {
                continue;
            }
            let is_directory = tree.kind(child) == S_IFDIR;
            let entry = tree.node_mut(child);
            self.root_marks.removes |= entry.is_whiteout() || entry.is_opaque();
            self.root_marks.links |= entry.is_lower_link();
            if entry.links() == 0 {
                self.sequence.push(name);
            }
            entry.add_links(1 + u32::from(is_directory));
            if is_directory {
                tree.node_mut(directory).add_links(1);
            }
        }
    }

    fn file(&self, tree: &Tree, index: usize) -> File {
        match self.sequence[index] {
            NO_NAME => File {
                node: ROOT,
                above: ROOT,
            },
            name => {
                let dentry = &tree.dentries()[name as usize];
                File {
                    node: dentry.node,
                    above: dentry.parent,
                }
            }
        }
    }

    /// Gives every inode its place, and a block to every directory and link target that has no room beside its inode.
    fn place(&mut self, tree: &mut Tree, mut next_block: u64) -> io::Result<()> {
        let mut at = ROOT_SLOT * SLOT;
        for index in 0..self.sequence.len() {
            let file = self.file(tree, index);
            let node = file.node;
            if tree.kind(node) == S_IFDIR {
                let size = directory::size(self.entries(tree, file).map(|(name, _)| name.len()));
                tree.node_mut(node).size = size;
            }
            let (fixed, tail) = (
                INODE_SIZE + self.xattr_size(tree, node),
                self.inline_tail(tree, node),
            );
            // The kernel reads an inline tail only if it lies within one block.
            if tail > 0 && (at + fixed) % BLOCK_SIZE + tail > BLOCK_SIZE {
                at = at.next_multiple_of(BLOCK_SIZE);
            }
            self.slots[node.0 as usize] = u32::try_from(at / SLOT).map_err(|_| too_large())?;
            at = (at + fixed + tail).next_multiple_of(SLOT);
            let kind = tree.kind(node);
            if kind == S_IFDIR || (kind == S_IFLNK && tail == 0) {
                let blocks = (tree.node(node).size - tail).div_ceil(BLOCK_SIZE);
                let block = u32::try_from(next_block).map_err(|_| too_large())?;
                if kind == S_IFDIR {
                    tree.node_mut(node).data = block;
                } else {
                    self.link_blocks.insert(node, block);
                }
                next_block += blocks;
            }
        }
        if matches!(self.purpose, Purpose::Merged { .. }) {
            let blocks = next_block + at.div_ceil(BLOCK_SIZE);
            self.contents_at = u32::try_from(blocks).map_err(|_| too_large())?;
        }
        Ok(())
    }

    /// Bytes of content that follow the inode.
    fn inline_tail(&self, tree: &Tree, node: NodeId) -> u64 {
        let size = tree.node(node).size;
        let tail = match tree.kind(node) {
            S_IFLNK => size,
            S_IFDIR => size % BLOCK_SIZE,
            _ => return 0,
        };
        let fixed = INODE_SIZE + self.xattr_size(tree, node);
        if fixed % BLOCK_SIZE + tail <= BLOCK_SIZE {
            tail
        } else {
            0
        }
    }

    /// The parts of directories and link targets that are not beside their inode.
    fn write_blocks<O: BlockOutput>(
        &self,
        tree: &Tree,
        file: File,
        data: &mut DataWriter<O>,
    ) -> io::Result<()> {
        let node = file.node;
        let tail = self.inline_tail(tree, node);
        match tree.kind(node) {
            S_IFDIR => {
                let mut left = tree.node(node).size - tail;
                directory::write(self.names(tree, file), |bytes| {
                    let some =
                        &bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
                    left -= some.len() as u64;
                    data.bytes(some)
                })?;
                data.end()
            }
            S_IFLNK if tail == 0 => {
                data.bytes(tree.link_target(node))?;
                data.end()
            }
            _ => Ok(()),
        }
    }

    /// One inode with what follows it; gives the bytes written.
    fn write_inode<O: BlockOutput>(
        &self,
        tree: &Tree,
        file: File,
        number: u32,
        data: &mut DataWriter<O>,
    ) -> io::Result<u64> {
        let node = file.node;
        let (attributes, tail, xattr_size) = (
            tree.attributes(node),
            self.inline_tail(tree, node),
            self.xattr_size(tree, node),
        );
        let entry = tree.node(node);
        let kind = attributes.mode & S_IFMT;
        let (size, block) = match kind {
            S_IFREG if entry.is_lower_link() || entry.size == 0 => (0, 0),
            S_IFREG => (
                entry.size,
                entry
                    .data
                    .checked_add(self.contents_at)
                    .ok_or_else(too_large)?,
            ),
            S_IFDIR => (entry.size, entry.data),
            S_IFLNK => (
                entry.size,
                self.link_blocks.get(&node).copied().unwrap_or(0),
            ),
            _ => (0, entry.data),
        };
        let inode = Inode {
            layout: if tail > 0 {
                Layout::Inline
            } else {
                Layout::Plain
            },
            xattr_size,
            mode: attributes.mode,
            size,
            data: block,
            number,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: entry.mtime,
            mtime_ns: entry.mtime_ns,
            links: entry.links(),
        };
        data.bytes(&inode.emit())?;
        if xattr_size > 0 {
            data.zeros(HEADER)?;
            data.bytes(tree.xattrs(attributes.xattrs))?;
            data.bytes(&self.marks(tree, node))?;
        }
        match kind {
            S_IFLNK if tail > 0 => data.bytes(tree.link_target(node))?,
            S_IFDIR if tail > 0 => {
                let mut skip = entry.size - tail;
                directory::write(self.names(tree, file), |bytes| {
                    let skipped = skip.min(bytes.len() as u64);
                    skip -= skipped;
                    data.bytes(&bytes[usize::try_from(skipped).expect("not more than the block")..])
                })?;
            }
            _ => {}
        }
        Ok(INODE_SIZE + xattr_size + tail)
    }

    /// The names in a directory as they are written.
    fn names<'a>(&'a self, tree: &'a Tree, directory: File) -> impl Iterator<Item = Name<'a>> {
        self.entries(tree, directory).map(|(name, node)| {
            let kind = match tree.kind(node) {
                S_IFREG => 1,
                S_IFDIR => 2,
                S_IFCHR => 3,
                S_IFBLK => 4,
                S_IFIFO => 5,
                S_IFLNK => 7,
                _ => 0,
            };
            Name {
                name,
                nid: u64::from(self.slots[node.0 as usize]),
                kind,
            }
        })
    }

    /// The names in a directory with `.` and `..` in their places, sorted. Not collected: one directory may have a million.
    fn entries<'a>(
        &'a self,
        tree: &'a Tree,
        File {
            node: directory,
            above,
        }: File,
    ) -> impl Iterator<Item = (&'a [u8], NodeId)> {
        let children = self
            .children(tree, directory)
            .map(|at| &tree.dentries()[self.order[at] as usize]);
        let visible = children.filter(move |dentry| !hidden(tree, directory, dentry.node));
        let mut named = visible
            .map(|dentry| (tree.name(dentry), dentry.node))
            .peekable();
        let mut dots = [(&b"."[..], directory), (&b".."[..], above)]
            .into_iter()
            .peekable();
        std::iter::from_fn(move || match (named.peek(), dots.peek()) {
            (Some(name), Some(dot)) if name.0 < dot.0 => named.next(),
            (_, Some(_)) => dots.next(),
            (_, None) => named.next(),
        })
    }

    /// The part of [`Self::order`] that belongs to a directory.
    fn children(&self, tree: &Tree, directory: NodeId) -> std::ops::Range<usize> {
        let parent = |&at: &u32| tree.dentries()[at as usize].parent;
        let begin = self.order.partition_point(|at| parent(at) < directory);
        let end = self.order.partition_point(|at| parent(at) <= directory);
        begin..end
    }

    fn xattr_size(&self, tree: &Tree, node: NodeId) -> u64 {
        let marks = self.marks(tree, node).len();
        match tree.xattrs(tree.attributes(node).xattrs).len() + marks {
            0 => 0,
            some => HEADER + some as u64,
        }
    }

    /// What a layer says about a file to those below, encoded. A merged image has nobody to say it to.
    fn marks(&self, tree: &Tree, node: NodeId) -> Vec<u8> {
        let entry = tree.node(node);
        let root = node == ROOT;
        let plain = !entry.is_opaque() && !entry.is_implied() && !entry.is_lower_link();
        if matches!(self.purpose, Purpose::Merged { .. }) || (plain && !root) {
            return Vec::new();
        }
        let marks = Marks {
            opaque: entry.is_opaque(),
            implied: entry.is_implied(),
            removes: root && self.root_marks.removes,
            links: root && self.root_marks.links,
            lower_link: entry
                .is_lower_link()
                .then(|| tree.link_target(node).to_vec()),
        };
        marks.encode()
    }

    fn offset(&self, node: NodeId) -> u64 {
        u64::from(self.slots[node.0 as usize]) * SLOT
    }
}

/// In an opaque directory nothing of lower layers can show, so whiteouts in it would only be seen as strange devices.
fn hidden(tree: &Tree, directory: NodeId, child: NodeId) -> bool {
    tree.node(directory).is_opaque() && tree.node(child).is_whiteout()
}
