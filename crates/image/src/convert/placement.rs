//! The second step of a conversion: entries get their places in the tree.

use super::journal::Record;
use super::path::{self, LayerPath, PathError, Whiteout};
use super::{Limits, Refusal};
use crate::tree::{Attributes, NewNode, NodeId, ROOT, S_IFDIR, S_IFLNK, S_IFMT, Tree, TreeFull};

/// A tree in the making.
pub(super) struct Placement<'a> {
    tree: Tree,
    limits: &'a Limits,
    /// Directories counted as entries.
    implied: u32,
}

/// What a hard link names.
enum LinkTarget {
    /// A file of this layer, which has a name in `directory`.
    Own { directory: NodeId, node: NodeId },
    /// Perhaps a file of a lower layer: its path, without this layer's symlinks.
    Lower(Vec<u8>),
}

impl<'a> Placement<'a> {
    pub(super) fn new(limits: &'a Limits, room: u64) -> Self {
        Self {
            tree: Tree::new(room),
            limits,
            implied: 0,
        }
    }

    /// There will be so many records.
    pub(super) fn expect(&mut self, records: u64) {
        self.tree
            .expect_names(usize::try_from(records).unwrap_or(usize::MAX));
    }

    /// What was counted is not: the tree may be made again.
    pub(super) fn give_up(self) {
        self.limits.give_back(self.implied);
    }

    pub(super) fn into_tree(self) -> Tree {
        self.tree
    }

    pub(super) fn place(&mut self, record: &Record) -> Result<(), Refusal> {
        let Some(path) = LayerPath::parse(&record.path)? else {
            return Ok(());
        };
        match path.whiteout {
            Some(Whiteout::Opaque) => {
                let directory = self.directory(&path.parents)?;
                self.tree.node_mut(directory).set_opaque();
                Ok(())
            }
            Some(Whiteout::Name(name)) => {
                let parent = self.directory(&path.parents)?;
                self.white_out(parent, name)
            }
            None => match path.name {
                Some(name) => self.file(record, &path.parents, name),
                None => {
                    let new = self.new_node(record)?;
                    Ok(self.tree.set_attributes(ROOT, new)?)
                }
            },
        }
    }

    fn file(&mut self, record: &Record, parents: &[&[u8]], name: &[u8]) -> Result<(), Refusal> {
        let kind = record.mode & S_IFMT;
        if kind == 0 {
            return self.hard_link(&record.target, parents, name);
        }
        let parent = self.directory(parents)?;
        let mut new = self.new_node(record)?;
        if kind == S_IFDIR {
            return self.make_directory(parent, name, new).map(drop);
        }
        if kind == S_IFLNK {
            new.data = self.tree.store_text(&record.target)?;
            new.size = record.target.len() as u64;
        }
        let node = self.tree.add(new)?;
        self.tree.link(parent, name, node)?;
        Ok(())
    }

    /// A directory stays what it was, with new attributes; it replaces anything else. In place of a whiteout it hides the lower one.
    fn make_directory(
        &mut self,
        parent: NodeId,
        name: &[u8],
        new: NewNode,
    ) -> Result<NodeId, Refusal> {
        let old = self.tree.find(parent, name);
        if let Some(old) = old.filter(|&old| self.tree.kind(old) == S_IFDIR) {
            self.tree.set_attributes(old, new)?;
            return Ok(old);
        }
        let directory = self.tree.add(new)?;
        if old.is_some_and(|old| self.tree.node(old).is_whiteout()) {
            self.tree.node_mut(directory).set_opaque();
        }
        self.tree.link(parent, name, directory)?;
        Ok(directory)
    }

    /// A directory the archive has not named so far. In place of a whiteout there is no lower one it could stand for.
    fn imply_directory(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, Refusal> {
        // They count as entries: a short archive must not make a large tree.
        self.limits.count()?;
        self.implied += 1;
        let hides = self.tree.find(parent, name).is_some();
        let made = self.make_directory(parent, name, NewNode::implied_directory())?;
        self.tree.node_mut(made).set_implied(!hides);
        Ok(made)
    }

    /// Whiteouts are about lower layers: what this layer has stays, a directory of it only hides the lower one.
    fn white_out(&mut self, parent: NodeId, name: &[u8]) -> Result<(), Refusal> {
        match self.tree.find(parent, name) {
            Some(own) if self.tree.kind(own) == S_IFDIR => {
                let own = self.tree.node_mut(own);
                own.set_opaque();
                own.set_implied(false);
            }
            Some(_) => {}
            None => {
                let node = self.tree.add(NewNode::whiteout())?;
                self.tree.node_mut(node).set_whiteout();
                self.tree.link(parent, name, node)?;
            }
        }
        Ok(())
    }

    /// A target this layer does not have (yet) is one of a lower layer. Whiteouts of it do not matter: they, too, are about lower layers,
    /// and in whatever order they come.
    fn hard_link(&mut self, target: &[u8], parents: &[&[u8]], name: &[u8]) -> Result<(), Refusal> {
        let Some(LayerPath {
            parents: target_parents,
            name: Some(target_name),
            whiteout: None,
        }) = LayerPath::parse(target)?
        else {
            return Err(Refusal::Entry("its hard link target is not a file"));
        };
        let node = match self.link_target(&target_parents, target_name)? {
            LinkTarget::Own { directory, node } => {
                let parent = self.directory(parents)?;
                if (parent, name) == (directory, target_name) {
                    return Err(Refusal::Entry("it is a hard link to itself"));
                }
                node
            }
            LinkTarget::Lower(path) if path.len() > path::MAX_PATH => {
                return Err(PathError::TooLong.into());
            }
            LinkTarget::Lower(path) => {
                let at = self.tree.store_text(&path)?;
                let node = self.tree.add(NewNode::lower_link(at, path.len()))?;
                self.tree.node_mut(node).set_lower_link();
                node
            }
        };
        let parent = self.directory(parents)?;
        self.tree.link(parent, name, node)?;
        Ok(())
    }

    fn link_target(&self, parents: &[&[u8]], name: &[u8]) -> Result<LinkTarget, Refusal> {
        let mut walk = path::Walk::new(parents);
        while let Some(step) = walk.next_name() {
            match self.tree.find(walk.directory(), &step) {
                Some(node) if self.tree.kind(node) == S_IFDIR => walk.enter(node, step),
                Some(node) if self.tree.kind(node) == S_IFLNK => {
                    walk.follow(self.tree.link_target(node))?
                }
                Some(node) if !self.tree.node(node).is_whiteout() => {
                    return Err(Refusal::Entry(
                        "a parent of its hard link target is not a directory",
                    ));
                }
                _ => {
                    let path = [walk.rest(&step).as_slice(), b"/", name].concat();
                    return Ok(LinkTarget::Lower(path));
                }
            }
        }
        let directory = walk.directory();
        match self.tree.find(directory, name) {
            Some(node) if self.tree.kind(node) == S_IFDIR => {
                Err(Refusal::Entry("its hard link target is not a file"))
            }
            Some(node) if !self.tree.node(node).is_whiteout() => {
                Ok(LinkTarget::Own { directory, node })
            }
            _ => Ok(LinkTarget::Lower(walk.rest(name))),
        }
    }

    /// The directory at `components`, symlinks of this layer followed, what is missing made.
    fn directory(&mut self, components: &[&[u8]]) -> Result<NodeId, Refusal> {
        let mut walk = path::Walk::new(components);
        while let Some(name) = walk.next_name() {
            let parent = walk.directory();
            let found = self.tree.find(parent, name.as_slice());
            match found.map(|node| (node, self.tree.kind(node))) {
                Some((node, S_IFDIR)) => walk.enter(node, name),
                Some((node, S_IFLNK)) => walk.follow(self.tree.link_target(node))?,
                Some((node, _)) if !self.tree.node(node).is_whiteout() => {
                    return Err(Refusal::Entry("one of its parents is not a directory"));
                }
                _ => {
                    let made = self.imply_directory(parent, &name)?;
                    walk.enter(made, name);
                }
            }
        }
        Ok(walk.directory())
    }

    fn new_node(&mut self, record: &Record) -> Result<NewNode, TreeFull> {
        let attributes = Attributes {
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            xattrs: self.tree.store_xattrs(&record.xattrs)?,
        };
        Ok(NewNode {
            attributes,
            mtime: record.mtime,
            mtime_ns: record.mtime_ns,
            size: record.size,
            data: record.data,
        })
    }
}
