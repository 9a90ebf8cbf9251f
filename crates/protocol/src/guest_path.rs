//! An absolute path inside the guest.
//!
//! Holds only normal form: it starts with `/`, has no NUL, no empty, `.` or `..` component, and is at most
//! [`MAX_PATH`] bytes. It is bytes, not text: file names on Linux need not be UTF-8. Symbolic links are not its
//! business; the guest resolves them inside its new root.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest path in bytes: Linux `PATH_MAX` (4096) less the terminating NUL.
pub const MAX_PATH: usize = 4095;

/// An absolute, normalised guest path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "serde_bytes::ByteBuf", into = "serde_bytes::ByteBuf")]
pub struct GuestPath(Vec<u8>);

/// Why bytes are not a [`GuestPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GuestPathError {
    /// Does not start with `/`.
    #[error("path is not absolute")]
    NotAbsolute,
    /// Has an empty, `.` or `..` component, or ends with `/`.
    #[error("path has an empty, `.` or `..` component")]
    NotNormal,
    /// Contains a NUL byte.
    #[error("path contains a NUL byte")]
    Nul,
    /// Longer than [`MAX_PATH`].
    #[error("path is longer than {MAX_PATH} bytes")]
    TooLong,
}

impl GuestPath {
    /// Checks `bytes` and takes them as a path.
    ///
    /// # Errors
    /// Says which of the conditions of the type does not hold.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, GuestPathError> {
        let bytes = bytes.into();
        if bytes.len() > MAX_PATH {
            return Err(GuestPathError::TooLong);
        }
        if bytes.contains(&0) {
            return Err(GuestPathError::Nul);
        }
        let Some(rest) = bytes.strip_prefix(b"/") else {
            return Err(GuestPathError::NotAbsolute);
        };
        let normal = |component: &[u8]| !matches!(component, b"" | b"." | b"..");
        if !rest.is_empty() && !rest.split(|byte| *byte == b'/').all(normal) {
            return Err(GuestPathError::NotNormal);
        }
        Ok(Self(bytes))
    }

    /// The root directory.
    #[must_use]
    pub fn root() -> Self {
        Self(b"/".to_vec())
    }

    /// The path with its leading `/`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components between the slashes; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split(|byte| *byte == b'/')
            .filter(|component| !component.is_empty())
    }
}

impl std::fmt::Display for GuestPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl TryFrom<serde_bytes::ByteBuf> for GuestPath {
    type Error = GuestPathError;

    fn try_from(bytes: serde_bytes::ByteBuf) -> Result<Self, GuestPathError> {
        Self::new(bytes.into_vec())
    }
}

impl From<GuestPath> for serde_bytes::ByteBuf {
    fn from(path: GuestPath) -> Self {
        Self::from(path.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_root_unicode_spaces_and_bytes_that_are_not_utf8() {
        for good in [
            &b"/"[..],
            b"/a",
            b"/a/b c",
            "/проект/🦀".as_bytes(),
            b"/\xff\xfe",
            b"/...",
            b"/.git",
        ] {
            assert_eq!(GuestPath::new(good).unwrap().as_bytes(), good);
        }
    }

    #[test]
    fn refuses_what_is_not_absolute_and_normal() {
        use GuestPathError::{NotAbsolute, NotNormal, Nul, TooLong};
        let cases: [(&[u8], GuestPathError); 9] = [
            (b"", NotAbsolute),
            (b"a/b", NotAbsolute),
            (b"//", NotNormal),
            (b"/a/", NotNormal),
            (b"/a//b", NotNormal),
            (b"/a/./b", NotNormal),
            (b"/..", NotNormal),
            (b"/a\0b", Nul),
            (&[b'/'; MAX_PATH + 1], TooLong),
        ];
        for (bad, why) in cases {
            assert_eq!(GuestPath::new(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn components_of_root_are_none() {
        assert_eq!(GuestPath::root().components().count(), 0);
        let path = GuestPath::new("/a/b").unwrap();
        assert_eq!(path.components().collect::<Vec<_>>(), [b"a", b"b"]);
    }

    #[test]
    fn a_bad_path_does_not_decode() {
        let wire = postcard::to_stdvec(&serde_bytes::ByteBuf::from(b"/a/../b".to_vec())).unwrap();
        assert!(postcard::from_bytes::<GuestPath>(&wire).is_err());
    }
}
