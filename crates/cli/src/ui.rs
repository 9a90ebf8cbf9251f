//! What people read: standard error, clear without colour. Standard output is for data.

use std::io::{self, IsTerminal as _, Write as _};

use crate::env_vars::{self, EnvVars};

/// Most bytes of one line of text that came from a guest or a registry.
const MAX_FOREIGN_CHARS: usize = 2000;

/// Standard error for people.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    colour: bool,
    draws: bool,
}

impl Ui {
    /// Colour when standard error is a terminal that has it and `NO_COLOR` is not set.
    pub(crate) fn new(env: &EnvVars) -> Self {
        let terminal = io::stderr().is_terminal();
        let dumb = env.text(env_vars::TERM).is_none_or(|term| term == "dumb");
        let draws = terminal && !dumb;
        let colour = draws && env.value(env_vars::NO_COLOR).is_none();
        Self { colour, draws }
    }

    /// What is being done now.
    pub(crate) fn status(self, text: &str) {
        line(text);
    }

    /// Something odd that does not stop us.
    pub(crate) fn warn(self, text: &str) {
        line(&format!("{} {text}", self.paint("warning:", "1;33")));
    }

    /// What to do about it.
    pub(crate) fn hint(self, text: &str) {
        line(&format!("{} {text}", self.paint("hint:", "1;36")));
    }

    /// What a person is to answer on the same line.
    pub(crate) fn question(self, text: &str) {
        write(text);
    }

    /// Whether standard error is a terminal things can be drawn on.
    pub(crate) fn draws(self) -> bool {
        self.draws
    }

    /// A rendered error.
    pub(crate) fn error(self, report: &str) {
        match report.strip_prefix("error:") {
            Some(rest) => write(&format!("{}{rest}", self.paint("error:", "1;31"))),
            None => write(report),
        }
    }

    /// A line of the guest's console or of a program of the guest, made harmless.
    pub(crate) fn foreign(self, source: &str, text: &str) {
        line(&format!("{source}: {}", harmless(text)));
    }

    fn paint(self, text: &str, code: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Without control characters (a terminal would obey them) and not longer than a screen.
pub(crate) fn harmless(text: &str) -> String {
    let kept = text.chars().filter(|c| !c.is_control() || *c == '\t');
    kept.take(MAX_FOREIGN_CHARS).collect()
}

fn line(text: &str) {
    write(&format!("{text}\n"));
}

fn write(text: &str) {
    // Nobody may be reading; there is nobody to tell.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Data, to standard output. A reader that went away is no error.
///
/// # Errors
/// The system's, for example a full disk.
pub(crate) fn data(text: &str) -> io::Result<()> {
    stream(text).map(drop)
}

/// Whether somebody reads standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Or at least nobody said otherwise.
    There,
    /// Nothing needs to be written any more.
    Gone,
}

/// Data that more may come after, to standard output.
///
/// # Errors
/// The system's, for example a full disk.
pub(crate) fn stream(text: &str) -> io::Result<Reader> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        result => result.map(|()| Reader::There),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\r\n\u{9b}c\t"), "a[2Jbc\t");
        assert_eq!(harmless(&"x".repeat(5000)).len(), MAX_FOREIGN_CHARS);
    }

    #[test]
    fn colour_only_where_it_is_seen() {
        let plain = Ui {
            colour: false,
            draws: false,
        };
        let colour = Ui {
            colour: true,
            draws: true,
        };
        assert_eq!(plain.paint("x", "1"), "x");
        assert_eq!(colour.paint("x", "1"), "\x1b[1mx\x1b[0m");
    }
}
