//! What a launch that does not end is doing: each thread of it and of its descendants, as the kernel knows them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::processes::{Stat, children, command_line, numbers};

/// Between the two looks at what a thread has used.
const INTERVAL: Duration = Duration::from_secs(2);

/// One line for each thread, and below it where in the kernel it waits, as far as the reader may see that. Takes
/// [`INTERVAL`], to tell a thread that computes from one that waits.
pub(crate) fn describe(launcher: u32) -> String {
    let family = family(launcher);
    let before: BTreeMap<_, _> = family.iter().flat_map(|pid| threads(*pid)).collect();
    std::thread::sleep(INTERVAL);
    let mut text = String::new();
    for pid in family {
        let command = command_line(pid).join(" ");
        let _infallible = writeln!(text, "process {pid}: {command}");
        for (path, now) in threads(pid) {
            let read = |name: &str| std::fs::read_to_string(format!("{path}/{name}"));
            let ticks = now.ticks - before.get(&path).map_or(0, |then| then.ticks);
            let _infallible = writeln!(
                text,
                "  {} {}: {ticks} ticks in {INTERVAL:?}, waits in {}",
                now.name,
                now.state,
                read("wchan").unwrap_or_default()
            );
            for line in read("stack").unwrap_or_default().lines() {
                let _infallible = writeln!(text, "    {line}");
            }
        }
    }
    text
}

/// A process and its descendants.
fn family(first: u32) -> Vec<u32> {
    let mut family = vec![first];
    let mut next = 0;
    while let Some(pid) = family.get(next) {
        family.extend(children(*pid));
        next += 1;
    }
    family
}

/// The threads of a process by their directory.
fn threads(pid: u32) -> Vec<(String, Stat)> {
    let directory = format!("/proc/{pid}/task");
    let paths = numbers(&directory)
        .into_iter()
        .map(|thread| format!("{directory}/{thread}"));
    paths
        .filter_map(|path| Stat::read(&path).map(|stat| (path, stat)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_its_children_are_described() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60; :"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let text = describe(child.id());
        let inner = family(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        for pid in &inner[1..] {
            let _ended = std::process::Command::new("kill")
                .arg(pid.to_string())
                .status();
        }
        assert!(text.contains("sh -c sleep 60"), "{text}");
        assert!(text.contains("  sleep S: 0 ticks"), "{text}");
    }
}
