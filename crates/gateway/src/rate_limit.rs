//! A token bucket: so many at once, so many a second after that.

use smoltcp::time::Instant;

/// Allows `burst` events at once and `per_second` from then on.
#[derive(Debug)]
pub(crate) struct RateLimit {
    burst: u64,
    per_second: u64,
    /// Millionths of an event.
    tokens: u64,
    last: Instant,
}

const ONE: u64 = 1_000_000;

impl RateLimit {
    pub(crate) fn new(burst: u64, per_second: u64, now: Instant) -> Self {
        Self {
            burst,
            per_second,
            tokens: burst * ONE,
            last: now,
        }
    }

    /// Whether one more event is allowed now.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        let passed = if now > self.last {
            (now - self.last).total_micros()
        } else {
            0
        };
        self.last = now;
        self.tokens = self
            .tokens
            .saturating_add(passed.saturating_mul(self.per_second))
            .min(self.burst * ONE);
        let allowed = self.tokens >= ONE;
        if allowed {
            self.tokens -= ONE;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_a_burst_and_then_the_rate() {
        let start = Instant::from_secs(1);
        let mut limit = RateLimit::new(3, 2, start);
        let allowed = (0..10).filter(|_| limit.allow(start)).count();
        assert_eq!(allowed, 3);
        let later = Instant::from_secs(2);
        let allowed = (0..10).filter(|_| limit.allow(later)).count();
        assert_eq!(allowed, 2);
    }

    #[test]
    fn never_saves_up_more_than_the_burst() {
        let mut limit = RateLimit::new(3, 1_000, Instant::from_secs(1));
        let later = Instant::from_secs(1_000_000);
        assert_eq!((0..10).filter(|_| limit.allow(later)).count(), 3);
    }
}
