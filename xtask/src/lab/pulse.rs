//! Whether the emulated host still runs. QEMU 7.2 with several processors and a nested guest now and then loses one: it
//! spins on an interrupt it never delivers, while the others run on. Whatever runs there never ends, nor does what waits
//! for it, so the host's processors say every few seconds that they run, and one that has fallen silent is noticed.

use std::io::{Result, Write};
use std::time::{Duration, Instant};

/// How often each processor of the emulated host says that it runs.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// How long a processor may be silent: many times what a busy machine delays a word.
const SILENCE: Duration = Duration::from_secs(60);

/// The last word of each processor; takes lines with a processor's number.
#[derive(Debug)]
pub(super) struct Pulse {
    heard: Vec<Option<Instant>>,
    line: Vec<u8>,
}

impl Pulse {
    pub(super) fn new(processors: u8) -> Self {
        Self {
            heard: vec![None; usize::from(processors)],
            line: Vec::new(),
        }
    }

    /// A processor that was heard once and is silent for too long.
    pub(super) fn lost(&self, now: Instant) -> Option<u8> {
        let silent = |heard: &Option<Instant>| {
            heard.is_some_and(|heard| now.saturating_duration_since(heard) > SILENCE)
        };
        let position = self.heard.iter().position(silent)?;
        u8::try_from(position).ok()
    }
}

impl Write for Pulse {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let number = std::str::from_utf8(&line)
                .ok()
                .and_then(|text| text.parse::<usize>().ok());
            if let Some(heard) = number.and_then(|number| self.heard.get_mut(number)) {
                *heard = Some(Instant::now());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_lost_when_it_falls_silent_not_before_it_was_heard() {
        let mut pulse = Pulse::new(2);
        let start = Instant::now();
        assert_eq!(pulse.lost(start + 10 * SILENCE), None);
        pulse.write_all(b"0\n1").unwrap();
        assert_eq!(pulse.lost(Instant::now() + SILENCE / 2), None);
        assert_eq!(pulse.lost(Instant::now() + 2 * SILENCE), Some(0));
        pulse.write_all(b"\nx\n7\n").unwrap();
        pulse.heard[0] = Some(start + 2 * SILENCE);
        assert_eq!(pulse.lost(start + 2 * SILENCE), Some(1));
    }
}
