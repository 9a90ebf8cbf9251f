//! Names inside a layer or an image: normalised, bounded, and walked without ever leaving its root.

use crate::tree::{NodeId, ROOT};

/// The longest name of one file, in bytes (Linux `NAME_MAX`).
pub(crate) const MAX_COMPONENT: usize = 255;
/// The longest path and the longest link target, in bytes (Linux `PATH_MAX` with its NUL).
pub(crate) const MAX_PATH: usize = 4095;
/// The deepest directory.
pub(crate) const MAX_DEPTH: usize = 256;
/// The most symlinks on the way to one file (Linux `MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;
/// The most steps of one walk, whatever its symlinks say.
const MAX_STEPS: u32 = 16 << 10;

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `..` in a name.
    #[error("its name goes up with `..`")]
    Up,
    /// A component is too long.
    #[error("a part of its name is longer than {MAX_COMPONENT} bytes")]
    Component,
    /// The whole is too long.
    #[error("its name or target is longer than {MAX_PATH} bytes")]
    TooLong,
    /// Too many directories.
    #[error("it is more than {MAX_DEPTH} directories deep")]
    TooDeep,
    /// NUL in a link target.
    #[error("its target has a NUL byte")]
    Nul,
    /// A symlink without a target.
    #[error("its target is empty")]
    Empty,
    /// A whiteout of nothing, `.` or `..`, or in the place of a directory.
    #[error("it is a whiteout of no possible name")]
    Whiteout,
    /// Symlinks that go round, or too many of them.
    #[error("the symlinks in its parents do not come to an end")]
    Links,
}

/// What a whiteout takes away.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whiteout<'a> {
    /// All that lower layers have in the directory.
    Opaque,
    /// One name.
    Name(&'a [u8]),
}

/// A normalised path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LayerPath<'a> {
    pub(crate) parents: Vec<&'a [u8]>,
    /// `None` for the root itself.
    pub(crate) name: Option<&'a [u8]>,
    pub(crate) whiteout: Option<Whiteout<'a>>,
}

impl<'a> LayerPath<'a> {
    /// Drops leading and doubled slashes and `.`; `None` for bookkeeping names (`.wh..wh.…`) that are no part of the layer.
    pub(crate) fn parse(path: &'a [u8]) -> Result<Option<Self>, PathError> {
        if path.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        let mut parents = Vec::new();
        for component in path
            .split(|&byte| byte == b'/')
            .filter(|component| !matches!(*component, b"" | b"."))
        {
            match component {
                b".." => return Err(PathError::Up),
                long if long.len() > MAX_COMPONENT => return Err(PathError::Component),
                _ => parents.push(component),
            }
        }
        if parents.len() > MAX_DEPTH {
            return Err(PathError::TooDeep);
        }
        let name = parents.pop();
        let bookkeeping = |component: &&[u8]| component.starts_with(b".wh..wh.");
        if parents.iter().any(bookkeeping) {
            return Ok(None);
        }
        if parents
            .iter()
            .any(|component| component.starts_with(b".wh."))
        {
            return Err(PathError::Whiteout);
        }
        let whiteout = match name.and_then(|name| name.strip_prefix(b".wh.")) {
            None => None,
            Some(b".wh..opq") => Some(Whiteout::Opaque),
            Some(other) if other.starts_with(b".wh.") => return Ok(None),
            Some(b"" | b"." | b"..") => return Err(PathError::Whiteout),
            Some(other) => Some(Whiteout::Name(other)),
        };
        Ok(Some(Self {
            parents,
            name,
            whiteout,
        }))
    }
}

/// A symlink's target: any bytes but NUL, not empty, not too long. Where it leads does not matter until someone walks it.
pub(crate) fn check_link_target(target: &[u8]) -> Result<(), PathError> {
    match target {
        [] => Err(PathError::Empty),
        long if long.len() > MAX_PATH => Err(PathError::TooLong),
        text if text.contains(&0) => Err(PathError::Nul),
        _ => Ok(()),
    }
}

/// A walk from the root through directories and symlinks; `..` in a symlink stops at the root, as in a chroot.
pub(crate) struct Walk {
    /// Names still to go, the next one last.
    ahead: Vec<Vec<u8>>,
    /// Directories on the way with their names, without the root.
    way: Vec<(NodeId, Vec<u8>)>,
    links: u32,
    steps: u32,
}

impl Walk {
    pub(crate) fn new(components: &[&[u8]]) -> Self {
        let ahead = components
            .iter()
            .rev()
            .map(|component| component.to_vec())
            .collect();
        Self {
            ahead,
            way: Vec::new(),
            links: 0,
            steps: 0,
        }
    }

    /// A walk that has come to a directory by this way, from below the root.
    pub(crate) fn from_way(way: Vec<(NodeId, Vec<u8>)>) -> Self {
        Self {
            way,
            ..Self::new(&[])
        }
    }

    /// Where the walk is.
    pub(crate) fn directory(&self) -> NodeId {
        self.way.last().map_or(ROOT, |(node, _)| *node)
    }

    /// The directory above the one where the walk is, and its name there; `None` at the root.
    pub(crate) fn place(&self) -> Option<(NodeId, &[u8])> {
        let (_, name) = self.way.last()?;
        let above = self.way.len().checked_sub(2).map(|at| self.way[at].0);
        Some((above.unwrap_or(ROOT), name))
    }

    /// The whole path without symlinks: the way, then `name` and what was still to go.
    pub(crate) fn rest(&self, name: &[u8]) -> Vec<u8> {
        let way = self.way.iter().map(|(_, name)| name.as_slice());
        let ahead = self.ahead.iter().rev().map(Vec::as_slice);
        way.chain([name])
            .chain(ahead)
            .collect::<Vec<_>>()
            .join(&b'/')
    }

    /// Parts of symlink targets so far.
    pub(crate) fn steps(&self) -> u32 {
        self.steps
    }

    /// The next name to look up in [`Self::directory`]; `None` at the end.
    pub(crate) fn next_name(&mut self) -> Option<Vec<u8>> {
        loop {
            let name = self.ahead.pop()?;
            if name == b".." {
                self.way.pop();
            } else {
                return Some(name);
            }
        }
    }

    /// The name was a directory.
    pub(crate) fn enter(&mut self, directory: NodeId, name: Vec<u8>) {
        self.way.push((directory, name));
    }

    /// The name was a symlink to `target`.
    pub(crate) fn follow(&mut self, target: &[u8]) -> Result<(), PathError> {
        self.links += 1;
        let components: Vec<_> = target
            .split(|&byte| byte == b'/')
            .filter(|component| !matches!(*component, b"" | b"."))
            .collect();
        self.steps += u32::try_from(components.len()).expect("targets are bounded");
        if self.links > MAX_LINKS
            || self.steps > MAX_STEPS
            || self.ahead.len() + components.len() + self.way.len() > MAX_PATH
        {
            return Err(PathError::Links);
        }
        if components
            .iter()
            .any(|component| component.len() > MAX_COMPONENT)
        {
            return Err(PathError::Component);
        }
        if target.starts_with(b"/") {
            self.way.clear();
        }
        self.ahead
            .extend(components.into_iter().rev().map(<[u8]>::to_vec));
        if self.ahead.len() + self.way.len() > MAX_DEPTH {
            Err(PathError::TooDeep)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &[u8]) -> String {
        match LayerPath::parse(path) {
            Err(refused) => format!("!{refused:?}"),
            Ok(None) => "ignored".into(),
            Ok(Some(LayerPath {
                whiteout: Some(Whiteout::Opaque),
                ..
            })) => "opaque".into(),
            Ok(Some(LayerPath {
                whiteout: Some(Whiteout::Name(name)),
                ..
            })) => format!("-{}", String::from_utf8_lossy(name)),
            Ok(Some(path)) => path
                .parents
                .iter()
                .copied()
                .chain(path.name)
                .map(|c| String::from_utf8_lossy(c))
                .collect::<Vec<_>>()
                .join("/"),
        }
    }

    #[test]
    fn paths_are_normalised_or_refused() {
        for (path, result) in [
            (&b"./a/b"[..], "a/b"),
            (b"/etc/passwd", "etc/passwd"),
            (b"a//b/./c/", "a/b/c"),
            (b"./", ""),
            (b"", ""),
            (b"a/../b", "!Up"),
            (b"..", "!Up"),
            (b"...", "..."),
            (b"a/.wh.b", "-b"),
            (b"a/.wh..wh..opq", "opaque"),
            (b".wh..wh.plnk", "ignored"),
            (b".wh..wh.plnk/1.2", "ignored"),
            (b".wh.", "!Whiteout"),
            (b".wh..", "!Whiteout"),
            (b".wh...", "!Whiteout"),
            (b".wh.a/b", "!Whiteout"),
            (b".wh....", "-..."),
            (b".what", ".what"),
        ] {
            assert_eq!(shown(path), result, "{}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(shown(&[b'a'; MAX_COMPONENT]).len(), MAX_COMPONENT);
        assert_eq!(shown(&[b'a'; MAX_COMPONENT + 1]), "!Component");
        assert_eq!(shown(&b"a/".repeat(MAX_DEPTH + 1)), "!TooDeep");
        assert_eq!(shown(&b"a/".repeat(MAX_PATH)), "!TooLong");
    }

    #[test]
    fn link_targets_are_checked() {
        assert_eq!(check_link_target(b"../../../etc"), Ok(()));
        assert_eq!(check_link_target(b""), Err(PathError::Empty));
        assert_eq!(check_link_target(b"a\0b"), Err(PathError::Nul));
        assert_eq!(
            check_link_target(&[b'a'; MAX_PATH + 1]),
            Err(PathError::TooLong)
        );
    }
}
