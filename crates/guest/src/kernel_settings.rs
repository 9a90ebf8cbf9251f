//! Kernel settings (`/proc/sys`, `/sys`): a small machine's defaults raised to what development tools expect.

use std::io::{self, Read, Write};

use agent_vm_protocol::Sysctl;

/// Applied before the settings of `Boot`.
const DEFAULTS: [(&str, &str); 5] = [
    ("kernel/pid_max", "4194304"),
    ("fs/inotify/max_user_watches", "524288"),
    ("fs/inotify/max_user_instances", "1024"),
    ("vm/max_map_count", "262144"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
];

const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Applies defaults, then `sysctls`. Gives a line for each of the host's that did not work.
#[must_use]
pub fn apply(sysctls: &[Sysctl]) -> Vec<String> {
    for (name, value) in DEFAULTS {
        // A kernel built without a feature lacks its settings.
        let _ = write(name, value);
    }
    let _ = write_file(THP, "madvise");
    let failed = |sysctl: &Sysctl| {
        let result = path(&sysctl.name).map_or_else(
            || Err(io::ErrorKind::InvalidInput.into()),
            |path| write(&path, &sysctl.value),
        );
        result
            .err()
            .map(|error| format!("cannot set {}: {error}", sysctl.name))
    };
    sysctls.iter().filter_map(failed).collect()
}

/// Writes one setting below `/proc/sys`.
pub(crate) fn write(path: &str, value: &str) -> io::Result<()> {
    write_file(&format!("/proc/sys/{path}"), value)
}

/// The first line of a small kernel file.
pub(crate) fn read_line(path: &str) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .ok()?
        .take(4096)
        .read_to_string(&mut text)
        .ok()?;
    text.lines().next().map(str::to_owned)
}

fn write_file(path: &str, value: &str) -> io::Result<()> {
    std::fs::File::options()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

/// `net.ipv4.x` as path below `/proc/sys`; a `/` in a name stands for a dot (`sysctl(8)`).
fn path(name: &str) -> Option<String> {
    let path: String = name
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    let normal = |part: &str| !matches!(part, "" | "." | "..");
    path.split('/').all(normal).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_separate_and_slashes_are_dots() {
        assert_eq!(
            path("net.ipv4.conf.eth0/1.rp_filter").unwrap(),
            "net/ipv4/conf/eth0.1/rp_filter"
        );
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        for bad in ["", "a..b", "/..x", "//.//.etc"] {
            assert!(
                path(bad).is_none_or(|path| !path.split('/').any(|part| part == "..")),
                "{bad}"
            );
        }
        assert_eq!(path("//.x"), None);
    }
}
