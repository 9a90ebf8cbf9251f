//! PID 1's own diagnostics: lines in the kernel log, which the console shows to the host.

use std::fs::File;
use std::io::Write;

/// Marks our lines.
const PREFIX: &str = "agent-vm-guest: ";

/// Longest line the kernel takes in one write, less our prefix (`LOG_LINE_MAX` is about 1000).
const MAX_LINE: usize = 900;

/// How the console treats a line: `quiet` consoles show only errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Shown always (kernel level 3).
    Error,
    /// Kept in the log (kernel level 6).
    Info,
}

/// Writes `text` to the kernel log. There is nobody to tell when that fails.
pub fn log(level: Level, text: &str) {
    if let Ok(mut file) = File::options().write(true).open("/dev/kmsg") {
        for line in lines(level, text) {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

fn lines(level: Level, text: &str) -> impl Iterator<Item = String> {
    let mark = match level {
        Level::Error => "<3>",
        Level::Info => "<6>",
    };
    text.lines().map(move |line| {
        let shown: String = line
            .chars()
            .flat_map(char::escape_debug)
            .take(MAX_LINE)
            .collect();
        format!("{mark}{PREFIX}{shown}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_marked_escaped_and_bounded() {
        let text = format!("a\x1b[31m\n{}", "x".repeat(5000));
        let made: Vec<_> = lines(Level::Error, &text).collect();
        assert_eq!(made[0], "<3>agent-vm-guest: a\\u{1b}[31m");
        assert!(made[1].len() < 1000);
    }
}
