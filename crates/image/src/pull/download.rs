//! One blob from the registry into a bounded channel, resumed by range where the connection breaks.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::PullEvent;
use super::retry::Retry;
use crate::layer::LayerError;
use crate::manifest::Blob;
use crate::registry::{Body as _, Registry, RegistryError};

/// A connection that gave at least this many bytes counts as progress: failures are counted anew.
const PROGRESS_BYTES: u64 = 1 << 20;

/// What happens during a download.
pub(super) enum DownloadEvent<'a> {
    Received(u64),
    Retried(&'a RegistryError),
}

impl<'a> DownloadEvent<'a> {
    pub(super) fn of_layer(self, layer: usize) -> PullEvent<'a> {
        match self {
            Self::Received(received) => PullEvent::LayerProgress { layer, received },
            Self::Retried(reason) => PullEvent::LayerRetried { layer, reason },
        }
    }
}

/// Sends exactly `blob.size` bytes into `sink`. Ends early without an error if the receiver has gone: it has its own error then.
pub(super) async fn run<R: Registry>(
    registry: &R,
    blob: Blob,
    sink: mpsc::Sender<Bytes>,
    observe: impl Fn(DownloadEvent<'_>),
) -> Result<(), LayerError> {
    let mut retry = Retry::new();
    let mut received = 0;
    loop {
        let before = received;
        let reason = match registry.blob(blob.digest, received).await {
            Ok(mut body) => loop {
                match body.chunk().await {
                    Ok(Some(chunk)) => {
                        received += chunk.len() as u64;
                        if received > blob.size {
                            return Err(LayerError::TooLong {
                                expected: blob.size,
                            });
                        }
                        if sink.send(chunk).await.is_err() {
                            return Ok(());
                        }
                        observe(DownloadEvent::Received(received));
                    }
                    Ok(None) => break None,
                    Err(reason) => break Some(reason),
                }
            },
            Err(reason) => Some(reason),
        };
        if received == blob.size {
            return Ok(());
        }
        // An answer that just ends early is final: a length-delimited body that is cut shows up as an error instead.
        let reason = reason.ok_or(LayerError::TooShort {
            expected: blob.size,
            actual: received,
        })?;
        if received - before >= PROGRESS_BYTES {
            retry.reset();
        }
        observe(DownloadEvent::Retried(&reason));
        retry
            .pause(reason)
            .await
            .map_err(|source| LayerError::Registry { source })?;
    }
}
