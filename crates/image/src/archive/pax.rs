//! pax records: `LENGTH KEY=VALUE\n`, overriding what the header says (POSIX.1 pax; xattrs as `SCHILY.xattr.NAME`).

use super::sparse::SparseRecords;
use super::{ArchiveError, once, without_nul};

/// What metadata headers say about the next entry.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    /// GNU long name.
    pub(super) long_path: Option<Vec<u8>>,
    /// GNU long link target.
    pub(super) long_link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
    any: bool,
}

impl Overrides {
    /// Whether there was no header yet.
    pub(super) fn is_empty(&self) -> bool {
        !self.any && self.long_path.is_none() && self.long_link.is_none()
    }

    /// Takes over the GNU long names.
    pub(super) fn join_names(&mut self) -> Result<(), ArchiveError> {
        once(self.path.is_none() || self.long_path.is_none())?;
        once(self.link.is_none() || self.long_link.is_none())?;
        self.path = self.path.take().or_else(|| self.long_path.take());
        self.link = self.link.take().or_else(|| self.long_link.take());
        Ok(())
    }

    /// Takes the records of one extended header.
    pub(super) fn read_pax(&mut self, body: &[u8]) -> Result<(), ArchiveError> {
        once(!std::mem::replace(&mut self.any, true))?;
        let mut rest = body;
        while !rest.is_empty() {
            let (key, value, after) = record(rest).ok_or(ArchiveError::Meta {
                what: "a malformed pax record",
            })?;
            self.take(key, value)?;
            rest = after;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        let refuse = |what| ArchiveError::Meta { what };
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            let name = without_nul(name.to_vec())?;
            self.xattrs.retain(|(other, _)| *other != name);
            self.xattrs.push((name, value.to_vec()));
            return Ok(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.take(key, value);
        }
        // An empty value takes an earlier record back.
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| without_nul(value.to_vec())).transpose()?,
            b"linkpath" => self.link = given.then(|| without_nul(value.to_vec())).transpose()?,
            b"size" => {
                self.size = given
                    .then(|| decimal(value).ok_or(refuse("a pax size out of range")))
                    .transpose()?
            }
            b"uid" => {
                self.uid = given
                    .then(|| owner(value).ok_or(refuse("a pax uid out of range")))
                    .transpose()?
            }
            b"gid" => {
                self.gid = given
                    .then(|| owner(value).ok_or(refuse("a pax gid out of range")))
                    .transpose()?
            }
            b"mtime" => {
                self.mtime = given
                    .then(|| time(value).ok_or(refuse("a malformed pax mtime")))
                    .transpose()?
            }
            _ => {}
        }
        Ok(())
    }
}

/// A global header may carry a comment (`git archive`), but nothing that changes later entries: readers disagree about that.
pub(super) fn check_global(body: &[u8]) -> Result<(), ArchiveError> {
    let mut rest = body;
    while !rest.is_empty() {
        let (key, _, after) = record(rest).ok_or(ArchiveError::Meta {
            what: "a malformed pax record",
        })?;
        let overriding =
            [&b"path"[..], b"linkpath", b"size", b"uid", b"gid", b"mtime"].contains(&key);
        if overriding || key.starts_with(b"SCHILY.") || key.starts_with(b"GNU.sparse.") {
            return Err(ArchiveError::Meta {
                what: "a global pax header that overrides entries",
            });
        }
        rest = after;
    }
    Ok(())
}

/// Key and value of the first record, and what follows it.
///
/// Not `tar::PaxExtensions`, which ends records at newlines and silently stops at an empty one: the values of extended attributes are
/// any bytes (`security.capability`, `security.ima`), and records that only some readers see are not for an untrusted archive.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(21).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let (whole, rest) = bytes.split_at_checked(length)?;
    let content = whole.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = content.iter().position(|&byte| byte == b'=')?;
    (equals > 0).then(|| (&content[..equals], &content[equals + 1..], rest))
}

/// An unsigned decimal number below 2^60.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    let number = text.iter().try_fold(0_u64, |value, digit| {
        digit
            .is_ascii_digit()
            .then(|| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
            .flatten()
    })?;
    (number <= 1 << 60).then_some(number)
}

fn owner(text: &[u8]) -> Option<u32> {
    u32::try_from(decimal(text)?).ok()
}

/// `[-]SECONDS[.FRACTION]` as seconds rounded down and nanoseconds.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text
        .strip_prefix(b"-")
        .map_or((false, text), |rest| (true, rest));
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanoseconds = 0;
    let mut unit = 100_000_000;
    for digit in parts.next().unwrap_or_default() {
        nanoseconds += u32::from(digit.is_ascii_digit().then(|| digit - b'0')?) * unit;
        unit /= 10;
    }
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_archive::pax_record;

    #[test]
    fn times_round_down() {
        for (text, parsed) in [
            (&b"5"[..], Some((5, 0))),
            (b"5.25", Some((5, 250_000_000))),
            (b"-5.25", Some((-6, 750_000_000))),
            (b"-5", Some((-5, 0))),
            (b"1.0000000019", Some((1, 1))),
            (b"", None),
            (b"1.x", None),
            (b"1e5", None),
        ] {
            assert_eq!(time(text), parsed, "{text:?}");
        }
    }

    #[test]
    fn records_must_have_their_stated_length() {
        assert_eq!(
            record(b"8 ab=cd\nrest"),
            Some((&b"ab"[..], &b"cd"[..], &b"rest"[..]))
        );
        for bad in [
            &b"9 ab=cd\n"[..],
            b"7 ab=cd\n",
            b"8 abcd!\n",
            b"0 a=b\n",
            b"1 ",
            b"6 =bcd",
            b"-1 a=b\n",
            b"99999999999999999999 a=b\n",
            b"x",
            b"6 =bc\n",
        ] {
            assert_eq!(record(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn values_are_any_bytes_which_the_tar_crate_does_not_read() {
        let capability = b"\x01\0\0\x02\x0a\0\0\0\n\n";
        let body = pax_record(b"SCHILY.xattr.security.capability", capability);
        let body = [body, pax_record(b"path", b"after")].concat();
        let mut meta = Overrides::default();
        meta.read_pax(&body).unwrap();
        let xattr = (b"security.capability".to_vec(), capability.to_vec());
        assert_eq!(meta.xattrs, [xattr]);
        assert_eq!(meta.path.as_deref(), Some(&b"after"[..]));
        // Should the crate learn it, `record` can go.
        assert!(tar::PaxExtensions::new(&body).any(|record| record.is_err()));
        let hidden = b"\n9 path=a\n";
        assert!(Overrides::default().read_pax(hidden).is_err());
        assert_eq!(tar::PaxExtensions::new(hidden).count(), 0);
    }

    #[test]
    fn last_record_wins_and_empty_takes_back() {
        let mut meta = Overrides::default();
        meta.read_pax(b"9 path=a\n9 path=b\n11 size=12\n8 size=\n11 uid=007\n")
            .unwrap();
        assert_eq!(
            (meta.path.as_deref(), meta.size, meta.uid),
            (Some(&b"b"[..]), None, Some(7))
        );
    }

    #[test]
    fn overriding_global_headers_are_refused() {
        assert!(check_global(b"13 comment=x\n").is_ok());
        assert!(check_global(b"9 path=a\n").is_err());
        assert!(check_global(b"22 SCHILY.xattr.user.a=\n").is_err());
    }
}
