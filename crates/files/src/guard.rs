//! Protected paths inside a read-write share.
//!
//! Every node knows its [`Guard`]: free, on the way to a protected path, or protected. The guard of a
//! child follows from its parent's guard and its name (position) or from the device and inode
//! number the protected path had at start (identity), whichever is stricter, and never weakens while
//! the node lives. Guest operations cannot move a guarded node, nor put anything but a new directory
//! onto a guarded name, so positions stay true. Names compare without ASCII case, as the host's
//! file system may. Not covered: a second hard link, made by the host, to a file *inside* a protected
//! directory that the guest has not yet looked up through that directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component as PathComponent, Path};

/// How a node relates to the protected paths of its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Guard {
    /// Not at all.
    Free,
    /// A protected path leads through it; the number is its place in [`Guards`].
    Prefix(u32),
    /// It is, or lies beneath, a protected path.
    Inside,
}

impl Guard {
    /// As a number for an atomic; ordered like the guards by strictness class.
    pub(crate) fn to_bits(self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Prefix(place) => place + 1,
            Self::Inside => u32::MAX,
        }
    }

    pub(crate) fn from_bits(bits: u32) -> Self {
        match bits {
            0 => Self::Free,
            u32::MAX => Self::Inside,
            place => Self::Prefix(place - 1),
        }
    }
}

/// The protected paths of one share as a tree of names; place 0 is the share's root.
#[derive(Debug, Default)]
pub(crate) struct Guards {
    places: Vec<Place>,
    /// Device and inode number of what was found on a protected path at start.
    identities: HashMap<(u64, u64), Guard>,
}

#[derive(Debug, Default)]
struct Place {
    children: Vec<(Box<[u8]>, Guard)>,
}

impl Guards {
    /// Adds a path; the caller has checked it with [`plain_components`].
    pub(crate) fn protect(&mut self, components: &[&OsStr]) {
        if self.places.is_empty() {
            self.places.push(Place::default());
        }
        let mut at = 0;
        for (position, name) in components.iter().enumerate() {
            let last = position + 1 == components.len();
            let name = name.as_bytes();
            let found = self.places[at]
                .children
                .iter()
                .position(|(child, _)| child.eq_ignore_ascii_case(name));
            let index = found.unwrap_or_else(|| {
                let place = Guard::Prefix(self.places.len() as u32);
                self.places.push(Place::default());
                self.places[at].children.push((name.into(), place));
                self.places[at].children.len() - 1
            });
            let guard = &mut self.places[at].children[index].1;
            if last {
                *guard = Guard::Inside;
            }
            match *guard {
                Guard::Prefix(place) => at = place as usize,
                // Something above is protected already, so this is too.
                Guard::Free | Guard::Inside => return,
            }
        }
    }

    /// Remembers what a guarded path was at start.
    pub(crate) fn remember(&mut self, dev: u64, ino: u64, guard: Guard) {
        let known = self.identities.entry((dev, ino)).or_insert(guard);
        *known = (*known).max(guard);
    }

    /// The guard of the share's root.
    pub(crate) fn root(&self) -> Guard {
        if self.places.is_empty() {
            Guard::Free
        } else {
            Guard::Prefix(0)
        }
    }

    /// The guard of `name` in a directory with guard `parent`, by position.
    pub(crate) fn child(&self, parent: Guard, name: &[u8]) -> Guard {
        let Guard::Prefix(place) = parent else {
            return parent;
        };
        self.places
            .get(place as usize)
            .and_then(|place| {
                place
                    .children
                    .iter()
                    .find(|(child, _)| child.eq_ignore_ascii_case(name))
            })
            .map_or(Guard::Free, |(_, guard)| *guard)
    }

    /// The guard of a file by what it is.
    pub(crate) fn by_identity(&self, dev: u64, ino: u64) -> Guard {
        if self.identities.is_empty() {
            return Guard::Free;
        }
        self.identities
            .get(&(dev, ino))
            .copied()
            .unwrap_or(Guard::Free)
    }
}

/// The components of a relative path made of plain names only.
pub(crate) fn plain_components(path: &Path) -> Option<Vec<&OsStr>> {
    let components: Option<Vec<_>> = path
        .components()
        .map(|component| match component {
            PathComponent::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    components.filter(|components| !components.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards(paths: &[&str]) -> Guards {
        let mut guards = Guards::default();
        for path in paths {
            guards.protect(&plain_components(Path::new(path)).unwrap());
        }
        guards
    }

    fn walk(guards: &Guards, path: &str) -> Guard {
        path.split('/').fold(guards.root(), |guard, name| {
            guards.child(guard, name.as_bytes())
        })
    }

    #[test]
    fn protects_paths_and_everything_beneath_but_not_their_siblings() {
        let guards = guards(&[".git/hooks", ".git/config", ".claude"]);
        assert_eq!(walk(&guards, ".git/hooks"), Guard::Inside);
        assert_eq!(walk(&guards, ".git/hooks/pre-commit"), Guard::Inside);
        assert_eq!(walk(&guards, ".git/config"), Guard::Inside);
        assert_eq!(walk(&guards, ".claude"), Guard::Inside);
        assert_eq!(walk(&guards, ".git/HEAD"), Guard::Free);
        assert_eq!(walk(&guards, "hooks"), Guard::Free);
        assert_eq!(walk(&guards, "src/.git/hooks"), Guard::Free);
        assert!(matches!(walk(&guards, ".git"), Guard::Prefix(_)));
    }

    #[test]
    fn compares_names_without_case() {
        assert_eq!(walk(&guards(&[".git/hooks"]), ".GIT/Hooks"), Guard::Inside);
    }

    #[test]
    fn shorter_protected_path_covers_longer_one_in_any_order() {
        for paths in [["a", "a/b/c"], ["a/b/c", "a"]] {
            let guards = guards(&paths);
            assert_eq!(walk(&guards, "a"), Guard::Inside);
            assert_eq!(walk(&guards, "a/b/c"), Guard::Inside);
            assert_eq!(walk(&guards, "a/x"), Guard::Inside);
        }
    }

    #[test]
    fn share_without_protected_paths_is_free() {
        assert_eq!(walk(&Guards::default(), ".git/hooks"), Guard::Free);
    }

    #[test]
    fn identity_keeps_the_strictest_guard() {
        let mut guards = guards(&["a/b"]);
        guards.remember(1, 2, Guard::Inside);
        guards.remember(1, 2, Guard::Prefix(0));
        assert_eq!(guards.by_identity(1, 2), Guard::Inside);
        assert_eq!(guards.by_identity(2, 1), Guard::Free);
    }

    #[test]
    fn refuses_paths_that_are_not_plain() {
        for path in ["", "/a", "../a", "a/../b", ".", "/"] {
            assert_eq!(plain_components(Path::new(path)), None, "{path}");
        }
        assert_eq!(plain_components(Path::new("a/b")).unwrap().len(), 2);
    }

    #[test]
    fn bits_keep_the_guard_and_its_order() {
        let guards = [
            Guard::Free,
            Guard::Prefix(0),
            Guard::Prefix(7),
            Guard::Inside,
        ];
        for guard in guards {
            assert_eq!(Guard::from_bits(guard.to_bits()), guard);
        }
        assert!(guards.is_sorted_by_key(|guard| guard.to_bits()));
    }
}
