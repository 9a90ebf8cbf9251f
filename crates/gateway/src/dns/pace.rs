//! How fast questions go: a burst at once, then so many a second. What comes faster waits a little, then fails.

use std::time::Duration;

use tokio::time::Instant;

/// The pace of one VM's questions.
#[derive(Debug)]
pub(crate) struct Pace {
    limit: PaceLimit,
    /// When the questions that have been let go would all have left at the even rate.
    even: Option<Instant>,
}

/// A pace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PaceLimit {
    /// Questions that may go at once.
    pub(crate) burst: u32,
    /// Time between questions after that.
    pub(crate) interval: Duration,
    /// Longest time a question waits for its turn.
    pub(crate) patience: Duration,
}

impl Pace {
    pub(crate) fn new(limit: PaceLimit) -> Self {
        Self { limit, even: None }
    }

    /// How long the next question waits; `None` when too many wait already.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Duration> {
        let PaceLimit {
            burst,
            interval,
            patience,
        } = self.limit;
        let even = self.even.map_or(now, |even| even.max(now)) + interval;
        let wait = (even - now).saturating_sub(interval * burst);
        if wait > patience {
            return None;
        }
        self.even = Some(even);
        Some(wait)
    }
}

/// Questions of the guest, whether asked of others or not: 2 000 at once, 1 000 a second.
pub(crate) const GUEST_PACE: PaceLimit = PaceLimit {
    burst: 2_000,
    interval: Duration::from_millis(1),
    patience: Duration::ZERO,
};

/// Questions to the host's name servers: 400 at once, 200 a second.
pub(crate) const SERVER_PACE: PaceLimit = PaceLimit {
    burst: 400,
    interval: Duration::from_millis(5),
    patience: Duration::from_secs(1),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lets_a_burst_go_then_the_rate_and_fails_what_would_wait_too_long() {
        let mut pace = Pace::new(SERVER_PACE);
        let now = Instant::now();
        let waits: Vec<_> = (0..1_000).map(|_| pace.next(now)).collect();
        let at_once = waits.iter().filter(|wait| **wait == Some(Duration::ZERO));
        assert_eq!(at_once.count(), SERVER_PACE.burst as usize);
        assert_eq!(waits.iter().flatten().max(), Some(&SERVER_PACE.patience));
        assert_eq!(waits.iter().flatten().count(), 600);
        assert_eq!(pace.next(now), None);
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.next(later), Some(Duration::ZERO));
    }
}
