//! Processes of the machine the cases run on, as proc(5) shows them.

/// The children of a process.
pub(crate) fn children(parent: u32) -> impl Iterator<Item = u32> {
    let is_child = move |pid: &u32| {
        Stat::read(&format!("/proc/{pid}")).is_some_and(|stat| stat.parent == parent)
    };
    numbers("/proc").into_iter().filter(is_child)
}

/// A program and its arguments; nothing when the process has ended.
pub(crate) fn command_line(pid: u32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    let words = line.split_terminator('\0');
    words.map(str::to_owned).collect()
}

/// The entries of a directory whose names are numbers: of `/proc` the processes, of `task` the threads.
pub(crate) fn numbers(directory: &str) -> Vec<u32> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Of `stat` (proc_pid_stat(5)) what tells whether something moves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) parent: u32,
    /// Time in user and kernel mode, in clock ticks.
    pub(crate) ticks: u64,
}

impl Stat {
    pub(crate) fn read(directory: &str) -> Option<Self> {
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
}
