//! From archive entries to a layer's tree: paths, whiteouts, links, replacement (OCI image-spec `layer.md`).
//!
//! Nothing is unpacked, so no name in the archive can reach a file of this machine; names are only checked for what a guest can have.
//! Rules where the specification is silent follow containerd and Docker: the last entry with a name wins, a directory replaces anything
//! but a directory, parents are followed through symlinks inside the layer. What cannot be represented exactly is refused.
//!
//! A layer is converted without the layers below it. What depends on them is only noted: whiteouts and opaque directories, directories
//! that are implied by what lies in them, hard links to files this layer does not have. `merge.rs` knows all layers.
//!
//! It takes two steps. [`read`] goes through the archive: contents are written, entries are checked by themselves and kept in a
//! [`Journal`]. [`tree`] makes the tree of them, when the stream is over and its decoder's memory is free. So one layer never needs both,
//! and a tree that needs more memory than was expected can be begun anew.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::archive::{Archive, ArchiveError, Entry, EntryKind, Segment};
use crate::erofs::{BlockOutput, DataWriter};
use crate::escape::Escaped;
use crate::memory::MEMORY_BUDGET;
use crate::tree::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, Tree, TreeFull};

mod journal;
pub(crate) mod path;
mod placement;
mod xattrs;

pub(crate) use journal::Journal;
pub use path::PathError;

use journal::Record;
use path::LayerPath;
use placement::Placement;
use xattrs::xattrs;

/// The most archive entries of all layers of an image that one pull makes.
pub(crate) const MAX_ENTRIES: u32 = 1 << 20;
/// The most bytes of the files of one layer, holes of sparse files counted.
const MAX_CONTENT: u64 = 16 << 30;

/// How much a layer may hold.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Archive entries there may still be; all layers of a pull share this.
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

    fn count(&self) -> Result<(), Refusal> {
        let left = |left: u32| left.checked_sub(1);
        let counted = self
            .entries
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        counted.map(drop).map_err(|_| Refusal::Limit("entries"))
    }

    fn give_back(&self, entries: u32) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
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
    /// More than the memory of a pull has room for.
    #[error(
        "the layer has more files, names or extended attributes than {} MiB of memory have room for, from entry `{entry}` on",
        MEMORY_BUDGET >> 20
    )]
    Room {
        /// The entry.
        entry: Escaped,
    },
    /// The list of entries could not be kept.
    #[error("the list of the layer's entries cannot be kept in a temporary file")]
    Journal {
        /// What happened.
        #[source]
        source: io::Error,
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

/// Reads all of `archive`; contents go to `data` as they come, entries to `journal`.
pub(crate) fn read<R: Read, O: BlockOutput>(
    archive: &mut Archive<R>,
    data: &mut DataWriter<O>,
    limits: &Limits,
    journal: &mut Journal,
) -> Result<(), ConvertError> {
    let mut reader = Reader {
        archive,
        data,
        limits,
        journal,
        content: 0,
    };
    let mut last = Escaped::new("(none)");
    loop {
        match reader.archive.next() {
            Ok(Some(entry)) => {
                last = Escaped::new(&entry.path);
                reader
                    .entry(entry)
                    .map_err(|refusal| refusal.at(last.clone()))?;
            }
            Ok(None) => return Ok(()),
            Err(source) => return Err(ConvertError::Archive { last, source }),
        }
    }
}

/// Makes the tree of a layer's entries, which takes at most `room` bytes until it is written.
pub(crate) fn tree(
    journal: &mut Journal,
    limits: &Limits,
    room: u64,
) -> Result<Tree, ConvertError> {
    let unreadable = |source| ConvertError::Journal { source };
    let (mut placement, mut record) = (Placement::new(limits, room), Record::default());
    placement.expect(journal.records());
    let mut replay = journal.replay().map_err(unreadable)?;
    while replay.next(&mut record).map_err(unreadable)? {
        if let Err(refusal) = placement.place(&record) {
            placement.give_up();
            return Err(refusal.at(Escaped::new(&record.path)));
        }
    }
    Ok(placement.into_tree())
}

/// Both steps in memory.
pub(crate) fn convert<R: Read, O: BlockOutput>(
    archive: &mut Archive<R>,
    data: &mut DataWriter<O>,
    limits: &Limits,
) -> Result<Tree, ConvertError> {
    let mut journal = Journal::in_memory();
    read(archive, data, limits, &mut journal)?;
    tree(&mut journal, limits, MEMORY_BUDGET)
}

/// What is wrong with one entry, before its name is added.
enum Refusal {
    Path(PathError),
    Entry(&'static str),
    Limit(&'static str),
    Room,
    Copy(io::Error),
    Journal(io::Error),
}

impl Refusal {
    fn at(self, entry: Escaped) -> ConvertError {
        match self {
            Self::Path(source) => ConvertError::Path { entry, source },
            Self::Entry(what) => ConvertError::Entry { entry, what },
            Self::Limit(what) => ConvertError::Limit { entry, what },
            Self::Room => ConvertError::Room { entry },
            Self::Copy(source) => ConvertError::Copy { entry, source },
            Self::Journal(source) => ConvertError::Journal { source },
        }
    }
}

/// The first step: checks entries by themselves, writes contents.
struct Reader<'a, R, O> {
    archive: &'a mut Archive<R>,
    data: &'a mut DataWriter<O>,
    limits: &'a Limits,
    journal: &'a mut Journal,
    /// Bytes of files so far.
    content: u64,
}

impl<R: Read, O: BlockOutput> Reader<'_, R, O> {
    fn entry(&mut self, entry: Entry) -> Result<(), Refusal> {
        self.limits.count()?;
        let path = match LayerPath::parse(&entry.path)? {
            Some(path) => path,
            // Bookkeeping of a long-gone file system (aufs): says nothing about the layer's files.
            None => return Ok(()),
        };
        if path.whiteout.is_none() && path.name.is_none() && entry.kind != EntryKind::Directory {
            return Err(Refusal::Entry("it takes the place of the root directory"));
        }
        let name = path.name.map_or(0, <[u8]>::len);
        let is_whiteout = path.whiteout.is_some();
        let record = if is_whiteout {
            Record {
                path: entry.path,
                ..Record::default()
            }
        } else {
            self.record(entry)?
        };
        match self.journal.push(&record, name) {
            Ok(true) => Ok(()),
            Ok(false) => Err(TreeFull::Text.into()),
            Err(source) => Err(Refusal::Journal(source)),
        }
    }

    /// What an entry other than a whiteout is, its content copied.
    fn record(&mut self, entry: Entry) -> Result<Record, Refusal> {
        if let EntryKind::HardLink { target } = entry.kind {
            LayerPath::parse(&target)?;
            return Ok(Record {
                path: entry.path,
                target,
                ..Record::default()
            });
        }
        if entry.uid == u32::MAX || entry.gid == u32::MAX {
            return Err(Refusal::Entry(
                "its owner is the number that means nobody at all",
            ));
        }
        let mut record = Record {
            path: entry.path,
            xattrs: xattrs(&entry.xattrs)?,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            mtime_ns: entry.mtime_ns,
            ..Record::default()
        };
        record.mode |= match entry.kind {
            EntryKind::File { size, segments } => {
                record.size = size;
                record.data = self.file(size, segments.as_deref())?;
                S_IFREG
            }
            EntryKind::Symlink { target } => {
                path::check_link_target(&target)?;
                record.target = target;
                S_IFLNK
            }
            EntryKind::CharDevice { major: 0, minor: 0 } => {
                return Err(Refusal::Entry(
                    "a device 0:0 would hide a file of a lower layer",
                ));
            }
            EntryKind::CharDevice { major, minor } => {
                record.data = device(major, minor);
                S_IFCHR
            }
            EntryKind::BlockDevice { major, minor } => {
                record.data = device(major, minor);
                S_IFBLK
            }
            EntryKind::Fifo => S_IFIFO,
            EntryKind::Directory => S_IFDIR,
            EntryKind::HardLink { .. } => unreachable!("looked at above"),
        };
        Ok(record)
    }

    /// Copies the content of a file; gives its first block.
    fn file(&mut self, size: u64, segments: Option<&[Segment]>) -> Result<u32, Refusal> {
        self.content = self.content.saturating_add(size);
        if self.content > self.limits.content {
            return Err(Refusal::Limit("bytes in files"));
        }
        self.copy(size, segments).map_err(Refusal::Copy)
    }

    fn copy(&mut self, size: u64, segments: Option<&[Segment]>) -> io::Result<u32> {
        if size == 0 {
            return Ok(0);
        }
        let block = self.data.begin()?;
        match segments {
            None => self.data.copy(self.archive, size)?,
            Some(segments) => {
                let mut position = 0;
                for segment in segments {
                    self.data.zeros(segment.offset - position)?;
                    self.data.copy(self.archive, segment.length)?;
                    position = segment.offset + segment.length;
                }
                self.data.zeros(size - position)?;
            }
        }
        self.data.end()?;
        Ok(block)
    }
}

/// Linux' encoding of device numbers (`new_encode_dev`).
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

impl From<TreeFull> for Refusal {
    fn from(full: TreeFull) -> Self {
        match full {
            TreeFull::Text => Self::Limit("names or extended attributes"),
            TreeFull::Room => Self::Room,
        }
    }
}

impl From<PathError> for Refusal {
    fn from(source: PathError) -> Self {
        Self::Path(source)
    }
}

#[cfg(test)]
mod tests;
