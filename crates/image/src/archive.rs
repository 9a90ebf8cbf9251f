//! A streaming reader of tar archives as OCI layers use them: POSIX ustar and pax (IEEE 1003.1-2017 "pax"), GNU long names and sparse files.
//!
//! Untrusted input. Metadata is read up to [`MAX_META_BYTES`], numbers are range-checked, what one reader could understand in another way
//! than the next is refused (checksums, unknown types, overriding global headers, NUL in names). Entry contents are never held: the
//! caller reads them as they come. Where implementations differ, Go's `archive/tar` decides, for images are made and unpacked with it.
//! The `tar` crate reads the headers; where the stream goes on, what belongs together and what is accepted is decided here.

use std::io::{self, Read};

use tar::EntryType;

use crate::escape::Escaped;

mod header;
mod pax;
mod sparse;

pub(crate) use sparse::Segment;

use header::Header;
use pax::Overrides;

/// The size of a tar block.
pub(crate) const BLOCK: usize = 512;
/// The most bytes of one pax header or one GNU long name.
const MAX_META_BYTES: u64 = 1 << 20;
/// The most metadata headers in front of one entry.
const MAX_META_HEADERS: u32 = 16;

/// One entry; its content, if any, is read from the archive before the next entry is asked for.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As it stands in the archive; not checked, not normalised, without NUL.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky (0o7777).
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970, rounded down.
    pub(crate) mtime: i64,
    pub(crate) mtime_ns: u32,
    /// Linux extended attributes by full name, in order of appearance.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// `size` is that of the file; `segments` says which parts of a sparse file are in the archive.
    File {
        size: u64,
        segments: Option<Vec<Segment>>,
    },
    HardLink {
        target: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    Directory,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream below broke, or its compression is damaged.
    #[error("the layer's stream cannot be read")]
    Read {
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The archive ends in the middle of something.
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    /// The block where a header should be is none.
    #[error("no valid header where entry `{path}` should begin: {what}")]
    Header {
        /// The name in the header, as far as there is one.
        path: Escaped,
        /// What is wrong.
        what: &'static str,
    },
    /// Metadata (pax records, long names) that is malformed or too large.
    #[error("the metadata of an entry is not usable: {what}")]
    Meta {
        /// What is wrong.
        what: &'static str,
    },
}

/// Reads entries from `reader`.
pub(crate) struct Archive<R> {
    reader: R,
    /// Content bytes of the current entry not yet read.
    remaining: u64,
    /// Zero bytes after the content.
    padding: u64,
    finished: bool,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            remaining: 0,
            padding: 0,
            finished: false,
        }
    }

    /// The stream below, positioned after the end-of-archive marker once [`Self::next`] gave `None`.
    pub(crate) fn into_inner(self) -> R {
        self.reader
    }

    /// The next entry, or `None` at the end of the archive. What was not read of the last one is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.skip_rest()?;
        let mut meta = Overrides::default();
        for _ in 0..=MAX_META_HEADERS {
            let Some(header) = self.header()? else {
                return if meta.is_empty() {
                    Ok(None)
                } else {
                    Err(ArchiveError::Truncated)
                };
            };
            match header.kind() {
                EntryType::XHeader => meta.read_pax(&self.meta_body(&header)?)?,
                EntryType::XGlobalHeader => pax::check_global(&self.meta_body(&header)?)?,
                EntryType::GNULongName => {
                    let name = long_name(self.meta_body(&header)?)?;
                    once(meta.long_path.replace(name).is_none())?;
                }
                EntryType::GNULongLink => {
                    let name = long_name(self.meta_body(&header)?)?;
                    once(meta.long_link.replace(name).is_none())?;
                }
                _ => return self.entry(&header, meta).map(Some),
            }
        }
        Err(ArchiveError::Meta {
            what: "too many metadata headers in a row",
        })
    }

    fn entry(&mut self, header: &Header, mut meta: Overrides) -> Result<Entry, ArchiveError> {
        meta.join_names()?;
        let path = meta.path.clone().unwrap_or_else(|| header.path());
        let stored = match meta.size {
            Some(size) => size,
            None => header.size()?,
        };
        let link = || meta.link.clone().unwrap_or_else(|| header.link());
        let (mut sparse_name, mut kind) = (None, header.entry_kind(&path, link)?);
        if let EntryKind::File { size, segments } = &mut kind {
            // Only files have content; a size in other headers says nothing about the stream (as in Go).
            self.remaining = stored;
            self.padding = stored.wrapping_neg() % BLOCK as u64;
            *size = stored;
            let (sparse, name) = self.sparse(header, &meta)?;
            sparse_name = name;
            if let Some((real_size, map)) = sparse {
                sparse::check(&map, real_size, self.remaining)?;
                *size = real_size;
                *segments = Some(map);
            }
        }
        let (mtime, mtime_ns) = match meta.mtime {
            Some(mtime) => mtime,
            None => (header.mtime()?, 0),
        };
        Ok(Entry {
            path: sparse_name.unwrap_or(path),
            kind,
            mode: header.mode()?,
            uid: meta.uid.map_or_else(|| header.uid(), Ok)?,
            gid: meta.gid.map_or_else(|| header.gid(), Ok)?,
            mtime,
            mtime_ns,
            xattrs: meta.xattrs,
        })
    }

    /// The sparse map of a file and its real name, from whichever of the four forms it has.
    #[expect(
        clippy::type_complexity,
        reason = "two optional results of one look at the metadata"
    )]
    fn sparse(
        &mut self,
        header: &Header,
        meta: &Overrides,
    ) -> Result<(Option<(u64, Vec<Segment>)>, Option<Vec<u8>>), ArchiveError> {
        if header.kind() == EntryType::GNUSparse {
            let (map, more) = header.sparse_map()?;
            let map = sparse::read_continuation(&mut self.reader, map, more)?;
            return Ok((Some((header.real_size()?, map)), None));
        }
        let Some(description) = meta.sparse.describe()? else {
            return Ok((None, None));
        };
        let map = match description.map {
            Some(map) => map,
            None => {
                let (map, used) = sparse::read_leading_map(&mut self.reader, self.remaining)?;
                self.remaining -= used;
                map
            }
        };
        Ok((Some((description.real_size, map)), description.name))
    }

    /// The next header, or `None` at the end-of-archive marker or the end of the stream.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        if self.finished {
            return Ok(None);
        }
        let block = match read_block(&mut self.reader)? {
            Some(block) if block.iter().any(|&byte| byte != 0) => {
                return Header::parse(&block).map(Some);
            }
            other => other,
        };
        self.finished = true;
        // The marker is two zero blocks; something else after the first is damage, not an end.
        if block.is_some()
            && read_block(&mut self.reader)?
                .is_some_and(|block| block.iter().any(|&byte| byte != 0))
        {
            return Err(ArchiveError::Header {
                path: Escaped::new(""),
                what: "a single zero block in the middle of the archive",
            });
        }
        Ok(None)
    }

    fn meta_body(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        let size = header.size()?;
        if size > MAX_META_BYTES {
            return Err(ArchiveError::Meta {
                what: "a pax header or long name of more than 1 MiB",
            });
        }
        let mut body = Vec::new();
        (&mut self.reader)
            .take(size)
            .read_to_end(&mut body)
            .map_err(|source| ArchiveError::Read { source })?;
        if body.len() as u64 != size {
            return Err(ArchiveError::Truncated);
        }
        self.padding = size.wrapping_neg() % BLOCK as u64;
        self.skip_rest()?;
        Ok(body)
    }

    fn skip_rest(&mut self) -> Result<(), ArchiveError> {
        let left = self.remaining + self.padding;
        let skipped = io::copy(&mut (&mut self.reader).take(left), &mut io::sink())
            .map_err(|source| ArchiveError::Read { source })?;
        (self.remaining, self.padding) = (0, 0);
        if skipped == left {
            Ok(())
        } else {
            Err(ArchiveError::Truncated)
        }
    }
}

/// The content of the current entry.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = (&mut self.reader).take(self.remaining).read(buffer)?;
        self.remaining -= read as u64;
        Ok(read)
    }
}

/// A whole block, or `None` if the stream ends here.
fn read_block(reader: &mut impl Read) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
    let mut block = [0; BLOCK];
    let mut filled = 0;
    while filled < BLOCK {
        match reader.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(ArchiveError::Truncated),
            Ok(read) => filled += read,
            Err(retry) if retry.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(ArchiveError::Read { source }),
        }
    }
    Ok(Some(block))
}

/// Go lets the GNU long name win over pax and the last pax header over the others, GNU tar goes by the order, so an archive with two of a
/// kind in front of one entry means different things to different readers.
fn once(is_first: bool) -> Result<(), ArchiveError> {
    is_first.then_some(()).ok_or(ArchiveError::Meta {
        what: "two headers that name one entry",
    })
}

fn long_name(mut body: Vec<u8>) -> Result<Vec<u8>, ArchiveError> {
    while body.last() == Some(&0) {
        body.pop();
    }
    without_nul(body)
}

fn without_nul(name: Vec<u8>) -> Result<Vec<u8>, ArchiveError> {
    if name.contains(&0) {
        Err(ArchiveError::Meta {
            what: "a name with a NUL byte",
        })
    } else {
        Ok(name)
    }
}

#[cfg(test)]
mod tests;
