//! Takes secrets out of text that is about to be shown or logged. A last line of defence: nothing should put a
//! secret there in the first place.

use std::borrow::Cow;
use std::fmt;

use crate::secret::Secret;

/// What stands where a secret was.
const REPLACEMENT: &str = "***";

/// Replaces a fixed set of secrets by `***`.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Longest first, so that a secret that holds another goes whole.
    secrets: Vec<Secret>,
}

impl Redactor {
    /// Redacts these.
    #[must_use]
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let mut secrets: Vec<_> = secrets.into_iter().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        Self { secrets }
    }

    /// `text` without any of the secrets.
    #[must_use]
    pub fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut clean = Cow::Borrowed(text);
        for secret in &self.secrets {
            if clean.contains(secret.expose()) {
                clean = Cow::Owned(clean.replace(secret.expose(), REPLACEMENT));
            }
        }
        clean
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.secrets.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(secrets: &[&str]) -> Redactor {
        Redactor::new(secrets.iter().map(|text| Secret::new(*text).unwrap()))
    }

    #[test]
    fn replaces_every_occurrence() {
        let clean = redactor(&["tok1", "tok2"])
            .redact("a tok1 b tok2 c tok1")
            .into_owned();
        assert_eq!(clean, "a *** b *** c ***");
    }

    #[test]
    fn a_secret_that_holds_another_goes_whole() {
        assert_eq!(redactor(&["abc", "abcdef"]).redact("x abcdef"), "x ***");
    }

    #[test]
    fn leaves_other_text_untouched_without_a_copy() {
        assert!(matches!(
            redactor(&["tok"]).redact("nothing here"),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn debug_shows_only_the_number() {
        assert_eq!(format!("{:?}", redactor(&["tok"])), "Redactor(1 secrets)");
    }
}
