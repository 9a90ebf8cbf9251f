//! When to ask a registry again: transient trouble only, with growing pauses, a registry's `Retry-After` honoured, and not for ever.

use std::time::Duration;

use crate::registry::RegistryError;

/// How often in a row something is tried again.
const MAX_RETRIES: u32 = 5;
/// How often in a row a connection that does not come up is tried again: mostly a wrong name or no network, which should be told soon.
const MAX_CONNECT_RETRIES: u32 = 2;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest wait a registry may ask for; a longer one ends the pull with that number in the message.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Counts failures in a row.
#[derive(Debug)]
pub(super) struct Retry {
    failures: u32,
}

impl Retry {
    pub(super) fn new() -> Self {
        Self { failures: 0 }
    }

    /// Progress was made: the next failure is the first again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after `error`, or `None` if asking again is useless.
    pub(super) fn next(&mut self, error: &RegistryError) -> Option<Duration> {
        self.failures += 1;
        let limit = if error.is_connect() {
            MAX_CONNECT_RETRIES
        } else {
            MAX_RETRIES
        };
        if !error.is_transient() || self.failures > limit {
            return None;
        }
        match error.retry_after() {
            Some(asked) if asked > MAX_RETRY_AFTER => None,
            Some(asked) => Some(asked),
            None => Some(FIRST_PAUSE * (1 << (self.failures - 1))),
        }
    }

    /// Waits before the next attempt, or gives the error back if there is to be none.
    pub(super) async fn pause(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        match self.next(&error) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escape::Escaped;

    fn status(status: u16, retry_after: Option<u64>) -> RegistryError {
        let retry_after = retry_after.map(Duration::from_secs);
        RegistryError::Status {
            image: "x".parse().unwrap(),
            status,
            reason: Escaped::new(""),
            retry_after,
        }
    }

    #[test]
    fn pauses_grow_and_end() {
        let mut retry = Retry::new();
        let pauses: Vec<_> = (0..6)
            .map(|_| {
                retry
                    .next(&status(503, None))
                    .map(|pause| pause.as_millis())
            })
            .collect();
        assert_eq!(
            pauses,
            [
                Some(250),
                Some(500),
                Some(1000),
                Some(2000),
                Some(4000),
                None
            ]
        );
        retry.reset();
        assert_eq!(retry.next(&status(503, None)), Some(FIRST_PAUSE));
    }

    #[test]
    fn lasting_refusals_are_not_repeated() {
        assert_eq!(Retry::new().next(&status(400, None)), None);
        assert_eq!(
            Retry::new().next(&RegistryError::NotFound {
                image: "x".parse().unwrap(),
                reason: Escaped::new("")
            }),
            None
        );
    }

    #[test]
    fn retry_after_is_honoured_up_to_a_limit() {
        assert_eq!(
            Retry::new().next(&status(503, Some(7))),
            Some(Duration::from_secs(7))
        );
        assert_eq!(Retry::new().next(&status(503, Some(3600))), None);
    }
}
