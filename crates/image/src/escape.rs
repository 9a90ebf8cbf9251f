//! Hostile names shown to people: every byte that is not printable ASCII is escaped and the length is bounded, so that an error
//! message made from registry or layer content can neither drive a terminal nor fill a screen.

use std::fmt::{self, Display, Write as _};

/// The most bytes of a name that are shown; the rest is replaced by `…` and the full length.
pub(crate) const MAX_SHOWN_BYTES: usize = 256;

/// Untrusted bytes prepared for an error message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Escaped(String);

impl Escaped {
    /// Escapes `bytes`: printable ASCII stays, the backslash is doubled, everything else becomes `\xNN`.
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let mut text = String::new();
        for &byte in &bytes[..bytes.len().min(MAX_SHOWN_BYTES)] {
            match byte {
                b'\\' => text.push_str("\\\\"),
                0x20..=0x7e => text.push(char::from(byte)),
                _ => write!(text, "\\x{byte:02x}").expect("a String takes every write"),
            }
        }
        if bytes.len() > MAX_SHOWN_BYTES {
            write!(text, "… ({} bytes)", bytes.len()).expect("a String takes every write");
        }
        Self(text)
    }

    /// The escaped text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for Escaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_never_reach_the_terminal() {
        assert_eq!(
            Escaped::new("a\x1b]0;x\x07\n\u{e9}\\").as_str(),
            "a\\x1b]0;x\\x07\\x0a\\xc3\\xa9\\\\"
        );
    }

    #[test]
    fn long_names_are_cut_and_their_length_is_told() {
        let shown = Escaped::new(vec![b'x'; 5000]);
        assert!(shown.as_str().len() < 300);
        assert!(shown.as_str().ends_with("… (5000 bytes)"));
    }
}
