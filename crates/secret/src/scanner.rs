//! Finds placeholders in bytes: one search for the marker word, then a look-up of the random tail. A placeholder is
//! recognised by its tail, so one with its prefix cut off or changed is found as well. Case-sensitive; decoding
//! (percent, base64) is the caller's part.

use memchr::memmem::Finder;

use crate::placeholder::{MARKER, Placeholder, TAIL_BYTES};

/// Looks for any of a fixed set of placeholders.
#[derive(Debug, Clone)]
pub struct PlaceholderScanner {
    marker: Finder<'static>,
    /// Tail and index, sorted by tail.
    tails: Vec<(String, usize)>,
}

impl PlaceholderScanner {
    /// A scanner for these; the index it answers is the position in `placeholders`.
    #[must_use]
    pub fn new<'a>(placeholders: impl IntoIterator<Item = &'a Placeholder>) -> Self {
        let mut tails: Vec<_> = placeholders
            .into_iter()
            .enumerate()
            .map(|(index, placeholder)| (placeholder.tail().to_owned(), index))
            .collect();
        tails.sort_unstable();
        Self {
            marker: Finder::new(MARKER).into_owned(),
            tails,
        }
    }

    /// Whether there is nothing to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tails.is_empty()
    }

    /// Index of the first placeholder whose identifying tail lies whole in `bytes`.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<usize> {
        if self.is_empty() || bytes.len() < TAIL_BYTES {
            return None;
        }
        self.marker
            .find_iter(bytes)
            .find_map(|at| self.index_of(bytes.get(at..at + TAIL_BYTES)?))
    }

    fn index_of(&self, tail: &[u8]) -> Option<usize> {
        let at = self
            .tails
            .binary_search_by(|(known, _)| known.as_bytes().cmp(tail))
            .ok()?;
        Some(self.tails[at].1)
    }

    /// Starts a search over bytes that arrive in pieces.
    #[must_use]
    pub fn stream(&self) -> StreamScanner<'_> {
        StreamScanner {
            scanner: self,
            carry: Vec::with_capacity(2 * TAIL_BYTES),
        }
    }
}

/// [`PlaceholderScanner`] over a stream: finds a placeholder however the bytes are cut. Holds less than two tails.
#[derive(Debug)]
pub struct StreamScanner<'a> {
    scanner: &'a PlaceholderScanner,
    carry: Vec<u8>,
}

impl StreamScanner<'_> {
    /// Looks at the next piece; answers as [`PlaceholderScanner::find`] over everything so far would.
    pub fn push(&mut self, piece: &[u8]) -> Option<usize> {
        let head = &piece[..piece.len().min(TAIL_BYTES - 1)];
        let kept = self.carry.len();
        self.carry.extend_from_slice(head);
        let found = if kept == 0 {
            None
        } else {
            self.scanner.find(&self.carry)
        };
        let found = found.or_else(|| self.scanner.find(piece));
        if piece.len() >= TAIL_BYTES - 1 {
            self.carry.clear();
            self.carry
                .extend_from_slice(&piece[piece.len() - (TAIL_BYTES - 1)..]);
        } else {
            let surplus = self.carry.len().saturating_sub(TAIL_BYTES - 1);
            self.carry.drain(..surplus);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn three() -> Vec<Placeholder> {
        ["", "gho_", "sk-ant-"]
            .iter()
            .map(|prefix| Placeholder::mint(prefix).unwrap())
            .collect()
    }

    #[test]
    fn finds_each_and_says_which() {
        let all = three();
        let scanner = PlaceholderScanner::new(&all);
        for (index, placeholder) in all.iter().enumerate() {
            let text = format!("Bearer {placeholder};");
            assert_eq!(scanner.find(text.as_bytes()), Some(index));
        }
    }

    #[test]
    fn finds_one_whose_prefix_was_cut_off() {
        let all = three();
        let scanner = PlaceholderScanner::new(&all);
        assert_eq!(scanner.find(&all[2].as_str().as_bytes()[4..]), Some(2));
    }

    #[test]
    fn finds_nothing_in_parts_other_placeholders_or_with_an_empty_set() {
        let all = three();
        let scanner = PlaceholderScanner::new(&all);
        let text = all[1].as_str();
        assert_eq!(scanner.find(&text.as_bytes()[..text.len() - 1]), None);
        let stranger = Placeholder::mint("gho_").unwrap();
        assert_eq!(scanner.find(stranger.as_str().as_bytes()), None);
        assert_eq!(PlaceholderScanner::new([]).find(text.as_bytes()), None);
    }

    #[test]
    fn finds_one_behind_a_false_start() {
        let all = three();
        let scanner = PlaceholderScanner::new(&all);
        let text = format!("agentvmagentagentvm{}", all[0]);
        assert_eq!(scanner.find(text.as_bytes()), Some(0));
    }

    proptest! {
        #[test]
        fn a_stream_finds_the_same_under_any_chunking(
            before in prop::collection::vec(any::<u8>(), 0..90),
            after in prop::collection::vec(any::<u8>(), 0..90),
            cuts in prop::collection::vec(1_usize..60, 1..12),
            cut_tail in 0_usize..2,
        ) {
            let placeholder = Placeholder::mint("x-").unwrap();
            let scanner = PlaceholderScanner::new([&placeholder]);
            let text = placeholder.as_str();
            let bytes = [&before, &text.as_bytes()[..text.len() - cut_tail], &after].concat();
            let mut stream = scanner.stream();
            let (mut rest, mut found, mut turn) = (&bytes[..], None, 0);
            while !rest.is_empty() {
                let (piece, next) = rest.split_at(cuts[turn % cuts.len()].min(rest.len()));
                found = found.or(stream.push(piece));
                rest = next;
                turn += 1;
            }
            prop_assert_eq!(found, scanner.find(&bytes));
        }
    }
}
