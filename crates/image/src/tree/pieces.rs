//! Growing lists in pieces that are never moved: a growing vector would hold all of it twice while it moves.

use std::ops::{Index, IndexMut};

/// Items of a piece.
const PIECE: usize = 1 << 16;
/// Bytes of a piece of text; no text is longer.
const TEXT_PIECE: usize = 1 << 20;

/// Items by number.
#[derive(Debug)]
pub(crate) struct Pieces<T> {
    /// Each but the last is full.
    pieces: Vec<Vec<T>>,
}

impl<T> Pieces<T> {
    pub(super) const fn new() -> Self {
        Self { pieces: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        let last = self.pieces.last().map_or(0, Vec::len);
        self.pieces.len().saturating_sub(1) * PIECE + last
    }

    pub(super) fn push(&mut self, item: T) {
        let full = self.pieces.last().is_none_or(|last| last.len() == PIECE);
        if full {
            self.pieces.push(new_piece(self.pieces.is_empty(), PIECE));
        }
        let last = self.pieces.last_mut().expect("one was pushed");
        last.push(item);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pieces.iter_mut().flatten()
    }
}

impl<T> Index<usize> for Pieces<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        &self.pieces[at / PIECE][at % PIECE]
    }
}

impl<T> IndexMut<usize> for Pieces<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        &mut self.pieces[at / PIECE][at % PIECE]
    }
}

/// Many short texts by place; none lies in two pieces.
#[derive(Debug, Default)]
pub(super) struct Text {
    pieces: Vec<Vec<u8>>,
}

impl Text {
    /// Keeps a text; gives its place.
    pub(super) fn push(&mut self, text: &[u8]) -> usize {
        let room = |last: &Vec<u8>| last.len() + text.len() <= TEXT_PIECE;
        if !self.pieces.last().is_some_and(room) {
            self.pieces
                .push(new_piece(self.pieces.is_empty(), TEXT_PIECE));
        }
        let number = self.pieces.len() - 1;
        let last = &mut self.pieces[number];
        let at = number * TEXT_PIECE + last.len();
        last.extend_from_slice(text);
        at
    }

    pub(super) fn at(&self, at: usize, length: usize) -> &[u8] {
        &self.pieces[at / TEXT_PIECE][at % TEXT_PIECE..][..length]
    }
}

/// The first grows as it is filled: small trees stay small.
fn new_piece<T>(first: bool, capacity: usize) -> Vec<T> {
    if first {
        Vec::new()
    } else {
        Vec::with_capacity(capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_found_by_their_number_across_pieces() {
        let mut items = Pieces::new();
        let count = 2 * PIECE + 3;
        for number in 0..count {
            assert_eq!(items.len(), number);
            items.push(number);
        }
        for number in [0, 1, PIECE - 1, PIECE, 2 * PIECE, count - 1] {
            assert_eq!(items[number], number);
            items[number] = 7;
            assert_eq!(items[number], 7);
        }
        items.iter_mut().for_each(|item| *item = 1);
        assert_eq!(items.iter().sum::<usize>(), count);
    }

    #[test]
    fn texts_are_found_at_their_place_across_pieces() {
        let mut text = Text::default();
        let long: Vec<_> = (0..3000_usize)
            .map(|number| vec![b'a' + (number % 26) as u8; 1 + number * 7 % 4095])
            .collect();
        let places: Vec<_> = long.iter().map(|long| text.push(long)).collect();
        assert!(text.pieces.len() > 3);
        for (long, at) in long.iter().zip(places) {
            assert_eq!(text.at(at, long.len()), long);
        }
        assert_eq!(text.at(0, 0), b"");
    }
}
