//! What the machine has: memory and processors.

use std::num::NonZero;

/// The machine as far as sizes are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostFacts {
    /// Memory that can be had without harm, in MiB: available and free swap. Absent when unknown.
    pub(crate) available_mib: Option<u64>,
    /// Processors this process may use.
    pub(crate) processors: usize,
}

impl HostFacts {
    /// Looks at the machine.
    pub(crate) fn read() -> Self {
        let text = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            available_mib: available_mib(&text),
            processors,
        }
    }
}

/// `MemAvailable` and `SwapFree` of `/proc/meminfo` (proc_meminfo(5)), in MiB.
fn available_mib(meminfo: &str) -> Option<u64> {
    let kib = |name: &str| {
        let line = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((kib("MemAvailable")? + kib("SwapFree").unwrap_or(0)) / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_counts_free_swap() {
        let text = "MemTotal:  8000000 kB\nMemAvailable:  2097152 kB\nSwapFree:   1048576 kB\n";
        assert_eq!(available_mib(text), Some(3072));
        assert_eq!(available_mib("MemAvailable: 2048 kB\n"), Some(2));
    }

    #[test]
    fn unknown_format_is_no_figure() {
        for text in ["", "MemAvailable: lots\n", "MemAvailable: 12\n"] {
            assert_eq!(available_mib(text), None, "{text:?}");
        }
    }
}
