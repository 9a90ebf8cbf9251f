//! Pins: images something on disk is derived from, so that no removal takes them away.
//!
//! A pin is a file `ROOT/pins/<digest of its name>.json`, durable like a reference; it stays until it is taken back.

use serde::{Deserialize, Serialize};

use crate::digest::ImageDigest;
use crate::image::Image;
use crate::store::{Claim, Guard, Store, StoreError, gone_is_fine, sync_directory};

/// The largest pin record, in bytes: a name and the digests of 127 layers.
const MAX_PIN_BYTES: u64 = 64 << 10;
/// The longest name of a pin, in bytes.
const MAX_PIN_NAME: usize = 4096;

/// A pin as it is written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PinRecord {
    /// What is derived from the image.
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) claim: Claim,
}

impl Store {
    /// Keeps `image` for what is called `name` (at most 4 KiB), until [`Store::unpin`]. A name has one image: an earlier one is let go.
    ///
    /// # Errors
    /// [`StoreError`] if the image was removed since it was looked up, or the pin cannot be written.
    pub fn pin(&self, name: &str, image: &Image) -> Result<(), StoreError> {
        if name.len() > MAX_PIN_NAME {
            return Err(self.io(std::io::ErrorKind::InvalidFilename.into()));
        }
        // The lease keeps the image until the pin is durable; it is made under the guard, the pin needs none then.
        let _lease = self.lease(image)?;
        let record = PinRecord {
            name: name.to_owned(),
            claim: self.claim_of(image.manifest_digest)?,
        };
        let bytes = serde_json::to_vec(&record).expect("a record of strings always serialises");
        self.put(&self.pin_path(name), &bytes)
    }

    /// Takes the pin called `name` back; nothing happens if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be removed.
    pub fn unpin(&self, name: &str) -> Result<(), StoreError> {
        gone_is_fine(fs_err::remove_file(self.pin_path(name)))
            .and_then(|()| sync_directory(&self.root().join("pins")))
            .map_err(|source| self.io(source))
    }

    pub(crate) fn pins(&self, _exclusive: &Guard) -> Result<Vec<PinRecord>, StoreError> {
        let mut pins = Vec::new();
        let entries = fs_err::read_dir(self.root().join("pins"));
        for entry in entries.map_err(|source| self.io(source))? {
            let path = entry.map_err(|source| self.io(source))?.path();
            let Some(bytes) = self.read_bounded(&path, MAX_PIN_BYTES)? else {
                continue;
            };
            // What cannot be understood may be of a newer agent-vm: better an error than a removed layer.
            pins.push(serde_json::from_slice(&bytes).map_err(|_| StoreError::Damaged { path })?);
        }
        pins.sort_by(|a: &PinRecord, b| a.name.cmp(&b.name));
        Ok(pins)
    }

    fn pin_path(&self, name: &str) -> std::path::PathBuf {
        let file = format!("{}.json", ImageDigest::of(name.as_bytes()).hex());
        self.root().join("pins").join(file)
    }
}
