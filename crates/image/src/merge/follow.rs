//! Following paths and symlinks inside the image.

use super::MAX_STEPS;
use super::top_layer::{Place, Refusal, TopLayer};
use crate::convert::PathError;
use crate::convert::path::Walk;
use crate::erofs::BlockInput;
use crate::tree::{NewNode, NodeId, ROOT, S_IFDIR, S_IFLNK};

/// What a walk does where there is nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// It ends there.
    Leave,
    /// It makes directories.
    Make,
}

impl<I: BlockInput> TopLayer<'_, I> {
    /// The file a hard link names, as the lower layers have it.
    pub(super) fn lower_file(&mut self, path: &[u8]) -> Result<Option<NodeId>, Refusal> {
        let mut components: Vec<_> = path.split(|&byte| byte == b'/').collect();
        let name = components.pop().expect("a split has a part");
        let mut walk = Walk::new(&components);
        let directory = match self.go_on(&mut walk, Missing::Leave) {
            Ok(directory) => directory,
            Err(Stuck::Links(_)) => None,
            Err(Stuck::Refused(refusal)) => return Err(refusal),
        };
        let tree = &self.merge.tree;
        let found = directory.and_then(|directory| tree.find(directory, name));
        Ok(found.filter(|&node| tree.kind(node) != S_IFDIR))
    }

    /// The directory a symlink at `place` leads to; `None` if it leads to something else.
    pub(super) fn follow(
        &mut self,
        walk: &mut Walk,
        place: Place<'_>,
        link: NodeId,
        missing: Missing,
    ) -> Result<Option<NodeId>, Refusal> {
        let begun = walk.follow(self.merge.tree.link_target(link));
        let gone = begun
            .map_err(Stuck::Links)
            .and_then(|()| self.go_on(walk, missing));
        gone.map_err(|stuck| match stuck {
            Stuck::Links(source) => Refusal::Links(self.shown(place), source),
            Stuck::Refused(refusal) => refusal,
        })
    }

    /// Walks to the end; `None` if there is something in the way that is no directory, or nothing at all.
    fn go_on(&mut self, walk: &mut Walk, missing: Missing) -> Result<Option<NodeId>, Stuck> {
        let gone = self.steps(walk, missing);
        self.merge.steps = self.merge.steps.saturating_add(walk.steps());
        if self.merge.steps > MAX_STEPS {
            return Err(Stuck::Refused(Refusal::Limit("symlinks to be followed")));
        }
        gone
    }

    fn steps(&mut self, walk: &mut Walk, missing: Missing) -> Result<Option<NodeId>, Stuck> {
        while let Some(name) = walk.next_name() {
            let parent = walk.directory();
            let found = self.merge.tree.find(parent, &name);
            match found.map(|node| (node, self.merge.tree.kind(node))) {
                Some((node, S_IFDIR)) => walk.enter(node, name),
                Some((node, S_IFLNK)) => walk
                    .follow(self.merge.tree.link_target(node))
                    .map_err(Stuck::Links)?,
                None if missing == Missing::Make => {
                    let place = Place {
                        parent,
                        name: &name,
                    };
                    let made = self.make_directory(place, NewNode::implied_directory());
                    walk.enter(made.map_err(Stuck::Refused)?, name);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(walk.directory()))
    }

    /// A walk that has come to `directory`.
    pub(super) fn walk_to(&self, directory: NodeId) -> Walk {
        let mut way = Vec::new();
        let mut at = directory;
        while at != ROOT {
            let tree = &self.merge.tree;
            let dentry = &tree.dentries()[tree.node(at).data as usize];
            way.push((at, tree.name(dentry).to_vec()));
            at = dentry.parent;
        }
        way.reverse();
        Walk::from_way(way)
    }
}

/// Why a walk does not come to its end.
enum Stuck {
    Links(PathError),
    Refused(Refusal),
}
