//! What the guest holds instead of a token: `PREFIX` + `agentvm` + 32 random characters (160 bits).
//!
//! The prefix gives a client the shape it checks for (`sk-ant-oat01-`, `gho_`). The random tail, not the prefix, is
//! what identifies a placeholder, so none can be a part of another, and all characters are safe unescaped in headers,
//! URLs, JSON and shells.

use std::fmt;

use thiserror::Error;

/// Every placeholder's tail begins with this word; one search for it finds them all.
pub(crate) const MARKER: &str = "agentvm";
/// Random characters after the marker, 5 bits each.
const RANDOM_CHARACTERS: usize = 32;
/// Marker and random part together.
pub(crate) const TAIL_BYTES: usize = MARKER.len() + RANDOM_CHARACTERS;
/// The longest prefix in bytes.
pub const MAX_PREFIX_BYTES: usize = 64;
/// RFC 4648 base 32 in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Stands for one secret inside one guest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Placeholder(String);

impl Placeholder {
    /// Makes a new one from the kernel's random numbers.
    ///
    /// # Errors
    /// When the prefix holds anything but letters, digits, `-`, `_`, `.`, holds the marker word itself, is longer
    /// than [`MAX_PREFIX_BYTES`], or the kernel gives no random numbers.
    pub fn mint(prefix: &str) -> Result<Self, MintError> {
        check_prefix(prefix)?;
        let mut random = [0_u8; RANDOM_CHARACTERS];
        getrandom::fill(&mut random).map_err(|source| MintError::Random { source })?;
        let mut text = String::with_capacity(prefix.len() + TAIL_BYTES);
        text.push_str(prefix);
        text.push_str(MARKER);
        text.extend(
            random
                .iter()
                .map(|byte| char::from(ALPHABET[usize::from(byte & 31)])),
        );
        Ok(Self(text))
    }

    /// Reads one that was minted before.
    ///
    /// # Errors
    /// When the text does not have the shape [`Placeholder::mint`] gives.
    pub fn parse(text: &str) -> Result<Self, PlaceholderError> {
        let at = text.find(MARKER).ok_or(PlaceholderError)?;
        let (prefix, tail) = text.split_at(at);
        let random = &tail.as_bytes()[MARKER.len()..];
        let known = random.len() == RANDOM_CHARACTERS
            && random.iter().all(|byte| ALPHABET.contains(byte))
            && check_prefix(prefix).is_ok();
        if !known {
            return Err(PlaceholderError);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text the guest holds.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part that identifies it: marker and random characters.
    pub(crate) fn tail(&self) -> &str {
        &self.0[self.0.len() - TAIL_BYTES..]
    }
}

fn check_prefix(prefix: &str) -> Result<(), MintError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let good =
        prefix.len() <= MAX_PREFIX_BYTES && prefix.bytes().all(plain) && !prefix.contains(MARKER);
    if good {
        Ok(())
    } else {
        Err(MintError::Prefix {
            prefix: prefix.to_owned(),
        })
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Placeholder({})", self.0)
    }
}

/// Why no placeholder could be made.
#[derive(Debug, Error)]
pub enum MintError {
    /// The prefix has characters that are not safe everywhere.
    #[error(
        "placeholder prefix {prefix:?} is not made of at most {MAX_PREFIX_BYTES} letters, digits, `-`, `_` and `.`"
    )]
    Prefix {
        /// As given.
        prefix: String,
    },
    /// The kernel gave no random numbers.
    #[error("no random numbers for a placeholder")]
    Random {
        /// Why.
        #[source]
        source: getrandom::Error,
    },
}

/// The text is not a placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a placeholder")]
pub struct PlaceholderError;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keeps_the_prefix_and_is_never_the_same_twice() {
        let one = Placeholder::mint("sk-ant-oat01-").unwrap();
        let two = Placeholder::mint("sk-ant-oat01-").unwrap();
        assert!(one.as_str().starts_with("sk-ant-oat01-agentvm"));
        assert_ne!(one, two);
        assert_eq!(one.to_string(), one.as_str());
    }

    #[test]
    fn none_is_part_of_another() {
        let all: Vec<_> = ["", "a", "gho_", "sk-ant-"]
            .iter()
            .flat_map(|prefix| (0..8).map(|_| Placeholder::mint(prefix).unwrap()))
            .collect();
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert!(i == j || !one.as_str().contains(other.tail()));
            }
        }
    }

    #[test]
    fn refuses_prefixes_that_need_escaping_or_hold_the_marker() {
        for prefix in ["a b", "a/b", "\"", "é", "x\n", "agentvm", &"x".repeat(65)] {
            assert!(Placeholder::mint(prefix).is_err(), "{prefix:?}");
        }
    }

    #[test]
    fn parse_accepts_only_minted_shapes() {
        let minted = Placeholder::mint("gho_").unwrap();
        assert_eq!(Placeholder::parse(minted.as_str()).unwrap(), minted);
        let long = format!("{minted}a");
        let upper = minted.as_str().to_uppercase();
        for text in [
            "",
            "agentvm",
            "gho_x",
            &long,
            &upper,
            &minted.as_str()[..20],
        ] {
            assert_eq!(Placeholder::parse(text), Err(PlaceholderError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn parse_takes_any_text_without_a_panic(text in ".*") {
            if let Ok(placeholder) = Placeholder::parse(&text) {
                prop_assert_eq!(placeholder.as_str(), text);
            }
        }

        #[test]
        fn parse_is_the_inverse_of_mint(prefix in "[A-Za-z0-9_.-]{0,20}") {
            if let Ok(minted) = Placeholder::mint(&prefix) {
                prop_assert_eq!(Placeholder::parse(minted.as_str()), Ok(minted));
            }
        }
    }
}
