//! Which names an address stands for, from the answers the guest was given.
//!
//! Several names share an address (content networks), so an address keeps the most recent of them, newest first.
//! Programs keep addresses far longer than a TTL says, so names stay for at least [`FLOOR`]. The table is bounded in
//! addresses and in bytes: the address that was answered longest ago goes first.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Shortest time a name stays, whatever its TTL says.
pub(crate) const FLOOR: Duration = Duration::from_secs(24 * 3_600);

/// Addresses remembered.
pub(crate) const MAX_ADDRESSES: usize = 16_384;

/// Names remembered for one address.
pub(crate) const MAX_NAMES: usize = 32;

/// Memory of the table, in bytes, as [`ADDRESS_BYTES`] and [`NAME_BYTES`] estimate it: room for all addresses with two
/// names of ordinary length each.
pub(crate) const MAX_BYTES: usize = 8 * 1024 * 1024;

/// What an address takes besides its names: its entry in the map (which is at worst half empty) and in the order.
const ADDRESS_BYTES: usize =
    2 * (size_of::<IpAddr>() + size_of::<Entry>() + 8) + 2 * size_of::<(IpAddr, u64)>();

/// What a name takes besides its text, its list's spare room and the allocator's own included.
const NAME_BYTES: usize = 2 * size_of::<Known>() + 32;

/// Names of addresses.
#[derive(Debug, Default)]
pub(crate) struct NameTable {
    entries: HashMap<IpAddr, Entry>,
    /// Addresses in the order of their answers, with the serial each had then; old ones are skipped.
    order: VecDeque<(IpAddr, u64)>,
    serial: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    names: Vec<Known>,
    serial: u64,
}

#[derive(Debug)]
struct Known {
    name: Box<str>,
    until: Instant,
}

impl Entry {
    /// What its names take.
    fn bytes(&self) -> usize {
        let names = self.names.iter();
        names.map(|known| known.name.len() + NAME_BYTES).sum()
    }
}

impl NameTable {
    /// Remembers that the guest was told `address` for `name`.
    pub(crate) fn record(&mut self, name: &str, address: IpAddr, ttl: Duration, now: Instant) {
        self.serial += 1;
        let serial = self.serial;
        let entry = self.entries.entry(address).or_insert_with(|| {
            self.bytes += ADDRESS_BYTES;
            Entry {
                names: Vec::new(),
                serial,
            }
        });
        self.bytes -= entry.bytes();
        entry.serial = serial;
        entry
            .names
            .retain(|known| &*known.name != name && known.until > now);
        entry.names.truncate(MAX_NAMES - 1);
        let known = Known {
            name: name.into(),
            until: now + ttl.max(FLOOR),
        };
        entry.names.insert(0, known);
        self.bytes += entry.bytes();
        self.order.push_back((address, serial));
        self.shrink();
    }

    /// Names the guest was told `address` for, newest first.
    pub(crate) fn names(&self, address: IpAddr, now: Instant) -> Vec<String> {
        let known = self.entries.get(&address).map(|entry| entry.names.iter());
        known
            .into_iter()
            .flatten()
            .filter(|known| known.until > now)
            .map(|known| known.name.to_string())
            .collect()
    }

    fn shrink(&mut self) {
        let entries = &mut self.entries;
        while entries.len() > MAX_ADDRESSES || self.bytes > MAX_BYTES {
            let Some((address, serial)) = self.order.pop_front() else {
                return;
            };
            if let Some(entry) = entries.get(&address)
                && entry.serial == serial
            {
                self.bytes -= ADDRESS_BYTES + entry.bytes();
                entries.remove(&address);
            }
        }
        if self.order.len() > 2 * MAX_ADDRESSES {
            self.order.retain(|(address, serial)| {
                entries
                    .get(address)
                    .is_some_and(|entry| entry.serial == *serial)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn names(table: &NameTable, now: Instant) -> Vec<String> {
        table.names(A, now)
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_all_names_of_a_shared_address_newest_first() {
        let mut table = NameTable::default();
        let now = Instant::now();
        for name in ["a.test", "b.test", "a.test"] {
            table.record(name, A, Duration::from_secs(1), now);
        }
        assert_eq!(names(&table, now), ["a.test", "b.test"]);
    }

    #[tokio::test(start_paused = true)]
    async fn forgets_names_after_the_floor_and_not_before() {
        let mut table = NameTable::default();
        let now = Instant::now();
        table.record("a.test", A, Duration::ZERO, now);
        assert_eq!(
            names(&table, now + FLOOR - Duration::from_secs(1)),
            ["a.test"]
        );
        assert!(names(&table, now + FLOOR).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn knows_nothing_of_other_addresses() {
        let table = NameTable::default();
        assert!(names(&table, Instant::now()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn stays_within_its_bounds_and_keeps_what_was_answered_last() {
        let mut table = NameTable::default();
        let now = Instant::now();
        let address = |n: usize| IpAddr::from((n as u128).to_be_bytes());
        for n in 0..3 * MAX_ADDRESSES {
            table.record("bulk.test", address(n), Duration::ZERO, now);
            table.record("kept.test", A, Duration::ZERO, now);
        }
        assert_eq!(table.entries.len(), MAX_ADDRESSES);
        assert!(table.order.len() <= 2 * MAX_ADDRESSES);
        assert_eq!(names(&table, now), ["kept.test"]);
        for n in 0..2 * MAX_NAMES {
            table.record(&format!("n{n}.test"), A, Duration::ZERO, now);
        }
        assert_eq!(names(&table, now).len(), MAX_NAMES);
    }

    #[tokio::test(start_paused = true)]
    async fn stays_within_its_memory_whatever_the_names() {
        let mut table = NameTable::default();
        let now = Instant::now();
        let long = "x".repeat(245);
        for round in 0..MAX_NAMES {
            for n in 0..MAX_ADDRESSES / 8 {
                let address = IpAddr::from((n as u128).to_be_bytes());
                table.record(&format!("{round:03}.{long}"), address, FLOOR, now);
            }
            assert!(table.bytes <= MAX_BYTES);
        }
        let counted: usize = table
            .entries
            .values()
            .map(|entry| ADDRESS_BYTES + entry.bytes())
            .sum();
        assert_eq!(table.bytes, counted);
        assert!(table.bytes > MAX_BYTES / 2, "it is used");
        let ordinary = "registry.example.org".len() + NAME_BYTES;
        assert!(MAX_ADDRESSES * (ADDRESS_BYTES + 2 * ordinary) <= MAX_BYTES);
    }
}
