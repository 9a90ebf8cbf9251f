//! A real token. It must never be printed, serialised or handed to another process: there is no `Display`, no
//! `Serialize`, `Debug` shows `***`, and the memory is wiped on drop.

use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

/// The longest secret in bytes: far above any token, small enough for a header.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// A real token, only ever in the launcher's memory.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of `text`; the memory is wiped when the value is refused as well.
    ///
    /// # Errors
    /// When the text is empty, longer than [`MAX_SECRET_BYTES`] or holds a control character (such as the newline at
    /// the end of a file), which could end the header it is put in.
    pub fn new(text: impl Into<String>) -> Result<Self, SecretError> {
        let text = Zeroizing::new(text.into());
        if text.is_empty() {
            return Err(SecretError::Empty);
        }
        if text.len() > MAX_SECRET_BYTES {
            return Err(SecretError::TooLong { bytes: text.len() });
        }
        if let Some(position) = text.chars().position(char::is_control) {
            return Err(SecretError::ControlCharacter { position });
        }
        Ok(Self(text))
    }

    /// The token itself. Every caller is a place to review.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a text is not a secret; never holds a part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SecretError {
    /// Nothing was given.
    #[error("the secret is empty")]
    Empty,
    /// Longer than [`MAX_SECRET_BYTES`].
    #[error("the secret has {bytes} bytes, the most is {MAX_SECRET_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A control character, for example a line end.
    #[error("the secret holds a control character at position {position}")]
    ControlCharacter {
        /// Zero-based position in characters.
        position: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_three_stars_also_inside_other_types() {
        let secret = Secret::new("sk-real").unwrap();
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(***)");
        assert_eq!(secret.expose(), "sk-real");
    }

    #[test]
    fn refuses_what_could_end_a_header() {
        for (text, position) in [
            ("a\r\nX: y", 1),
            ("tok\n", 3),
            ("\0", 0),
            ("a\u{7f}", 1),
            ("é\u{85}", 1),
        ] {
            let refused = Secret::new(text).unwrap_err();
            assert_eq!(refused, SecretError::ControlCharacter { position });
        }
    }

    #[test]
    fn refuses_empty_and_oversize() {
        assert_eq!(Secret::new("").unwrap_err(), SecretError::Empty);
        assert!(Secret::new("x".repeat(MAX_SECRET_BYTES)).is_ok());
        let bytes = MAX_SECRET_BYTES + 1;
        let refused = Secret::new("x".repeat(bytes)).unwrap_err();
        assert_eq!(refused, SecretError::TooLong { bytes });
    }

    #[test]
    fn no_error_repeats_the_text() {
        let refused = Secret::new("hunter2\n").unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("hunter2"));
    }
}
