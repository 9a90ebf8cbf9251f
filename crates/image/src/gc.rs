//! Removing images: by name, or all that nothing needs (mark and sweep).
//!
//! Marked is what references, leases of the living and pins lead to: manifest, configuration, layers, and what is derived from them. The
//! rest is taken away: references first and durably, then what leads to other files, layers last, each by a rename; the space is freed
//! after the guard is given back, so that nobody waits for a large file to be unlinked. A crash at any point leaves whole images and
//! garbage.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::PathBuf;

use serde::Serialize;

use crate::digest::ImageDigest;
use crate::reference::Reference;
use crate::store::{Guard, Part, Piece, Snapshot, Store, StoreError, gone_is_fine, sync_directory};

/// Which images a prune takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneScope {
    /// Those whose name went to a newer image.
    Unnamed,
    /// All.
    All,
}

/// Whether a prune is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneMode {
    /// Remove.
    Remove,
    /// Only say what would be removed.
    DryRun,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// References that mean nothing any more, by name; those that came along with another are left out.
    pub references: Vec<String>,
    /// Digests of the manifests of images that are gone.
    pub images: Vec<ImageDigest>,
    /// What is free again, in bytes; what other images still use is not counted.
    pub bytes: u64,
}

/// Why an image is not removed. Nothing is removed then.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is no such image.
    #[error("image {reference} is not on this machine")]
    NotFound {
        /// The reference.
        reference: Reference,
    },
    /// Somebody needs it.
    #[error("image {reference} is in use: {holder}")]
    InUse {
        /// The reference.
        reference: Reference,
        /// Who.
        holder: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is to go.
#[derive(Debug, Default)]
struct Sweep {
    refs: Vec<PathBuf>,
    pieces: BTreeSet<Piece>,
}

impl Store {
    /// Removes what these references mean. A tag is one name among others: the image goes when its last name goes. A reference with a
    /// digest stands for the image itself, with all its names in that repository.
    ///
    /// # Errors
    /// [`RemoveError`] if one is not there or in use; nothing is removed then.
    pub fn remove(&self, references: &[Reference]) -> Result<Removed, RemoveError> {
        let guard = Guard::exclusive(self).map_err(|source| self.io(source))?;
        let snapshot = Snapshot::read(self, &guard)?;
        let mut doomed: HashSet<&PathBuf> = HashSet::new();
        let mut asked: Vec<(&Reference, ImageDigest)> = Vec::new();
        for reference in references {
            let manifest = snapshot.named_by(reference, &mut doomed);
            asked.push((
                reference,
                manifest.ok_or_else(|| RemoveError::NotFound {
                    reference: reference.clone(),
                })?,
            ));
        }
        let mut gone = Vec::new();
        for (reference, manifest) in asked {
            let of_image = || {
                snapshot
                    .refs
                    .iter()
                    .filter(move |of| of.1.manifest == manifest)
            };
            if gone.contains(&manifest)
                || of_image().any(|(path, record)| record.requested && !doomed.contains(path))
            {
                continue;
            }
            if let Some(holder) = snapshot.holder(manifest) {
                return Err(RemoveError::InUse {
                    reference: reference.clone(),
                    holder,
                });
            }
            doomed.extend(of_image().map(|(path, _)| path));
            gone.push(manifest);
        }
        let doomed: HashSet<PathBuf> = doomed.into_iter().cloned().collect();
        let kept = snapshot.marked(&doomed);
        let mut pieces: BTreeSet<_> = gone.iter().flat_map(|of| snapshot.pieces(*of)).collect();
        pieces.retain(|piece| !kept.contains(piece));
        let removed = snapshot.removed(&doomed, gone, &pieces);
        let refs = doomed.into_iter().collect();
        self.sweep(&snapshot, Sweep { refs, pieces }, guard)
            .map_err(|source| self.io(source))?;
        Ok(removed)
    }

    /// Removes every image of `scope` that nobody alive uses and nothing is derived from, and what no image needs.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read or changed, or a record in it not understood.
    pub fn prune(&self, scope: PruneScope, mode: PruneMode) -> Result<Removed, StoreError> {
        let guard = Guard::exclusive(self).map_err(|source| self.io(source))?;
        let snapshot = Snapshot::read(self, &guard)?;
        let named = |manifest| {
            let mut refs = snapshot.refs.iter();
            refs.any(|(_, record)| record.manifest == manifest && record.requested)
        };
        let needed = |manifest| {
            snapshot.holder(manifest).is_some() || (scope == PruneScope::Unnamed && named(manifest))
        };
        let mut gone = snapshot.manifests();
        gone.retain(|manifest| !needed(*manifest));
        let doomed: HashSet<PathBuf> = snapshot
            .refs
            .iter()
            .filter(|(_, record)| gone.contains(&record.manifest))
            .map(|(path, _)| path.clone())
            .collect();
        let kept = snapshot.marked(&doomed);
        let all = snapshot.files.keys().copied();
        let pieces: BTreeSet<_> = all.filter(|piece| !kept.contains(piece)).collect();
        let removed = snapshot.removed(&doomed, gone, &pieces);
        if mode == PruneMode::Remove {
            let refs = doomed.into_iter().collect();
            self.remove_idle_locks()
                .and_then(|()| self.sweep(&snapshot, Sweep { refs, pieces }, guard))
                .map_err(|source| self.io(source))?;
        }
        Ok(removed)
    }

    fn sweep(&self, snapshot: &Snapshot, sweep: Sweep, guard: Guard) -> io::Result<()> {
        let mut leftovers = Vec::new();
        for path in &sweep.refs {
            leftovers.extend(self.take_away(path)?);
            let name = path.file_name().unwrap_or_default();
            gone_is_fine(fs_err::remove_file(self.root().join("updates").join(name)))?;
        }
        sync_directory(&self.root().join("refs"))?;
        for piece in &sweep.pieces {
            if let Some(file) = snapshot.files.get(piece) {
                leftovers.extend(self.take_away(&file.path)?);
            }
        }
        for part in Part::ALL {
            sync_directory(&self.root().join(part.place().0))?;
        }
        drop(guard);
        for path in leftovers {
            gone_is_fine(fs_err::remove_file(path))?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// The image a reference stands for; adds the records it names.
    fn named_by<'a>(
        &'a self,
        reference: &Reference,
        doomed: &mut HashSet<&'a PathBuf>,
    ) -> Option<ImageDigest> {
        let Some(digest) = reference.digest() else {
            let text = reference.to_string();
            let (path, record) = self.refs.iter().find(|of| of.1.reference == text)?;
            doomed.insert(path);
            return Some(record.manifest);
        };
        let pinned = reference.pinned(digest).to_string();
        let manifest = self
            .refs
            .iter()
            .find(|of| of.1.reference == pinned)?
            .1
            .manifest;
        let same_repository = |text: &str| {
            text.parse()
                .is_ok_and(|other: Reference| other.pinned(digest) == reference.pinned(digest))
        };
        let all = self.refs.iter();
        let all = all.filter(|of| of.1.manifest == manifest && same_repository(&of.1.reference));
        doomed.extend(all.map(|(path, _)| path));
        Some(manifest)
    }

    /// Everything that must stay when `doomed` references go.
    fn marked(&self, doomed: &HashSet<PathBuf>) -> HashSet<Piece> {
        let mut kept = self.held_pieces();
        let living = self.refs.iter().filter(|(path, _)| !doomed.contains(path));
        let manifests: HashSet<_> = living.map(|(_, record)| record.manifest).collect();
        kept.extend(manifests.into_iter().flat_map(|of| self.pieces(of)));
        kept
    }

    fn removed(
        &self,
        doomed: &HashSet<PathBuf>,
        mut images: Vec<ImageDigest>,
        pieces: &BTreeSet<Piece>,
    ) -> Removed {
        images.sort();
        let asked = self
            .refs
            .iter()
            .filter(|(path, record)| record.requested && doomed.contains(path))
            .map(|(_, record)| record.reference.clone());
        let unnamed = images.iter().flat_map(|image| self.names(*image));
        let references: BTreeSet<_> = asked.chain(unnamed).collect();
        Removed {
            references: references.into_iter().collect(),
            images,
            bytes: self.bytes(pieces.iter().copied()),
        }
    }
}

#[cfg(test)]
mod tests;
