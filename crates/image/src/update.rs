//! Whether the registry has a newer image under the same tag: asked in the background of a launch, told by the next one.
//!
//! The answer is kept in `ROOT/updates/<digest of the reference>.json`. Reading it asks no network; asking is bounded in time and in bytes,
//! happens at most once a day per reference, and changes nothing but that file.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::digest::ImageDigest;
use crate::manifest::MAX_MANIFEST_BYTES;
use crate::pull::PullOptions;
use crate::reference::Reference;
use crate::registry::{HttpRegistry, Registry as _, RegistryError};
use crate::store::{Store, StoreError, unix_seconds};

/// How long an answer is good, failed attempts included.
const CHECK_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// How long asking may take in all.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest record, in bytes.
const MAX_RECORD_BYTES: u64 = 4096;

/// What was found out.
#[derive(Debug, Serialize, Deserialize)]
struct UpdateRecord {
    reference: String,
    /// When it was asked, in seconds since 1970.
    asked: u64,
    /// What the registry has under the tag; `None` if it did not say.
    digest: Option<ImageDigest>,
}

/// What is known about newer images without asking anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateState {
    /// The reference names one image for ever, or is not in the store.
    Fixed,
    /// Nobody asked for a day.
    Unknown,
    /// The registry has the image that is here, as far as is known.
    Current,
    /// The registry has another image under this name.
    Newer(ImageDigest),
}

/// Why it could not be found out. Nothing depends on it.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The registry.
    #[error("cannot ask whether there is a newer {reference}")]
    Registry {
        /// The image.
        reference: Reference,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// The registry took too long.
    #[error("{} does not say in time whether there is a newer {reference}", reference.registry())]
    Timeout {
        /// The image.
        reference: Reference,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// What is known about a newer image than that of `reference`. Asks no network.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub fn update_state(
        &self,
        reference: &Reference,
        now: SystemTime,
    ) -> Result<UpdateState, StoreError> {
        if reference.digest().is_some() {
            return Ok(UpdateState::Fixed);
        }
        let Some(here) = self.ref_record(reference)? else {
            return Ok(UpdateState::Fixed);
        };
        let Some(bytes) = self.read_bounded(&self.update_path(reference), MAX_RECORD_BYTES)? else {
            return Ok(UpdateState::Unknown);
        };
        // A record that cannot be read is as good as none.
        let Ok(record) = serde_json::from_slice::<UpdateRecord>(&bytes) else {
            return Ok(UpdateState::Unknown);
        };
        // A pull after the question knew better.
        let pulled_since = here.pulled.is_some_and(|pulled| pulled >= record.asked);
        match record.digest {
            Some(digest) if digest != here.digest && !pulled_since => {
                return Ok(UpdateState::Newer(digest));
            }
            Some(_) | None => {}
        }
        let age = unix_seconds(now)
            .unwrap_or_default()
            .checked_sub(record.asked);
        // A question from the future was asked with another clock.
        if age.is_some_and(|age| age < CHECK_INTERVAL.as_secs()) {
            Ok(UpdateState::Current)
        } else {
            Ok(UpdateState::Unknown)
        }
    }

    /// Asks the registry what it has under the tag of `reference`, and keeps the answer for [`Store::update_state`]. An attempt that fails
    /// is kept too, so that it is not repeated at every launch. Needs a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// [`UpdateError`]; the next question is asked a day later.
    pub async fn ask_for_update(
        &self,
        reference: &Reference,
        options: &PullOptions,
        now: SystemTime,
    ) -> Result<(), UpdateError> {
        let failed = |source| UpdateError::Registry {
            reference: reference.clone(),
            source,
        };
        let mut record = UpdateRecord {
            reference: reference.to_string(),
            asked: unix_seconds(now).unwrap_or_default(),
            digest: None,
        };
        self.keep_answer(reference, &record)?;
        let ask = async {
            let registry = HttpRegistry::new(reference, options).await?;
            registry
                .manifest(&reference.manifest_selector(), MAX_MANIFEST_BYTES)
                .await
        };
        match tokio::time::timeout(CHECK_TIMEOUT, ask).await {
            Ok(Ok(fetched)) => record.digest = Some(ImageDigest::of(&fetched.bytes)),
            Ok(Err(source)) => return Err(failed(source)),
            Err(_) => {
                return Err(UpdateError::Timeout {
                    reference: reference.clone(),
                });
            }
        }
        Ok(self.keep_answer(reference, &record)?)
    }

    fn keep_answer(&self, reference: &Reference, record: &UpdateRecord) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(record).expect("a record of strings always serialises");
        self.put(&self.update_path(reference), &bytes)
    }

    fn update_path(&self, reference: &Reference) -> std::path::PathBuf {
        let name = format!(
            "{}.json",
            ImageDigest::of(reference.to_string().as_bytes()).hex()
        );
        self.root().join("updates").join(name)
    }
}

#[cfg(test)]
mod tests;
