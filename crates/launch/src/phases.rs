//! How long each part of a launch took: one clock from the start of the process to its end, cut at named moments, so
//! that the phases always sum to the whole.

use std::time::{Duration, Instant};

use serde::Serialize;

/// A finished part of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// Name of the part.
    pub name: &'static str,
    /// Its length.
    #[serde(rename = "ns", serialize_with = "as_nanoseconds")]
    pub took: Duration,
}

/// The clock of one launch.
#[derive(Debug, Clone)]
pub struct Phases {
    cut: Instant,
    done: Vec<Phase>,
}

impl Phases {
    /// Starts the clock at a moment in the past: when the process began.
    #[must_use]
    pub fn since(started: Instant) -> Self {
        Self {
            cut: started,
            done: Vec::new(),
        }
    }

    /// Ends the running part under this name and begins the next.
    pub fn cut(&mut self, name: &'static str) {
        self.cut_at(name, Instant::now());
    }

    /// Like [`Phases::cut`], at a moment that is known already; one before the last cut counts as the last cut.
    pub fn cut_at(&mut self, name: &'static str, now: Instant) {
        let took = now.saturating_duration_since(self.cut);
        self.done.push(Phase { name, took });
        self.cut += took;
    }

    /// The parts so far.
    #[must_use]
    pub fn done(&self) -> &[Phase] {
        &self.done
    }
}

fn as_nanoseconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_sum_to_the_whole_whatever_the_order_of_cuts() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut phases = Phases::since(start);
        for (name, moment) in [("a", 10), ("b", 25), ("late", 20), ("c", 40)] {
            phases.cut_at(name, at(moment));
        }
        let lengths: Vec<u128> = phases
            .done()
            .iter()
            .map(|phase| phase.took.as_millis())
            .collect();
        assert_eq!(lengths, [10, 15, 0, 15]);
    }
}
