//! What a launch that does not end is doing: each thread of it and of its descendants, as the kernel knows them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

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
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
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
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in numbers(Path::new("/proc")) {
        if let Some(stat) = Stat::read(&format!("/proc/{pid}")) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut family = vec![first];
    let mut next = 0;
    while let Some(pid) = family.get(next) {
        family.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    family
}

/// The threads of a process by their directory.
fn threads(pid: u32) -> Vec<(String, Stat)> {
    let directory = format!("/proc/{pid}/task");
    let paths = numbers(Path::new(&directory))
        .into_iter()
        .map(|thread| format!("{directory}/{thread}"));
    paths
        .filter_map(|path| Stat::read(&path).map(|stat| (path, stat)))
        .collect()
}

fn numbers(directory: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Of `stat` (proc_pid_stat(5)) what tells whether something moves.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    state: String,
    parent: u32,
    /// Time in user and kernel mode, in clock ticks.
    ticks: u64,
}

impl Stat {
    fn read(directory: &str) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("{directory}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name may hold anything, also parentheses.
        let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
        Some(Self {
            name: name.to_owned(),
            state: (*fields.first()?).to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            ticks: number(11)? + number(12)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name_holds() {
        let line = "7 (a) S (b) R 3 7 7 0 -1 4194304 1 0 0 0 40 2 0 0 20 0 1 0 5 1 1";
        let expected = Stat {
            name: "a) S (b".to_owned(),
            state: "R".to_owned(),
            parent: 3,
            ticks: 42,
        };
        assert_eq!(Stat::parse(line), Some(expected));
    }

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
