//! The guest's console: the kernel's log and what PID 1 says before the control stream is up.
//!
//! The last bytes are kept, so that a guest that dies tells why. What comes from here is the guest's word: it is shown
//! with control characters escaped.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

/// How much of the console is kept.
const KEPT_BYTES: usize = 64 * 1024;
/// Lines shown when the guest dies.
const SHOWN_LINES: usize = 12;
/// Longest line shown.
const SHOWN_LINE_CHARS: usize = 300;

/// What the console said last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Console(Rc<RefCell<VecDeque<u8>>>);

impl Console {
    /// Keeps the last bytes of `pipe` until it ends; each read is given to `seen` too.
    ///
    /// # Errors
    /// When the pipe cannot be watched.
    pub(crate) async fn follow(self, pipe: OwnedFd, seen: impl Fn(&[u8])) -> std::io::Result<()> {
        let mut pipe = Receiver::from_owned_fd(pipe)?;
        let mut buffer = [0_u8; 8192];
        loop {
            let count = pipe.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            seen(&buffer[..count]);
            self.keep(&buffer[..count]);
        }
    }

    fn keep(&self, bytes: &[u8]) {
        let mut kept = self.0.borrow_mut();
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(KEPT_BYTES);
        kept.drain(..excess);
    }

    /// The last lines, escaped for a terminal.
    #[must_use]
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let kept: Vec<u8> = self.0.borrow().iter().copied().collect();
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<String> = text
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .map(shown)
            .collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].to_vec()
    }

    /// The kernel's own words for its panic, when it had one.
    #[must_use]
    pub(crate) fn panic_reason(&self) -> Option<String> {
        let kept: Vec<u8> = self.0.borrow().iter().copied().collect();
        let text = String::from_utf8_lossy(&kept);
        let (_, reason) = text.rsplit_once("Kernel panic - not syncing:")?;
        Some(shown(reason.lines().next().unwrap_or_default().trim()))
    }
}

fn shown(line: &str) -> String {
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().collect()
        } else {
            c.to_string()
        }
    };
    line.chars().take(SHOWN_LINE_CHARS).map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[tokio::test]
    async fn keeps_the_last_lines_and_escapes_what_a_terminal_would_obey() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let console = Console::default();
        let mut writer = std::fs::File::from(writer);
        for number in 0..20_000 {
            console.keep(format!("line {number}\n").as_bytes());
        }
        writer
            .write_all(b"[ 1.0] Kernel panic - not syncing: \x1b[31mno init\r\nlast\n")
            .unwrap();
        drop(writer);
        console.clone().follow(reader, |_| {}).await.unwrap();
        let lines = console.last_lines();
        assert_eq!(lines.len(), SHOWN_LINES);
        assert_eq!(lines.last().map(String::as_str), Some("last"));
        assert_eq!(
            console.panic_reason().as_deref(),
            Some("\\u{1b}[31mno init")
        );
        assert!(console.0.borrow().len() <= KEPT_BYTES);
    }
}
