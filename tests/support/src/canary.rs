//! A planted token and the search for it: the reusable proof that a real secret reached no place it must not reach.
//!
//! A search looks for the token as it is, in hexadecimal and in base64 at each of the three alignments. Every test
//! that asserts an absence also searches for a marker it planted itself (a positive control): a search that could not
//! find anything proves nothing.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// How much of a file or memory region is read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A token no program makes by chance, and the forms it is searched in.
#[derive(Debug, Clone)]
pub struct Canary {
    token: String,
    needles: Vec<Vec<u8>>,
}

/// A place where a canary was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The file, or the process's memory region.
    pub place: String,
    /// Byte offset in it.
    pub offset: u64,
}

impl Canary {
    /// A fresh canary whose token begins with `prefix`.
    ///
    /// # Panics
    /// When the kernel gives no random bytes.
    #[must_use]
    pub fn mint(prefix: &str) -> Self {
        let mut random = [0_u8; 20];
        let mut source = fs_err::File::open("/dev/urandom").expect("the kernel has /dev/urandom");
        source
            .read_exact(&mut random)
            .expect("the kernel has random bytes");
        Self::new(format!("{prefix}{}", hex(&random)))
    }

    /// A canary of a given token, of at least 16 bytes.
    ///
    /// # Panics
    /// When the token is too short to be searched for.
    #[must_use]
    pub fn new(token: String) -> Self {
        assert!(
            token.len() >= 16,
            "a canary of {} bytes would be found by chance",
            token.len()
        );
        let mut needles = vec![
            token.clone().into_bytes(),
            hex(token.as_bytes()).into_bytes(),
        ];
        needles.extend((0..3).map(|alignment| base64_core(token.as_bytes(), alignment)));
        Self { token, needles }
    }

    /// The token itself.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether a text holds the token in any of its forms.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        !self.offsets(text.as_bytes()).is_empty()
    }

    /// Searches bytes.
    #[must_use]
    pub fn search_bytes(&self, place: &str, bytes: &[u8]) -> Vec<Sighting> {
        self.offsets(bytes)
            .into_iter()
            .map(|offset| Sighting {
                place: place.to_owned(),
                offset,
            })
            .collect()
    }

    /// Searches one regular file; its holes are passed over.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn search_file(&self, path: &Path) -> Result<Vec<Sighting>> {
        let mut file = fs_err::File::open(path)?;
        let place = path.display().to_string();
        let mut found = Vec::new();
        let mut position = 0;
        while let Some(data) = next_data(&file, position)? {
            position = data.end;
            found.extend(self.search_reader(&place, &mut file, data)?);
        }
        Ok(found)
    }

    /// Searches every regular file below a directory; symbolic links are not followed, their targets are searched.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn search_tree(&self, root: &Path) -> Result<Vec<Sighting>> {
        let mut found = Vec::new();
        let mut pending: Vec<PathBuf> = vec![root.to_path_buf()];
        while let Some(path) = pending.pop() {
            let kind = fs_err::symlink_metadata(&path)?.file_type();
            let name = path.as_os_str().as_encoded_bytes();
            found.extend(self.search_bytes(&format!("name of {}", path.display()), name));
            if kind.is_dir() {
                for entry in fs_err::read_dir(&path)? {
                    pending.push(entry?.path());
                }
            } else if kind.is_symlink() {
                let target = fs_err::read_link(&path)?;
                let place = format!("target of {}", path.display());
                found.extend(self.search_bytes(&place, target.as_os_str().as_encoded_bytes()));
            } else if kind.is_file() {
                found.extend(self.search_file(&path)?);
            }
        }
        Ok(found)
    }

    /// Searches all readable memory of a running process from outside; needs the right to trace it. For a virtual
    /// machine monitor this includes the whole memory of its guest.
    ///
    /// Gives the sightings and the number of bytes that were read.
    ///
    /// # Errors
    /// When the process is gone or may not be traced.
    pub fn search_process(&self, pid: u32) -> Result<(Vec<Sighting>, u64)> {
        let maps = fs_err::read_to_string(format!("/proc/{pid}/maps"))?;
        let mut memory = fs_err::File::open(format!("/proc/{pid}/mem"))?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for line in maps.lines() {
            let Some((range, readable)) = parse_mapping(line) else {
                continue;
            };
            // The kernel's own pages, and regions that vanish or are device memory, cannot be read.
            if !readable
                || line.ends_with("[vvar]")
                || line.ends_with("[vvar_vclock]")
                || line.ends_with("[vsyscall]")
            {
                continue;
            }
            let size = range.end - range.start;
            if let Ok(sightings) = self.search_reader(line, &mut memory, range) {
                found.extend(sightings);
                bytes += size;
            }
        }
        anyhow::ensure!(bytes > 0, "no memory of process {pid} could be read");
        Ok((found, bytes))
    }

    fn search_reader(
        &self,
        place: &str,
        reader: &mut fs_err::File,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<Sighting>> {
        let overlap = self.needles.iter().map(Vec::len).max().unwrap_or(1) - 1;
        let mut window: Vec<u8> = Vec::with_capacity(CHUNK_BYTES + overlap);
        let mut found = Vec::new();
        let mut position = range.start;
        reader
            .seek(SeekFrom::Start(position))
            .with_context(|| place.to_owned())?;
        while position < range.end {
            let kept = window.len();
            let wanted = usize::try_from(range.end - position)
                .unwrap_or(usize::MAX)
                .min(CHUNK_BYTES);
            let got = reader
                .by_ref()
                .take(wanted as u64)
                .read_to_end(&mut window)?;
            if got == 0 {
                break;
            }
            let base = position - kept as u64;
            found.extend(self.offsets(&window).into_iter().map(|at| Sighting {
                place: place.to_owned(),
                offset: base + at,
            }));
            position += got as u64;
            window.drain(..window.len().saturating_sub(overlap));
        }
        found.dedup();
        Ok(found)
    }

    fn offsets(&self, bytes: &[u8]) -> Vec<u64> {
        let mut offsets: Vec<u64> = self
            .needles
            .iter()
            .flat_map(|needle| memchr::memmem::find_iter(bytes, needle))
            .map(|at| at as u64)
            .collect();
        offsets.sort_unstable();
        offsets
    }
}

/// The next stretch of a file at or after `position` that is not a hole; none at its end.
fn next_data(file: &fs_err::File, position: u64) -> Result<Option<std::ops::Range<u64>>> {
    use rustix::fs::{SeekFrom, seek};
    let start = match seek(file.file(), SeekFrom::Data(position)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(start..seek(file.file(), SeekFrom::Hole(start))?))
}

/// The base64 characters of `bytes` that do not depend on what surrounds it when it begins `alignment` bytes into a
/// group of three.
fn base64_core(bytes: &[u8], alignment: usize) -> Vec<u8> {
    let mut shifted = vec![0; alignment];
    shifted.extend_from_slice(bytes);
    let whole = shifted.len() / 3 * 3;
    let encoded = STANDARD_NO_PAD.encode(&shifted[..whole]);
    encoded.as_bytes()[if alignment == 0 { 0 } else { 4 }..].to_vec()
}

fn parse_mapping(line: &str) -> Option<(std::ops::Range<u64>, bool)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    Some((range, rest.starts_with('r')))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_token_in_every_form_and_at_chunk_borders() {
        let canary = Canary::mint("canary-");
        let directory = tempfile::tempdir().unwrap();
        for padding in [0, 1, 2, CHUNK_BYTES - 5, CHUNK_BYTES - 1] {
            let mut plain = vec![b'.'; padding];
            plain.extend_from_slice(canary.token().as_bytes());
            let path = directory.path().join("plain");
            fs_err::write(&path, &plain).unwrap();
            let seen = canary.search_file(&path).unwrap();
            assert_eq!(
                seen.iter().map(|s| s.offset).collect::<Vec<_>>(),
                [padding as u64],
                "padding {padding}"
            );
            let encoded = STANDARD_NO_PAD.encode(&plain);
            assert!(
                !canary.search_bytes("base64", encoded.as_bytes()).is_empty(),
                "base64, padding {padding}"
            );
            assert!(
                !canary
                    .search_bytes("hex", hex(&plain).as_bytes())
                    .is_empty(),
                "hex, padding {padding}"
            );
        }
        assert!(
            canary
                .search_bytes("other", b"canary-but-not-this-one")
                .is_empty()
        );
    }

    #[test]
    fn finds_the_token_in_a_tree_by_content_name_and_link_target() {
        let canary = Canary::mint("canary-");
        let directory = tempfile::tempdir().unwrap();
        assert!(canary.search_tree(directory.path()).unwrap().is_empty());
        fs_err::create_dir(directory.path().join("sub")).unwrap();
        fs_err::write(directory.path().join("sub/file"), canary.token()).unwrap();
        fs_err::write(directory.path().join(canary.token()), "").unwrap();
        std::os::unix::fs::symlink(canary.token(), directory.path().join("link")).unwrap();
        assert_eq!(canary.search_tree(directory.path()).unwrap().len(), 3);
    }

    #[test]
    fn finds_a_token_in_the_memory_of_a_process() {
        let canary = Canary::mint("canary-");
        let (seen, bytes) = canary.search_process(std::process::id()).unwrap();
        assert!(!seen.is_empty(), "{bytes} bytes searched");
    }
}
