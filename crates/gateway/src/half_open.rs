//! Connections the guest has asked for and nobody has accepted yet.
//!
//! An entry is *dialling* (the handler is at work) or *silent* (its dial timed out: further SYNs are ignored as they
//! would be outside). The table is bounded; a new connection may push out a silent one, never one that is dialling.

use std::collections::HashMap;

use smoltcp::time::Instant;
use tokio::task::AbortHandle;

use crate::config::{MAX_HALF_OPEN, SILENT_REFUSAL};
use crate::flow::{FlowKey, Syn};

/// Names one half-open connection; a later one of the same ports has another serial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) key: FlowKey,
    serial: u64,
}

/// Half-open connections by their ports.
#[derive(Debug, Default)]
pub(crate) struct HalfOpenTable {
    entries: HashMap<FlowKey, HalfOpen>,
    serial: u64,
}

#[derive(Debug)]
struct HalfOpen {
    serial: u64,
    syn: Syn,
    state: State,
}

#[derive(Debug)]
enum State {
    Dialling(Option<AbortHandle>),
    Silent { until: Instant },
}

impl HalfOpenTable {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn contains(&self, key: &FlowKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Takes a SYN that belongs to an entry; gives it back if it begins a new connection.
    pub(crate) fn absorb(&mut self, key: FlowKey, syn: Syn, now: Instant) -> Result<(), Syn> {
        let Some(known) = self.entries.get_mut(&key) else {
            return Err(syn);
        };
        match known.state {
            State::Dialling(_) => {
                // Repeated, or a new connection of the same ports: the dial goes on for the last.
                known.syn = syn;
                Ok(())
            }
            State::Silent { until } if now < until && known.syn.sequence == syn.sequence => Ok(()),
            State::Silent { .. } => {
                self.entries.remove(&key);
                Err(syn)
            }
        }
    }

    /// Adds an entry that dials; `None` if there is no room.
    pub(crate) fn insert(&mut self, key: FlowKey, syn: Syn, now: Instant) -> Option<Ticket> {
        if !self.make_room(now) {
            return None;
        }
        self.serial += 1;
        let serial = self.serial;
        let state = State::Dialling(None);
        self.entries.insert(key, HalfOpen { serial, syn, state });
        Some(Ticket { key, serial })
    }

    /// Remembers the task that dials; ends it if the guest has given up already.
    pub(crate) fn dialling(&mut self, ticket: Ticket, task: AbortHandle) {
        match self.entries.get_mut(&ticket.key) {
            Some(half) if half.serial == ticket.serial => half.state = State::Dialling(Some(task)),
            _ => task.abort(),
        }
    }

    /// Takes an entry out; `None` if the guest has given up.
    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<Syn> {
        if self.entries.get(&ticket.key)?.serial != ticket.serial {
            return None;
        }
        self.entries.remove(&ticket.key).map(|half| half.syn)
    }

    /// Puts an entry back whose dial timed out.
    pub(crate) fn silence(&mut self, ticket: Ticket, syn: Syn, now: Instant) {
        let until = now + SILENT_REFUSAL.into();
        let half = HalfOpen {
            serial: ticket.serial,
            syn,
            state: State::Silent { until },
        };
        self.entries.insert(ticket.key, half);
    }

    /// The guest gives up.
    pub(crate) fn cancel(&mut self, key: FlowKey) {
        if let Some(half) = self.entries.remove(&key)
            && let State::Dialling(Some(task)) = half.state
        {
            task.abort();
        }
    }

    fn make_room(&mut self, now: Instant) -> bool {
        if self.entries.len() < MAX_HALF_OPEN {
            return true;
        }
        self.entries
            .retain(|_, half| !matches!(half.state, State::Silent { until } if until <= now));
        if self.entries.len() < MAX_HALF_OPEN {
            return true;
        }
        let silent = self
            .entries
            .iter()
            .filter_map(|(key, half)| match half.state {
                State::Silent { until } => Some((until, *key)),
                State::Dialling(_) => None,
            });
        let oldest = silent.min_by_key(|(until, _)| *until);
        oldest.is_some_and(|(_, key)| self.entries.remove(&key).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> FlowKey {
        FlowKey {
            guest_port: port,
            remote: ([192, 0, 2, 1], 80).into(),
        }
    }

    fn syn(sequence: u32) -> Syn {
        Syn {
            packet: Vec::new(),
            sequence,
            mss: 1_460,
        }
    }

    const NOW: Instant = Instant::ZERO;

    #[test]
    fn a_repeated_syn_is_absorbed_while_dialling() {
        let mut table = HalfOpenTable::default();
        assert!(table.absorb(key(1), syn(7), NOW).is_err());
        let ticket = table.insert(key(1), syn(7), NOW).unwrap();
        assert!(table.absorb(key(1), syn(8), NOW).is_ok());
        assert_eq!(table.take(ticket).unwrap().sequence, 8);
        assert!(table.take(ticket).is_none());
    }

    #[test]
    fn an_old_ticket_does_not_take_a_new_connection() {
        let mut table = HalfOpenTable::default();
        let old = table.insert(key(1), syn(7), NOW).unwrap();
        table.cancel(key(1));
        let new = table.insert(key(1), syn(8), NOW).unwrap();
        assert!(table.take(old).is_none());
        assert!(table.take(new).is_some());
    }

    #[test]
    fn silence_ends_with_its_time_or_a_new_connection() {
        let mut table = HalfOpenTable::default();
        let ticket = table.insert(key(1), syn(7), NOW).unwrap();
        let first = table.take(ticket).unwrap();
        table.silence(ticket, first, NOW);
        assert!(table.absorb(key(1), syn(7), NOW).is_ok());
        assert!(
            table.absorb(key(1), syn(9), NOW).is_err(),
            "another connection"
        );
        let ticket = table.insert(key(1), syn(7), NOW).unwrap();
        let first = table.take(ticket).unwrap();
        table.silence(ticket, first, NOW);
        let later = NOW + SILENT_REFUSAL.into();
        assert!(table.absorb(key(1), syn(7), later).is_err());
    }

    #[test]
    fn a_flood_is_bounded_and_pushes_out_silent_entries_only() {
        let mut table = HalfOpenTable::default();
        let mut tickets = Vec::new();
        for port in 0..2_000 {
            tickets.extend(table.insert(key(port), syn(7), NOW));
        }
        assert_eq!((table.len(), tickets.len()), (MAX_HALF_OPEN, MAX_HALF_OPEN));
        let first = table.take(tickets[3]).unwrap();
        table.silence(tickets[3], first, NOW);
        assert!(table.insert(key(5_000), syn(7), NOW).is_some());
        assert!(table.insert(key(5_001), syn(7), NOW).is_none());
        assert!(!table.contains(&key(3)));
    }
}
