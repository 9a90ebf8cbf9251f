//! What can be seen of a guest's processes while they run: environment and arguments, looked at again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use agent_vm_test_support::canary::Canary;
use anyhow::{Result, ensure};

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// What was seen.
#[derive(Debug)]
pub(crate) struct Watch {
    deadline: Instant,
    looked: Option<Instant>,
    /// Everything that was read, once: what it is and from which process.
    pub(crate) seen: BTreeMap<Vec<u8>, String>,
    /// The processes.
    pub(crate) processes: BTreeSet<u32>,
}

impl Watch {
    /// Ends a command that takes longer than `limit`.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            deadline: Instant::now() + limit,
            looked: None,
            seen: BTreeMap::new(),
            processes: BTreeSet::new(),
        }
    }

    /// What a guest noted of its own processes.
    pub(crate) fn noted(notes: Vec<u8>) -> Self {
        let mut watch = Self::new(Duration::ZERO);
        watch.seen.insert(notes, "notes of the guest".to_owned());
        watch
    }

    /// Looks at the processes of this network namespace.
    ///
    /// # Errors
    /// When the time is over.
    pub(crate) fn look(&mut self, namespace: &str) -> Result<()> {
        let now = Instant::now();
        ensure!(now < self.deadline, "it does not end");
        if self.looked.is_some_and(|looked| now - looked < PAUSE) {
            return Ok(());
        }
        self.looked = Some(now);
        let inode = fs_err::metadata(format!("/run/netns/{namespace}"))?.ino();
        for entry in fs_err::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(process) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // Processes end while they are looked at.
            let theirs = fs_err::metadata(format!("/proc/{process}/ns/net"));
            if theirs.is_ok_and(|theirs| theirs.ino() == inode) {
                self.take(process);
            }
        }
        Ok(())
    }

    fn take(&mut self, process: u32) {
        for part in ["environ", "cmdline"] {
            let place = format!("/proc/{process}/{part}");
            if let Ok(bytes) = fs_err::read(&place)
                && !bytes.is_empty()
            {
                self.processes.insert(process);
                self.seen.entry(bytes).or_insert(place);
            }
        }
    }

    /// Where `canary` was seen.
    pub(crate) fn search(&self, canary: &Canary) -> Vec<String> {
        let found = self.seen.iter();
        let found = found.filter(|(bytes, place)| !canary.search_bytes(place, bytes).is_empty());
        found.map(|(_, place)| place.clone()).collect()
    }
}
