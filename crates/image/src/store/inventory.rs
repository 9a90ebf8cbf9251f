//! What the store holds: images by what they are called, what they cost on disk, and who needs them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use serde::Serialize;

use super::lease::LeaseRecord;
use super::lock::Guard;
use super::{Claim, LeaseHolder, RefRecord, Store, StoreError};
use crate::digest::ImageDigest;
use crate::pin::PinRecord;
use crate::reference::Reference;

/// The unit of `st_blocks`, in bytes (stat(2)).
const STAT_BLOCK: u64 = 512;

/// Everything in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// All images, by their first name.
    pub images: Vec<StoredImage>,
    /// What all of it occupies on disk, in bytes; what images share is counted once.
    pub total_bytes: u64,
    /// What of that belongs to no image: left by pulls that did not end.
    pub unreferenced_bytes: u64,
}

/// One image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredImage {
    /// What it was pulled as and is still called; by its digest where a newer image took its name.
    pub references: Vec<String>,
    /// Whether some name somebody asked for leads to it.
    pub named: bool,
    /// What the reference resolved to: digest of the index, or of the manifest.
    pub digest: ImageDigest,
    /// Digest of the manifest for its platform.
    pub manifest_digest: ImageDigest,
    /// OCI name of the processor it is for.
    pub architecture: String,
    /// When it was pulled last, in seconds since 1970.
    pub pulled: Option<u64>,
    /// What its files occupy on disk, in bytes.
    pub bytes: u64,
    /// What of that no other image uses.
    pub own_bytes: u64,
    /// Bottom first.
    pub layers: Vec<StoredLayer>,
    /// Whether all its files are there and its documents can be read.
    pub whole: bool,
    /// Who alive uses it.
    pub users: Vec<LeaseHolder>,
    /// Names of what is derived from it.
    pub pins: Vec<String>,
    /// Whether a signature was verified when it was pulled.
    pub signed: bool,
}

/// One layer in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredLayer {
    /// Digest of the uncompressed archive.
    pub diff_id: ImageDigest,
    /// What it occupies on disk, in bytes; `None` if it is not there.
    pub bytes: Option<u64>,
    /// How many images use it.
    pub images: usize,
}

impl Store {
    /// Lists everything. Waits for others to end what they look up, not for pulls.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read, or a record in it not understood.
    pub fn inventory(&self) -> Result<Inventory, StoreError> {
        let guard = Guard::exclusive(self).map_err(|source| self.io(source))?;
        Ok(Snapshot::read(self, &guard)?.inventory())
    }

    /// One image of [`Store::inventory`], if it is there.
    ///
    /// # Errors
    /// As [`Store::inventory`].
    pub fn stored(&self, reference: &Reference) -> Result<Option<StoredImage>, StoreError> {
        let Some(record) = self.ref_record(reference)? else {
            return Ok(None);
        };
        let mut images = self.inventory()?.images.into_iter();
        Ok(images.find(|image| image.manifest_digest == record.manifest))
    }
}

/// Which kind of content, in the order in which it is removed: what leads to others first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Part {
    Merged,
    Manifest,
    Config,
    Layer,
}

impl Part {
    pub(crate) const ALL: [Self; 4] = [Self::Merged, Self::Manifest, Self::Config, Self::Layer];

    /// Its directory, and how its files' names end.
    pub(crate) fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Merged => ("images", "erofs"),
            Self::Manifest => ("manifests", "json"),
            Self::Config => ("configs", "json"),
            Self::Layer => ("layers", "erofs"),
        }
    }
}

/// A piece of content.
pub(crate) type Piece = (Part, ImageDigest);

/// A file of the store and what it occupies.
#[derive(Debug, Clone)]
pub(crate) struct StoredFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// The store at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) refs: Vec<(PathBuf, RefRecord)>,
    pub(crate) leases: Vec<LeaseRecord>,
    pub(crate) pins: Vec<PinRecord>,
    pub(crate) files: BTreeMap<Piece, StoredFile>,
    /// The content of each image a reference leads to; `None` if its documents are damaged.
    claims: HashMap<ImageDigest, Option<Claim>>,
}

impl Snapshot {
    /// Looks at everything, under the exclusive guard.
    pub(crate) fn read(store: &Store, guard: &Guard) -> Result<Self, StoreError> {
        let refs = refs(store)?;
        let mut claims = HashMap::new();
        for (_, record) in &refs {
            if claims.contains_key(&record.manifest) {
                continue;
            }
            let claim = match store.claim_of(record.manifest) {
                Ok(claim) => Some(claim),
                Err(StoreError::Damaged { .. } | StoreError::Unreadable { .. }) => None,
                // A disk that cannot be read says nothing about what is needed.
                Err(error) => return Err(error),
            };
            claims.insert(record.manifest, claim);
        }
        Ok(Self {
            refs,
            leases: store.leases(guard)?,
            pins: store.pins(guard)?,
            files: files(store).map_err(|source| store.io(source))?,
            claims,
        })
    }

    /// The content of an image some reference leads to.
    pub(crate) fn pieces(&self, manifest: ImageDigest) -> Vec<Piece> {
        match self.claims.get(&manifest) {
            Some(Some(claim)) => pieces(claim),
            _ => vec![(Part::Manifest, manifest), (Part::Merged, manifest)],
        }
    }

    /// Content that is needed whatever references there are.
    pub(crate) fn held_pieces(&self) -> HashSet<Piece> {
        let leased = self.leases.iter().map(|lease| &lease.claim);
        let pinned = self.pins.iter().map(|pin| &pin.claim);
        leased.chain(pinned).flat_map(pieces).collect()
    }

    /// Why an image must stay, if somebody needs it.
    pub(crate) fn holder(&self, manifest: ImageDigest) -> Option<String> {
        let users = self
            .leases
            .iter()
            .filter(|of| of.claim.manifest == manifest);
        let pins = self.pins.iter().filter(|of| of.claim.manifest == manifest);
        users
            .map(|lease| match lease.holder {
                LeaseHolder::Machine { pid } => {
                    format!("a virtual machine runs from it (process {pid})")
                }
                LeaseHolder::Pull { pid } => format!("it is being pulled (process {pid})"),
            })
            .chain(pins.map(|pin| format!("{} is derived from it", pin.name.escape_debug())))
            .next()
    }

    /// The manifests references lead to.
    pub(crate) fn manifests(&self) -> Vec<ImageDigest> {
        let mut seen = HashSet::new();
        let all = self.refs.iter().map(|(_, record)| record.manifest);
        all.filter(|manifest| seen.insert(*manifest)).collect()
    }

    pub(crate) fn names(&self, manifest: ImageDigest) -> Vec<String> {
        let of = |asked: bool| {
            let records = self.refs.iter().map(|(_, record)| record);
            records
                .filter(move |record| record.manifest == manifest && record.requested == asked)
                .map(|record| record.reference.clone())
        };
        let mut names: Vec<_> = of(true).collect();
        if names.is_empty() {
            names = of(false).take(1).collect();
        }
        names.sort();
        names
    }

    pub(crate) fn bytes(&self, pieces: impl IntoIterator<Item = Piece>) -> u64 {
        let known = pieces
            .into_iter()
            .filter_map(|piece| self.files.get(&piece));
        known.map(|file| file.bytes).sum()
    }

    fn inventory(&self) -> Inventory {
        let manifests = self.manifests();
        let mut uses: HashMap<Piece, usize> = HashMap::new();
        for manifest in &manifests {
            for piece in unique(self.pieces(*manifest)) {
                *uses.entry(piece).or_default() += 1;
            }
        }
        let mut images: Vec<_> = manifests
            .iter()
            .map(|manifest| self.image(*manifest, &uses))
            .collect();
        images.sort_by(|a, b| a.references.cmp(&b.references));
        let held = self.held_pieces();
        let lost = |piece: &Piece| !uses.contains_key(piece) && !held.contains(piece);
        Inventory {
            images,
            total_bytes: self.files.values().map(|file| file.bytes).sum(),
            unreferenced_bytes: self.bytes(self.files.keys().copied().filter(lost)),
        }
    }

    fn image(&self, manifest: ImageDigest, uses: &HashMap<Piece, usize>) -> StoredImage {
        let records: Vec<_> = self
            .refs
            .iter()
            .map(|(_, record)| record)
            .filter(|record| record.manifest == manifest)
            .collect();
        let newest = records
            .iter()
            .max_by_key(|record| record.pulled)
            .expect("the manifest comes from a record");
        let pieces = unique(self.pieces(manifest));
        let claim = self.claims.get(&manifest).and_then(Option::as_ref);
        let layer = |diff_id: &ImageDigest| {
            let piece = (Part::Layer, *diff_id);
            StoredLayer {
                diff_id: *diff_id,
                bytes: self.files.get(&piece).map(|file| file.bytes),
                images: uses.get(&piece).copied().unwrap_or_default(),
            }
        };
        let layers: Vec<_> = claim
            .map(|claim| claim.layers.iter().map(layer).collect())
            .unwrap_or_default();
        let own = pieces.iter().filter(|piece| uses.get(piece) == Some(&1));
        StoredImage {
            references: self.names(manifest),
            named: records.iter().any(|record| record.requested),
            digest: newest.digest,
            manifest_digest: manifest,
            architecture: newest.architecture.clone(),
            pulled: newest.pulled,
            bytes: self.bytes(pieces.iter().copied()),
            own_bytes: self.bytes(own.copied()),
            whole: claim.is_some() && layers.iter().all(|layer| layer.bytes.is_some()),
            layers,
            users: self
                .leases
                .iter()
                .filter(|lease| lease.claim.manifest == manifest)
                .map(|lease| lease.holder.clone())
                .collect(),
            pins: self
                .pins
                .iter()
                .filter(|pin| pin.claim.manifest == manifest)
                .map(|pin| pin.name.clone())
                .collect(),
            signed: records.iter().any(|record| record.policy.is_some()),
        }
    }
}

/// The files a claim is about.
pub(crate) fn pieces(claim: &Claim) -> Vec<Piece> {
    let layers = claim.layers.iter().map(|layer| (Part::Layer, *layer));
    [
        (Part::Merged, claim.manifest),
        (Part::Manifest, claim.manifest),
        (Part::Config, claim.config),
    ]
    .into_iter()
    .chain(layers)
    .collect()
}

/// A layer may be in an image twice.
fn unique(pieces: Vec<Piece>) -> HashSet<Piece> {
    pieces.into_iter().collect()
}

fn refs(store: &Store) -> Result<Vec<(PathBuf, RefRecord)>, StoreError> {
    let mut refs = Vec::new();
    let entries = fs_err::read_dir(store.root.join("refs"));
    for entry in entries.map_err(|source| store.io(source))? {
        let path = entry.map_err(|source| store.io(source))?.path();
        let Some(record) = store.read_record(&path)? else {
            continue;
        };
        let reference: Result<Reference, _> = record.reference.parse();
        match reference {
            Ok(reference) if store.ref_path(&reference) == path => refs.push((path, record)),
            _ => return Err(StoreError::Damaged { path }),
        }
    }
    refs.sort_by(|a, b| a.1.reference.cmp(&b.1.reference));
    Ok(refs)
}

/// All content. Files with other names are not ours and are left alone.
fn files(store: &Store) -> io::Result<BTreeMap<Piece, StoredFile>> {
    let mut files = BTreeMap::new();
    for part in Part::ALL {
        let (directory, ending) = part.place();
        for entry in fs_err::read_dir(store.root.join(directory))? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let digest = stem.and_then(|stem| format!("sha256:{stem}").parse().ok());
            let (Some(digest), true) = (digest, path.extension().is_some_and(|end| end == ending))
            else {
                continue;
            };
            let bytes = match fs_err::symlink_metadata(&path) {
                Ok(metadata) => metadata.blocks() * STAT_BLOCK,
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(source),
            };
            files.insert((part, digest), StoredFile { path, bytes });
        }
    }
    Ok(files)
}
