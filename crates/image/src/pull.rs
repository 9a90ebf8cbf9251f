//! Pulling: reference → manifest for this platform → configuration → layers in parallel → record in the store.
//!
//! Each layer is one stream: network → size and digest → decompression → diff id → tar → EROFS file, converted on a blocking thread while
//! it downloads; a broken connection is resumed where it broke, the decoder never notices. Nothing is recorded until every layer is
//! complete, verified and durable. Dropping the future ends the pull; what is unfinished removes itself.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::config;
use crate::convert::Limits;
use crate::digest::ImageDigest;
use crate::image::Image;
use crate::layer::{self, LayerError};
use crate::manifest::{
    self, Blob, Document, LayerBlob, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, ManifestError,
};
use crate::memory::MemoryBudget;
use crate::reference::Reference;
use crate::registry::{Body as _, HttpRegistry, Registry, RegistryError, Start};
use crate::store::{Claim, Resolved, Store, StoreError};

mod download;
mod error;
mod options;
mod retry;

pub use error::PullError;
pub use options::{
    AuthSources, LayerSummary, PlainHttp, Proxies, PullEvent, PullObserver, PullOptions,
};

use retry::Retry;

/// How often a pull looks whether another pull has finished a layer both want.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Pulls `reference` into `store`: asks the registry what it stands for now, gets what the store lacks, records it.
///
/// Needs a tokio runtime with time and I/O (one thread is enough); conversion runs on its blocking threads. A later
/// [`Store::image`] gives what was recorded here without any network.
///
/// # Errors
/// [`PullError`]; the store then has what it had before, and perhaps some complete layers more.
pub async fn pull(
    store: &Store,
    reference: &Reference,
    options: &PullOptions,
    observer: &dyn PullObserver,
) -> Result<Image, PullError> {
    let refused = |source| PullError::Registry {
        reference: reference.clone(),
        source,
    };
    let registry = HttpRegistry::new(reference, options)
        .await
        .map_err(refused)?;
    pull_from(
        &registry,
        Pull {
            store,
            reference,
            options,
            observer,
        },
    )
    .await
}

/// What a pull needs besides the registry.
#[derive(Clone, Copy)]
pub(crate) struct Pull<'a> {
    pub(crate) store: &'a Store,
    pub(crate) reference: &'a Reference,
    pub(crate) options: &'a PullOptions,
    pub(crate) observer: &'a dyn PullObserver,
}

/// One layer to be had.
#[derive(Clone, Copy)]
struct LayerJob {
    index: usize,
    layer: LayerBlob,
    diff_id: ImageDigest,
}

/// What the layers of a pull share, so that together they stay within its limits.
#[derive(Clone)]
struct Shared {
    memory: Arc<MemoryBudget>,
    limits: Limits,
}

/// [`pull`] from any registry.
pub(crate) async fn pull_from(
    registry: &impl Registry,
    pull: Pull<'_>,
) -> Result<Image, PullError> {
    let (digest, manifest_digest, manifest_bytes, manifest) = pull.resolve(registry).await?;
    let policy = pull
        .verify_signature(registry, (digest, manifest_digest))
        .await?;
    let config_bytes = pull.config(registry, manifest.config).await?;
    let parsed = config::parse(&config_bytes, pull.options.architecture)
        .map_err(|source| pull.document("configuration", source))?;
    if parsed.diff_ids.len() != manifest.layers.len() {
        let source = ManifestError::LayerCount {
            diff_ids: parsed.diff_ids.len(),
            layers: manifest.layers.len(),
        };
        return Err(pull.document("configuration", source));
    }
    // From here on a prune leaves alone what this pull finds in the store, and what it adds.
    let claim = Claim {
        manifest: manifest_digest,
        config: manifest.config.digest,
        layers: parsed.diff_ids.clone(),
    };
    let _lease = pull
        .store
        .claim(claim)
        .map_err(|source| pull.kept(source))?;
    let layers: Vec<_> = manifest
        .layers
        .iter()
        .map(|layer| LayerSummary {
            digest: layer.blob.digest,
            size: layer.blob.size,
        })
        .collect();
    pull.observer.event(PullEvent::Resolved {
        digest,
        layers: &layers,
    });
    let jobs = manifest
        .layers
        .iter()
        .zip(parsed.diff_ids.iter().copied())
        .enumerate();
    let mut jobs: Vec<_> = jobs
        .map(|(index, (&layer, diff_id))| LayerJob {
            index,
            layer,
            diff_id,
        })
        .collect();
    // The largest first: what is long must not begin last.
    jobs.sort_by_key(|job| Reverse(job.layer.blob.size));
    let shared = Shared {
        memory: MemoryBudget::new(),
        limits: Limits::default(),
    };
    stream::iter(
        jobs.into_iter()
            .map(|job| pull.layer(registry, job, shared.clone())),
    )
    .buffer_unordered(pull.options.concurrent_layers.max(1))
    .try_collect::<()>()
    .await?;
    pull.merge(manifest_digest, parsed.diff_ids).await?;
    let resolved = Resolved {
        digest,
        manifest: manifest_digest,
        architecture: pull.options.architecture,
        policy,
    };
    let record = pull
        .store
        .record(pull.reference, resolved, &manifest_bytes, &config_bytes);
    record
        .and_then(|()| pull.store.load(pull.reference, resolved))
        .map_err(|source| pull.kept(source))
}

impl Pull<'_> {
    /// Puts the layers together, before anything is recorded. Takes as long as they have files, so it is not done on this thread.
    async fn merge(
        &self,
        manifest: ImageDigest,
        diff_ids: Vec<ImageDigest>,
    ) -> Result<(), PullError> {
        let (store, reference) = (self.store.clone(), self.reference.clone());
        let merge = move || store.extents(&reference, manifest, &diff_ids).map(drop);
        let merged = tokio::task::spawn_blocking(merge).await;
        // Only a runtime that ends, or a defect, interrupts it.
        let interrupted = |error| Err(self.store.io(std::io::Error::other(error)));
        merged
            .unwrap_or_else(interrupted)
            .map_err(|source| self.kept(source))
    }

    /// What the reference stands for: its digest, and digest, bytes and content of the manifest for this platform.
    async fn resolve(
        &self,
        registry: &impl Registry,
    ) -> Result<(ImageDigest, ImageDigest, Vec<u8>, Manifest), PullError> {
        let fetched = self
            .fetch_manifest(registry, &self.reference.manifest_selector())
            .await?;
        let digest = ImageDigest::of(&fetched.bytes);
        if let Some(expected) = self
            .reference
            .digest()
            .filter(|&expected| expected != digest)
        {
            return Err(self.wrong_digest("manifest", expected, digest));
        }
        let entries = match manifest::parse(&fetched.bytes, fetched.content_type.as_deref()) {
            Ok(Document::Manifest(manifest)) => {
                return Ok((digest, digest, fetched.bytes.to_vec(), manifest));
            }
            Ok(Document::Index(entries)) => entries,
            Err(source) => return Err(self.document("manifest", source)),
        };
        let chosen = manifest::select(&entries, self.options.architecture)
            .map_err(|source| self.document("index", source))?;
        let fetched = self
            .fetch_manifest(registry, &chosen.digest.to_string())
            .await?;
        self.verify("manifest", chosen, &fetched.bytes)?;
        match manifest::parse(&fetched.bytes, fetched.content_type.as_deref()) {
            Ok(Document::Manifest(manifest)) => {
                Ok((digest, chosen.digest, fetched.bytes.to_vec(), manifest))
            }
            Ok(Document::Index(_)) => Err(self.document(
                "index",
                ManifestError::Nested {
                    digest: chosen.digest,
                },
            )),
            Err(source) => Err(self.document("manifest", source)),
        }
    }

    pub(crate) async fn fetch_manifest(
        &self,
        registry: &impl Registry,
        selector: &str,
    ) -> Result<crate::registry::FetchedManifest, PullError> {
        let mut retry = Retry::new();
        loop {
            match registry.manifest(selector, MAX_MANIFEST_BYTES).await {
                Ok(fetched) => return Ok(fetched),
                Err(source) => retry
                    .pause(source)
                    .await
                    .map_err(|source| self.registry(source))?,
            };
        }
    }

    async fn config(&self, registry: &impl Registry, blob: Blob) -> Result<Vec<u8>, PullError> {
        debug_assert!(
            blob.size <= MAX_CONFIG_BYTES,
            "the manifest parser bounds it"
        );
        let mut retry = Retry::new();
        loop {
            match read_small(registry, blob).await {
                Ok(bytes) => return self.verify("configuration", blob, &bytes).map(|()| bytes),
                Err(source) => retry
                    .pause(source)
                    .await
                    .map_err(|source| self.registry(source))?,
            };
        }
    }

    /// Makes sure one layer is in the store: finds it there, waits for who makes it, or makes it.
    async fn layer(
        &self,
        registry: &impl Registry,
        job: LayerJob,
        shared: Shared,
    ) -> Result<(), PullError> {
        let LayerJob {
            index,
            layer,
            diff_id,
        } = job;
        let lock = loop {
            if self
                .store
                .layer(diff_id)
                .map_err(|source| self.kept(source))?
                .is_some()
            {
                self.observer.event(PullEvent::LayerReused { layer: index });
                return Ok(());
            }
            match self
                .store
                .try_lock_layer(diff_id)
                .map_err(|source| self.kept(source))?
            {
                // Between the look and the lock another pull may have finished it.
                Some(_)
                    if self
                        .store
                        .layer(diff_id)
                        .map_err(|source| self.kept(source))?
                        .is_some() => {}
                Some(lock) => break lock,
                None => tokio::time::sleep(LOCK_POLL).await,
            }
        };
        self.observer
            .event(PullEvent::LayerStarted { layer: index });
        let (sender, source) = layer::channel(layer.blob);
        let (store, job) = (
            self.store.clone(),
            layer::Job {
                layer,
                diff_id,
                lock,
                memory: shared.memory,
                limits: shared.limits,
            },
        );
        let conversion = tokio::task::spawn_blocking(move || layer::convert(&store, job, source));
        let download = download::run(registry, layer.blob, sender, |event| {
            self.observer.event(event.of_layer(index))
        });
        let (downloaded, converted) = futures_util::join!(download, conversion);
        let converted = converted.unwrap_or(Err(LayerError::Interrupted));
        downloaded
            .and(converted)
            .map_err(|source| PullError::Layer {
                reference: self.reference.clone(),
                layer: layer.blob.digest,
                source,
            })?;
        self.observer.event(PullEvent::LayerDone { layer: index });
        Ok(())
    }

    fn verify(&self, document: &'static str, blob: Blob, bytes: &[u8]) -> Result<(), PullError> {
        if bytes.len() as u64 != blob.size {
            let (expected, actual) = (blob.size, bytes.len() as u64);
            return Err(PullError::Size {
                reference: self.reference.clone(),
                document,
                expected,
                actual,
            });
        }
        let actual = ImageDigest::of(bytes);
        if actual == blob.digest {
            Ok(())
        } else {
            Err(self.wrong_digest(document, blob.digest, actual))
        }
    }

    fn wrong_digest(
        &self,
        document: &'static str,
        expected: ImageDigest,
        actual: ImageDigest,
    ) -> PullError {
        PullError::Digest {
            reference: self.reference.clone(),
            document,
            expected,
            actual,
        }
    }

    fn registry(&self, source: RegistryError) -> PullError {
        PullError::Registry {
            reference: self.reference.clone(),
            source,
        }
    }

    fn document(&self, document: &'static str, source: ManifestError) -> PullError {
        PullError::Document {
            reference: self.reference.clone(),
            document,
            source,
        }
    }

    fn kept(&self, source: StoreError) -> PullError {
        PullError::Store {
            reference: self.reference.clone(),
            source,
        }
    }
}

/// Reads a small blob whole, but not more than one chunk beyond its size.
pub(crate) async fn read_small(
    registry: &impl Registry,
    blob: Blob,
) -> Result<Vec<u8>, RegistryError> {
    let mut body = registry.blob(blob, Start::Beginning).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > blob.size {
            break;
        }
    }
    Ok(bytes)
}
