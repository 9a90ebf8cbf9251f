//! Before a disk is kept it is searched for what belongs to the session that made it: its placeholders and its authority.
//! All of the disk is searched, deleted files too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use agent_vm_credentials::Credential;
use agent_vm_secret::PlaceholderScanner;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::build::BaseError;
use super::record::Level;
use super::store::NewBase;

/// How much of the disk is read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Characters of a certificate that identify it: one full line of its PEM text (RFC 7468).
const PEM_LINE: usize = 64;

/// What must not be on a disk.
pub(super) struct Leftovers {
    names: Vec<String>,
    placeholders: PlaceholderScanner,
    authority: Option<Vec<u8>>,
}

impl Leftovers {
    pub(super) fn of(credentials: &[Credential], ca_pem: &str) -> Self {
        // The key is in the later lines; the first ones are alike in all sessions.
        let mut lines = ca_pem.lines().filter(|line| line.len() == PEM_LINE);
        Self {
            names: credentials
                .iter()
                .map(|credential| credential.name.clone())
                .collect(),
            placeholders: PlaceholderScanner::new(
                credentials.iter().map(|credential| &credential.placeholder),
            ),
            authority: lines.next_back().map(|line| line.as_bytes().to_vec()),
        }
    }

    /// Lets a disk pass that holds none of it.
    pub(super) fn refuse(&self, level: Level, new: &NewBase) -> Result<(), BaseError> {
        match self.find(&new.disk()).map_err(BaseError::Disk)? {
            Some(what) => Err(BaseError::Leftover { level, what }),
            None => Ok(()),
        }
    }

    /// Says what is found first.
    fn find(&self, disk: &Path) -> io::Result<Option<String>> {
        let disk = fs_err::File::open(disk)?.into_parts().0;
        let length = disk.metadata()?.len();
        let mut at = 0;
        while at < length {
            let start = match seek(&disk, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno.into()),
            };
            let end = seek(&disk, SeekFrom::Hole(start))?.min(length);
            if let Some(found) = self.find_in(&disk, start..end)? {
                return Ok(Some(found));
            }
            at = end;
        }
        Ok(None)
    }

    fn find_in(&self, disk: &File, range: std::ops::Range<u64>) -> io::Result<Option<String>> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut at = range.start;
        while at < range.end {
            let wanted = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let part = &mut buffer[..wanted.min(CHUNK_BYTES)];
            disk.read_exact_at(part, at)?;
            if let Some(index) = self.placeholders.find(part) {
                return Ok(Some(format!("the placeholder of {}", self.names[index])));
            }
            if let Some(line) = &self.authority
                && memchr::memmem::find(part, line).is_some()
            {
                return Ok(Some("the certificate of its session".to_owned()));
            }
            // What lies across two parts is seen in the second.
            let step = part.len() as u64;
            let next = at + step;
            at = if next < range.end {
                next - OVERLAP_BYTES
            } else {
                next
            };
        }
        Ok(None)
    }
}

/// No less than the longest thing searched for.
const OVERLAP_BYTES: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use agent_vm_credentials::HeaderSpec;
    use agent_vm_secret::{Placeholder, Secret};

    fn credential() -> Credential {
        Credential {
            name: "TOK".to_owned(),
            secret: Some(Secret::new("the-real-token").unwrap()),
            placeholder: Placeholder::mint("pre-").unwrap(),
            hosts: Vec::new(),
            header: HeaderSpec::bearer(),
            source: "$TOK".to_owned(),
            refresh: None,
        }
    }

    fn disk(at: u64, bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 30).unwrap();
        file.as_file().write_all_at(&[1; 4096], 0).unwrap();
        file.as_file().write_all_at(bytes, at).unwrap();
        file
    }

    #[test]
    fn a_placeholder_is_found_wherever_it_lies() {
        let credential = credential();
        let leftovers = Leftovers::of(std::slice::from_ref(&credential), "");
        let placeholder = credential.placeholder.as_str().as_bytes();
        for at in [4096, (1 << 20) - 7, (700 << 20) + 3] {
            let disk = disk(at, placeholder);
            let found = leftovers.find(disk.path()).unwrap();
            assert_eq!(found.as_deref(), Some("the placeholder of TOK"), "at {at}");
        }
        let clean = disk(4096, b"pre-agentvm and nothing");
        assert_eq!(leftovers.find(clean.path()).unwrap(), None);
    }

    #[test]
    fn the_sessions_certificate_is_found() {
        let line = "QUJD".repeat(16);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{line}\nQQ==\n-----END CERTIFICATE-----\n");
        let leftovers = Leftovers::of(&[], &pem);
        let found = leftovers.find(disk(8192, pem.as_bytes()).path()).unwrap();
        assert!(found.is_some());
        assert_eq!(leftovers.find(disk(8192, b"x").path()).unwrap(), None);
    }
}
