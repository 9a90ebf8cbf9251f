//! One blob from the registry into a bounded channel, resumed where the connection breaks.
//!
//! Every attempt asks for the blob itself, never for the address an earlier answer redirected to: those expire. An attempt asks for the
//! missing part; where the registry cannot give parts it asks for the whole and drops what is there already. The receiver's decoder
//! lives on over all attempts and sees one stream.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::PullEvent;
use super::retry::Retry;
use crate::layer::{BATCH_BYTES, Batch, LayerError};
use crate::manifest::Blob;
use crate::registry::{Body as _, Registry, RegistryError, Start};

/// An attempt that gave at least this many bytes counts as progress: failures are counted anew.
const PROGRESS_BYTES: u64 = 1 << 20;
/// A connection on which less than [`SLOW_BYTES`] come in this time of waiting is given up, as one that stands still is.
const SLOW_TIME: Duration = Duration::from_secs(60);
/// See [`SLOW_TIME`].
const SLOW_BYTES: u64 = 64 << 10;

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
    sink: mpsc::Sender<Batch>,
    observe: impl Fn(DownloadEvent<'_>),
) -> Result<(), LayerError> {
    let mut stream = Stream {
        blob,
        sink,
        observe,
        batch: Vec::new(),
        batched: 0,
        received: 0,
    };
    let (mut retry, mut ranges) = (Retry::new(), true);
    loop {
        let before = stream.received;
        let start = match before {
            0 => Start::Beginning,
            offset if ranges => Start::Range(offset),
            offset => Start::Skip(offset),
        };
        let reason = match stream.attempt(registry, start).await? {
            End::Done => return Ok(()),
            End::Broken(reason) => reason,
        };
        if stream.received - before >= PROGRESS_BYTES {
            retry.reset();
        }
        (stream.observe)(DownloadEvent::Retried(&reason));
        if ranges && matches!(reason, RegistryError::BadRange { .. }) {
            ranges = false;
            continue;
        }
        retry
            .pause(reason)
            .await
            .map_err(|source| LayerError::Registry { source })?;
    }
}

/// How an attempt ended without a verdict on the layer.
enum End {
    /// All was sent, or nobody wants more.
    Done,
    /// The connection.
    Broken(RegistryError),
}

struct Stream<F> {
    blob: Blob,
    sink: mpsc::Sender<Batch>,
    observe: F,
    batch: Batch,
    batched: usize,
    received: u64,
}

impl<F: Fn(DownloadEvent<'_>)> Stream<F> {
    async fn attempt<R: Registry>(
        &mut self,
        registry: &R,
        start: Start,
    ) -> Result<End, LayerError> {
        let mut body = match registry.blob(self.blob, start).await {
            Ok(body) => body,
            Err(reason) => return Ok(End::Broken(reason)),
        };
        let mut pace = Pace::default();
        loop {
            let asked = Instant::now();
            let chunk = match body.chunk().await {
                Ok(chunk) => chunk,
                Err(reason) => return Ok(End::Broken(reason)),
            };
            let Some(chunk) = chunk else {
                return self.ended().await;
            };
            let length = chunk.len() as u64;
            if pace.is_too_slow(asked.elapsed(), length) {
                return Ok(End::Broken(registry.too_slow()));
            }
            self.received += length;
            if self.received > self.blob.size {
                return Err(LayerError::TooLong {
                    expected: self.blob.size,
                });
            }
            if !self.push(chunk).await {
                return Ok(End::Done);
            }
        }
    }

    /// The answer came to its end: it was all, or there is no more.
    async fn ended(&mut self) -> Result<End, LayerError> {
        if self.received < self.blob.size {
            return Err(LayerError::TooShort {
                expected: self.blob.size,
                actual: self.received,
            });
        }
        self.flush().await;
        Ok(End::Done)
    }

    /// Passes bytes on; `false` if nobody wants them.
    async fn push(&mut self, chunk: Bytes) -> bool {
        self.batched += chunk.len();
        self.batch.push(chunk);
        self.batched < BATCH_BYTES || self.flush().await
    }

    async fn flush(&mut self) -> bool {
        let batch = std::mem::take(&mut self.batch);
        self.batched = 0;
        let wanted = self.sink.send(batch).await.is_ok();
        (self.observe)(DownloadEvent::Received(self.received));
        wanted
    }
}

/// Tells a connection that only trickles from one that works. Counts the time of waiting alone: a slow receiver is no fault of the sender.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn is_too_slow(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.bytes >= SLOW_BYTES {
            *self = Self::default();
        }
        self.waited >= SLOW_TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_too_slow_and_a_stream_with_pauses_is_not() {
        let mut pace = Pace::default();
        let trickle = (0..).find(|_| pace.is_too_slow(Duration::from_secs(10), 1));
        assert_eq!(trickle, Some(5), "given up after a minute");
        let mut pace = Pace::default();
        assert!((0..100).all(|_| !pace.is_too_slow(Duration::from_secs(20), SLOW_BYTES / 2)));
    }
}
