//! What keeps repeated decisions from flooding the log.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long an equal decision is not recorded again.
const SILENCE: Duration = Duration::from_secs(10);
/// How many are remembered for that.
const REMEMBERED: usize = 256;
/// How many are recorded in [`WINDOW`]; a guest that scans must not fill the log.
pub(super) const PER_WINDOW: u32 = 64;
/// The time in which they are counted.
pub(super) const WINDOW: Duration = Duration::from_secs(1);

/// Decisions of one kind that were made a moment ago.
#[derive(Debug)]
pub(super) struct History<T> {
    recent: VecDeque<(T, Instant)>,
    window: Option<Instant>,
    in_window: u32,
    suppressed: u64,
}

impl<T> Default for History<T> {
    fn default() -> Self {
        Self {
            recent: VecDeque::new(),
            window: None,
            in_window: 0,
            suppressed: 0,
        }
    }
}

impl<T: PartialEq> History<T> {
    /// Whether this one is recorded; if so, with how many that were not since the last one. `unseen` are those that did
    /// not even come here.
    pub(super) fn admit(&mut self, decided: T, unseen: u64, now: Instant) -> Option<u64> {
        self.suppressed += unseen;
        self.recent
            .retain(|(_, at)| now.duration_since(*at) < SILENCE);
        if self
            .window
            .is_none_or(|begun| now.duration_since(begun) >= WINDOW)
        {
            self.window = Some(now);
            self.in_window = 0;
        }
        let known = self.recent.iter().any(|(known, _)| *known == decided);
        if known || self.in_window >= PER_WINDOW {
            self.suppressed += 1;
            return None;
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((decided, now));
        self.in_window += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_counted_and_not_recorded_one_by_one() {
        let mut history = History::default();
        let now = Instant::now();
        let admitted = (0..1000).filter(|port| history.admit(*port, 0, now).is_some());
        assert_eq!(admitted.count(), PER_WINDOW as usize);
        let later = now + WINDOW;
        assert_eq!(
            history.admit(2000, 0, later),
            Some(1000 - u64::from(PER_WINDOW))
        );
        assert_eq!(history.admit(2001, 0, later), Some(0));
        assert_eq!(history.admit(2002, 7, later), Some(7));
    }

    #[test]
    fn equal_ones_are_recorded_again_after_a_while() {
        let mut history = History::default();
        let now = Instant::now();
        assert_eq!(history.admit("a", 0, now), Some(0));
        assert_eq!(history.admit("a", 0, now + SILENCE / 2), None);
        assert_eq!(history.admit("a", 0, now + SILENCE), Some(1));
    }
}
