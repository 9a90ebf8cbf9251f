//! The nodes of a tree, in pieces that are never moved: a growing vector would hold all of them twice while it moves.

use super::{Node, NodeId};

/// Nodes of a piece; 2 MiB.
const PIECE: usize = 1 << 16;

/// Nodes by number.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// Each but the last is full.
    pieces: Vec<Vec<Node>>,
}

impl Nodes {
    pub(super) fn len(&self) -> usize {
        let last = self.pieces.last().map_or(0, Vec::len);
        self.pieces.len().saturating_sub(1) * PIECE + last
    }

    pub(super) fn push(&mut self, node: Node) {
        match self.pieces.last_mut().filter(|piece| piece.len() < PIECE) {
            Some(piece) => piece.push(node),
            None => {
                let mut piece = Vec::new();
                // The first grows as it is filled: small trees stay small.
                if !self.pieces.is_empty() {
                    piece.reserve_exact(PIECE);
                }
                piece.push(node);
                self.pieces.push(piece);
            }
        }
    }

    pub(super) fn at(&self, id: NodeId) -> &Node {
        &self.pieces[id.0 as usize / PIECE][id.0 as usize % PIECE]
    }

    pub(super) fn at_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.pieces[id.0 as usize / PIECE][id.0 as usize % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_by_their_number_across_pieces() {
        let mut nodes = Nodes::default();
        let count = 2 * PIECE + 3;
        for size in 0..count {
            assert_eq!(nodes.len(), size);
            nodes.push(Node {
                size: size as u64,
                mtime: 0,
                mtime_ns: 0,
                attributes: 0,
                data: 0,
                flags: 0,
            });
        }
        for size in [0, 1, PIECE - 1, PIECE, 2 * PIECE, count - 1] {
            let id = NodeId(u32::try_from(size).unwrap());
            nodes.at_mut(id).data = 7;
            assert_eq!((nodes.at(id).size, nodes.at(id).data), (size as u64, 7));
        }
    }
}
