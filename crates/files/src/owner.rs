//! Ownership the unprivileged server cannot give to host files.
//!
//! Guest root may chown anything to anyone and set set-id bits. On the host the file keeps its real
//! owner and never gets a set-id bit; what the guest asked for is kept in the extended attribute
//! [`OWNER_XATTR`] (regular files and directories), or in a bounded table in memory where the file
//! system or the kind of file does not take one, and shown again to the guest.

use std::collections::HashMap;

use parking_lot::Mutex;
use rustix::io::Errno;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::host::Meta;
use crate::node::Identity;

/// Where the record lives; hidden from the guest.
pub(crate) const OWNER_XATTR: &std::ffi::CStr = c"user.agent-vm.owner";

/// Prefix of all attribute names the guest can neither see nor set.
pub(crate) const HIDDEN_XATTR_PREFIX: &[u8] = b"user.agent-vm.";

/// Set-user-id, set-group-id and sticky.
pub(crate) const SPECIAL_BITS: u32 = 0o7000;

/// Owner shown for host users other than the launching one.
pub(crate) const NOBODY: u32 = 65534;

/// Most ownership records kept in memory, over all shares.
pub(crate) const MEMORY_RECORDS_MAX: usize = 65_536;

/// Length of an encoded record in bytes.
const RECORD_LENGTH: usize = 11;
const RECORD_VERSION: u8 = 1;

/// How host owners appear in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerMap {
    /// The launching user on the host.
    pub host_uid: u32,
    /// The launching user's primary group on the host.
    pub host_gid: u32,
    /// What `host_uid` is in the guest.
    pub guest_uid: u32,
    /// What `host_gid` is in the guest.
    pub guest_gid: u32,
}

impl OwnerMap {
    /// What the guest sees of a file without record.
    pub(crate) fn natural(&self, meta: &Meta) -> OwnerRecord {
        let pick = |host, ours, guest| if host == ours { guest } else { NOBODY };
        OwnerRecord {
            uid: pick(meta.uid, self.host_uid, self.guest_uid),
            gid: pick(meta.gid, self.host_gid, self.guest_gid),
            special: meta.mode & SPECIAL_BITS,
        }
    }
}

/// Owner, group and special mode bits as the guest shall see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerRecord {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Subset of [`SPECIAL_BITS`].
    pub(crate) special: u32,
}

impl OwnerRecord {
    /// Version byte, uid, gid and special bits, little-endian.
    pub(crate) fn encode(&self) -> [u8; RECORD_LENGTH] {
        let mut bytes = [0; RECORD_LENGTH];
        bytes[0] = RECORD_VERSION;
        bytes[1..5].copy_from_slice(&self.uid.to_le_bytes());
        bytes[5..9].copy_from_slice(&self.gid.to_le_bytes());
        // Only three bits are ever set, so the upper half is zero.
        bytes[9..11].copy_from_slice(&(self.special as u16).to_le_bytes());
        bytes
    }

    /// Reads a record; anything unexpected is no record.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_LENGTH] = bytes.try_into().ok()?;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let special = u32::from(u16::from_le_bytes([bytes[9], bytes[10]]));
        let known = bytes[0] == RECORD_VERSION && special & !SPECIAL_BITS == 0;
        known.then(|| Self {
            uid: word(1),
            gid: word(5),
            special,
        })
    }

    /// After content or owner changed: set-user-id goes, set-group-id of an executable too.
    pub(crate) fn without_set_id(mut self, mode: u32) -> Self {
        const GROUP_EXECUTE: u32 = 0o010;
        self.special &= !0o4000;
        if mode & GROUP_EXECUTE != 0 {
            self.special &= !0o2000;
        }
        self
    }
}

/// Records that could not be stored with their file; gone with the server.
#[derive(Debug, Default)]
pub(crate) struct MemoryRecords {
    records: Mutex<HashMap<Identity, OwnerRecord>>,
    /// Lets the common case, no records at all, pass without the lock.
    length: AtomicUsize,
}

impl MemoryRecords {
    pub(crate) fn find(&self, identity: &Identity) -> Option<OwnerRecord> {
        if self.length.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.records.lock().get(identity).copied()
    }

    /// # Errors
    /// `ENOSPC` above [`MEMORY_RECORDS_MAX`].
    pub(crate) fn store(&self, identity: Identity, record: OwnerRecord) -> Result<(), Errno> {
        let mut records = self.records.lock();
        if records.len() >= MEMORY_RECORDS_MAX && !records.contains_key(&identity) {
            return Err(Errno::NOSPC);
        }
        records.insert(identity, record);
        self.length.store(records.len(), Ordering::Release);
        Ok(())
    }

    pub(crate) fn remove(&self, identity: &Identity) {
        if self.length.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut records = self.records.lock();
        records.remove(identity);
        self.length.store(records.len(), Ordering::Release);
    }
}

/// Fuzz body: what decodes encodes to the same bytes.
pub fn fuzz_owner_record(data: &[u8]) {
    if let Some(record) = OwnerRecord::decode(data) {
        assert_eq!(record.encode(), data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ignores_records_of_unknown_version_length_or_bits() {
        let good = OwnerRecord {
            uid: 1,
            gid: 2,
            special: 0o4000,
        }
        .encode();
        assert!(OwnerRecord::decode(&good).is_some());
        let mut version = good;
        version[0] = 2;
        let mut bits = good;
        bits[9] = 1;
        assert_eq!(OwnerRecord::decode(&version), None);
        assert_eq!(OwnerRecord::decode(&bits), None);
        assert_eq!(OwnerRecord::decode(&good[..10]), None);
        assert_eq!(OwnerRecord::decode(b""), None);
    }

    #[test]
    fn drops_set_group_id_only_from_group_executables() {
        let record = OwnerRecord {
            uid: 0,
            gid: 0,
            special: 0o7000,
        };
        assert_eq!(record.without_set_id(0o755).special, 0o1000);
        assert_eq!(record.without_set_id(0o644).special, 0o3000);
    }

    #[test]
    fn refuses_more_records_than_the_limit() {
        let records = MemoryRecords::default();
        let record = OwnerRecord {
            uid: 1,
            gid: 1,
            special: 0,
        };
        let identity = |ino| Identity {
            ino,
            ..Identity::default()
        };
        for ino in 0..MEMORY_RECORDS_MAX as u64 {
            records.store(identity(ino), record).unwrap();
        }
        assert_eq!(records.store(identity(u64::MAX), record), Err(Errno::NOSPC));
        records.store(identity(0), record).unwrap();
        records.remove(&identity(0));
        records.store(identity(u64::MAX), record).unwrap();
    }

    proptest! {
        #[test]
        fn record_survives_encoding(uid: u32, gid: u32, special in 0u32..8) {
            let record = OwnerRecord { uid, gid, special: special << 9 };
            prop_assert_eq!(OwnerRecord::decode(&record.encode()), Some(record));
        }

        #[test]
        fn decoding_never_panics(data in proptest::collection::vec(any::<u8>(), 0..20)) {
            fuzz_owner_record(&data);
        }
    }
}
