//! Sparse files: which parts of a file are in the archive. Old GNU headers and pax forms 0.0, 0.1 and 1.0 (GNU tar manual, "Sparse Formats").
//!
//! The `tar` crate knows the blocks of the old form; the pax forms it does not know at all.

use std::io::Read;

use tar::GnuExtSparseHeader;

use super::header::segments;
use super::pax::decimal;
use super::{ArchiveError, BLOCK, read_block, without_nul};

/// The most segments of one file.
const MAX_SEGMENTS: usize = 1 << 16;

/// A part of a file that is stored; the rest is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The `GNU.sparse.*` records of an entry.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    any: bool,
    major: Option<u64>,
    minor: Option<u64>,
    size: Option<u64>,
    name: Option<Vec<u8>>,
    /// Offsets and lengths in turn (forms 0.0 and 0.1).
    numbers: Vec<u64>,
}

/// A pax sparse file; without a map the map begins the content (form 1.0).
pub(super) struct Description {
    pub(super) real_size: u64,
    pub(super) name: Option<Vec<u8>>,
    pub(super) map: Option<Vec<Segment>>,
}

impl SparseRecords {
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        self.any = true;
        let number = || {
            decimal(value).ok_or(ArchiveError::Meta {
                what: "a sparse record out of range",
            })
        };
        match key {
            b"major" => self.major = Some(number()?),
            b"minor" => self.minor = Some(number()?),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"name" => self.name = Some(without_nul(value.to_vec())?),
            b"offset" | b"numbytes" => {
                if self.numbers.len().is_multiple_of(2) != (key == b"offset") {
                    return Err(ArchiveError::Meta {
                        what: "sparse offsets and lengths out of turn",
                    });
                }
                self.numbers.push(number()?);
            }
            b"map" => {
                let numbers = value
                    .split(|&byte| byte == b',')
                    .take(2 * MAX_SEGMENTS + 1)
                    .map(decimal)
                    .collect::<Option<_>>();
                self.numbers = numbers.ok_or(ArchiveError::Meta {
                    what: "a malformed sparse map",
                })?;
            }
            b"numblocks" => {}
            _ => {
                return Err(ArchiveError::Meta {
                    what: "an unknown sparse record",
                });
            }
        }
        Ok(())
    }

    /// The file these records describe; `None` if there are none.
    pub(super) fn describe(&self) -> Result<Option<Description>, ArchiveError> {
        if !self.any {
            return Ok(None);
        }
        let real_size = self.size.ok_or(ArchiveError::Meta {
            what: "a sparse file without its size",
        })?;
        let map = match (self.major.unwrap_or(0), self.minor.unwrap_or(0)) {
            (1, 0) => None,
            (0, _) => Some(pairs(&self.numbers)?),
            _ => {
                return Err(ArchiveError::Meta {
                    what: "an unknown sparse version",
                });
            }
        };
        Ok(Some(Description {
            real_size,
            name: self.name.clone(),
            map,
        }))
    }
}

/// The further blocks of an old GNU sparse map.
pub(super) fn read_continuation(
    reader: &mut impl Read,
    mut map: Vec<Segment>,
    mut more: bool,
) -> Result<Vec<Segment>, ArchiveError> {
    while more {
        let mut block = GnuExtSparseHeader::new();
        *block.as_mut_bytes() = read_block(reader)?.ok_or(ArchiveError::Truncated)?;
        map.extend(segments(block.sparse()).ok_or(ArchiveError::Meta {
            what: "a malformed sparse map",
        })?);
        more = block.isextended != [0];
        if map.len() > MAX_SEGMENTS {
            return Err(ArchiveError::Meta {
                what: "too many sparse segments",
            });
        }
    }
    Ok(map)
}

/// The map at the beginning of the content of a form 1.0 file, and how many bytes of the content it takes.
pub(super) fn read_leading_map(
    reader: &mut impl Read,
    stored: u64,
) -> Result<(Vec<Segment>, u64), ArchiveError> {
    let refuse = || ArchiveError::Meta {
        what: "a malformed sparse map",
    };
    let mut numbers: Vec<u64> = Vec::new();
    let (mut digits, mut used) = (Vec::new(), 0);
    loop {
        used += BLOCK as u64;
        if used > stored {
            return Err(refuse());
        }
        for byte in read_block(reader)?.ok_or(ArchiveError::Truncated)? {
            if byte != b'\n' {
                digits.push(byte);
                if digits.len() > 20 {
                    return Err(refuse());
                }
                continue;
            }
            numbers.push(decimal(&digits).ok_or_else(refuse)?);
            digits.clear();
            if numbers[0] > MAX_SEGMENTS as u64 {
                return Err(ArchiveError::Meta {
                    what: "too many sparse segments",
                });
            }
            if numbers.len() as u64 == 1 + 2 * numbers[0] {
                return pairs(&numbers[1..]).map(|map| (map, used));
            }
        }
    }
}

/// The segments must be in order, apart, inside the file, and exactly what is stored.
pub(super) fn check(map: &[Segment], real_size: u64, stored: u64) -> Result<(), ArchiveError> {
    let refuse = || ArchiveError::Meta {
        what: "a sparse map that contradicts its file",
    };
    let (mut end, mut sum) = (0_u64, 0_u64);
    for segment in map {
        if segment.offset < end {
            return Err(refuse());
        }
        end = segment
            .offset
            .checked_add(segment.length)
            .ok_or_else(refuse)?;
        sum += segment.length;
    }
    if end <= real_size && sum == stored {
        Ok(())
    } else {
        Err(refuse())
    }
}

fn pairs(numbers: &[u64]) -> Result<Vec<Segment>, ArchiveError> {
    if !numbers.len().is_multiple_of(2) || numbers.len() > 2 * MAX_SEGMENTS {
        return Err(ArchiveError::Meta {
            what: "a malformed sparse map",
        });
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| Segment {
            offset: pair[0],
            length: pair[1],
        })
        .collect())
}
