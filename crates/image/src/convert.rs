//! From archive entries to a layer's tree: paths, whiteouts, links, replacement (OCI image-spec `layer.md`).
//!
//! Nothing is unpacked, so no name in the archive can reach a file of this machine; names are only checked for what a guest can have.
//! Rules where the specification is silent follow containerd and Docker: the last entry with a name wins, a directory replaces anything
//! but a directory, parents are followed through symlinks inside the layer. What cannot be represented exactly is refused.
//!
//! A layer is converted without the layers below it. What depends on them is only noted: whiteouts and opaque directories, directories
//! that are implied by what lies in them, hard links to files this layer does not have. `merge.rs` knows all layers.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::archive::{Archive, ArchiveError, Entry, EntryKind, Segment};
use crate::erofs::{BlockOutput, DataWriter};
use crate::escape::Escaped;
use crate::tree::{
    Attributes, NewNode, NodeId, ROOT, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, Tree,
    TreeFull,
};

pub(crate) mod path;
mod xattrs;

pub use path::PathError;
use path::{LayerPath, Whiteout};
use xattrs::xattrs;

/// The most archive entries of all layers of an image that one pull makes: their trees are in memory at the same time.
pub(crate) const MAX_ENTRIES: u32 = 1 << 20;
/// The most bytes of the files of one layer, holes of sparse files counted.
const MAX_CONTENT: u64 = 16 << 30;

/// How much a layer may hold.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Archive entries there may still be; layers made at the same time share this.
    pub(crate) entries: Arc<AtomicU32>,
    /// Bytes of all files together, holes of sparse files counted.
    pub(crate) content: u64,
}

impl Limits {
    pub(crate) fn new(entries: u32, content: u64) -> Self {
        Self {
            entries: Arc::new(AtomicU32::new(entries)),
            content,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(MAX_ENTRIES, MAX_CONTENT)
    }
}

/// Why an archive is not a layer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The archive itself.
    #[error("the layer's archive is unusable after entry `{last}`")]
    Archive {
        /// The last entry that was read.
        last: Escaped,
        /// What is wrong.
        #[source]
        source: ArchiveError,
    },
    /// An entry's name.
    #[error("entry `{entry}` cannot be used")]
    Path {
        /// The entry.
        entry: Escaped,
        /// What is wrong.
        #[source]
        source: PathError,
    },
    /// An entry that cannot be represented in the file system of the guest.
    #[error("entry `{entry}` is refused: {what}")]
    Entry {
        /// The entry.
        entry: Escaped,
        /// What is wrong.
        what: &'static str,
    },
    /// More than a layer may have.
    #[error("the layer has too much of something at entry `{entry}`: {what}")]
    Limit {
        /// The entry.
        entry: Escaped,
        /// Of what.
        what: &'static str,
    },
    /// The content of an entry could not be written.
    #[error("entry `{entry}` cannot be copied into the image file")]
    Copy {
        /// The entry.
        entry: Escaped,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

/// Reads all of `archive`; contents go to `data` as they come, the rest is the tree.
pub(crate) fn convert<R: Read, O: BlockOutput>(
    archive: &mut Archive<R>,
    data: &mut DataWriter<O>,
    limits: Limits,
) -> Result<Tree, ConvertError> {
    let mut converter = Converter {
        tree: Tree::new(),
        data,
        limits,
        content: 0,
    };
    let mut last = Escaped::new("(none)");
    loop {
        match archive.next() {
            Ok(Some(entry)) => {
                last = Escaped::new(&entry.path);
                converter.entry(archive, entry, &last)?;
            }
            Ok(None) => return Ok(converter.tree),
            Err(source) => return Err(ConvertError::Archive { last, source }),
        }
    }
}

/// What a hard link names.
enum LinkTarget {
    /// A file of this layer, which has a name in `directory`.
    Own { directory: NodeId, node: NodeId },
    /// Perhaps a file of a lower layer: its path, without this layer's symlinks.
    Lower(Vec<u8>),
}

struct Converter<'a, O> {
    tree: Tree,
    data: &'a mut DataWriter<O>,
    limits: Limits,
    content: u64,
}

/// What is wrong with one entry, before its name is added.
enum Refusal {
    Path(PathError),
    Entry(&'static str),
    Limit(&'static str),
    Copy(io::Error),
}

impl<O: BlockOutput> Converter<'_, O> {
    fn entry<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        entry: Entry,
        shown: &Escaped,
    ) -> Result<(), ConvertError> {
        self.place(archive, &entry).map_err(|refusal| {
            let entry = shown.clone();
            match refusal {
                Refusal::Path(source) => ConvertError::Path { entry, source },
                Refusal::Entry(what) => ConvertError::Entry { entry, what },
                Refusal::Limit(what) => ConvertError::Limit { entry, what },
                Refusal::Copy(source) => ConvertError::Copy { entry, source },
            }
        })
    }

    fn place<R: Read>(&mut self, archive: &mut Archive<R>, entry: &Entry) -> Result<(), Refusal> {
        self.count(1)?;
        let path = match LayerPath::parse(&entry.path)? {
            Some(path) => path,
            // Bookkeeping of a long-gone file system (aufs): says nothing about the layer's files.
            None => return Ok(()),
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
                Some(name) => self.file(archive, entry, &path.parents, name),
                None => self.root(entry),
            },
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<(), Refusal> {
        if entry.kind != EntryKind::Directory {
            return Err(Refusal::Entry("it takes the place of the root directory"));
        }
        let new = self.new_node(entry, S_IFDIR)?;
        self.tree.set_attributes(ROOT, new);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        entry: &Entry,
        parents: &[&[u8]],
        name: &[u8],
    ) -> Result<(), Refusal> {
        if let EntryKind::HardLink { target } = &entry.kind {
            return self.hard_link(target, parents, name);
        }
        let parent = self.directory(parents)?;
        if entry.kind == EntryKind::Directory {
            let new = self.new_node(entry, S_IFDIR)?;
            return self.make_directory(parent, name, new);
        }
        let new = self.content(archive, entry)?;
        let node = self.tree.add(new);
        self.tree.link(parent, name, node)?;
        Ok(())
    }

    /// The node of anything but a directory or a hard link, its content copied.
    fn content<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        entry: &Entry,
    ) -> Result<NewNode, Refusal> {
        match &entry.kind {
            EntryKind::File { size, segments } => {
                self.content = self.content.saturating_add(*size);
                if self.content > self.limits.content {
                    return Err(Refusal::Limit("bytes in files"));
                }
                let new = self.new_node(entry, S_IFREG)?;
                let block = self
                    .copy(archive, *size, segments.as_deref())
                    .map_err(Refusal::Copy)?;
                Ok(NewNode {
                    size: *size,
                    data: block,
                    ..new
                })
            }
            EntryKind::Symlink { target } => {
                path::check_link_target(target)?;
                let at = self.tree.store_text(target)?;
                Ok(NewNode {
                    size: target.len() as u64,
                    data: at,
                    ..self.new_node(entry, S_IFLNK)?
                })
            }
            EntryKind::CharDevice { major: 0, minor: 0 } => Err(Refusal::Entry(
                "a device 0:0 would hide a file of a lower layer",
            )),
            &EntryKind::CharDevice { major, minor } => Ok(NewNode {
                data: device(major, minor),
                ..self.new_node(entry, S_IFCHR)?
            }),
            &EntryKind::BlockDevice { major, minor } => Ok(NewNode {
                data: device(major, minor),
                ..self.new_node(entry, S_IFBLK)?
            }),
            EntryKind::Fifo => self.new_node(entry, S_IFIFO),
            EntryKind::Directory | EntryKind::HardLink { .. } => {
                Err(Refusal::Entry("it has no content"))
            }
        }
    }

    fn copy<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        size: u64,
        segments: Option<&[Segment]>,
    ) -> io::Result<u32> {
        if size == 0 {
            return Ok(0);
        }
        let block = self.data.begin()?;
        match segments {
            None => self.data.copy(archive, size)?,
            Some(segments) => {
                let mut position = 0;
                for segment in segments {
                    self.data.zeros(segment.offset - position)?;
                    self.data.copy(archive, segment.length)?;
                    position = segment.offset + segment.length;
                }
                self.data.zeros(size - position)?;
            }
        }
        self.data.end()?;
        Ok(block)
    }

    /// A directory stays what it was, with new attributes; it replaces anything else. In place of a whiteout it hides the lower one.
    fn make_directory(&mut self, parent: NodeId, name: &[u8], new: NewNode) -> Result<(), Refusal> {
        let old = self.tree.find(parent, name);
        if let Some(old) = old.filter(|&old| self.tree.kind(old) == S_IFDIR) {
            self.tree.set_attributes(old, new);
            return Ok(());
        }
        let directory = self.tree.add(new);
        if old.is_some_and(|old| self.tree.node(old).is_whiteout()) {
            self.tree.node_mut(directory).set_opaque();
        }
        self.tree.link(parent, name, directory)?;
        Ok(())
    }

    /// A directory the archive has not named so far. In place of a whiteout there is no lower one it could stand for.
    fn imply_directory(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, Refusal> {
        // They count as entries: a short archive must not make a large tree.
        self.count(1)?;
        let hides = self.tree.find(parent, name).is_some();
        self.make_directory(parent, name, NewNode::implied_directory())?;
        let made = self.tree.find(parent, name).expect("just made");
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
                let node = self.tree.add(NewNode::whiteout());
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
                let node = self.tree.add(NewNode::lower_link(at, path.len()));
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

    fn count(&mut self, more: u32) -> Result<(), Refusal> {
        let left = |left: u32| left.checked_sub(more);
        let counted = self
            .limits
            .entries
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        counted.map(drop).map_err(|_| Refusal::Limit("entries"))
    }

    fn new_node(&mut self, entry: &Entry, kind: u16) -> Result<NewNode, Refusal> {
        if entry.uid == u32::MAX || entry.gid == u32::MAX {
            return Err(Refusal::Entry(
                "its owner is the number that means nobody at all",
            ));
        }
        let xattrs = self.tree.store_xattrs(xattrs(&entry.xattrs)?)?;
        let attributes = Attributes {
            mode: kind | entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            xattrs,
        };
        Ok(NewNode {
            attributes,
            mtime: entry.mtime,
            mtime_ns: entry.mtime_ns,
            size: 0,
            data: 0,
        })
    }
}

/// Linux' encoding of device numbers (`new_encode_dev`).
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

impl From<TreeFull> for Refusal {
    fn from(_: TreeFull) -> Self {
        Self::Limit("names or extended attributes")
    }
}

impl From<PathError> for Refusal {
    fn from(source: PathError) -> Self {
        Self::Path(source)
    }
}

#[cfg(test)]
mod tests;
