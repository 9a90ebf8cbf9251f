//! `egress log`: the audit log of all sessions, from the oldest file that is kept to what is written now.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_vm_launch::audit_files;
use agent_vm_policy::Answer;
use thiserror::Error;

use crate::args::{EgressCommand, EgressLogArgs};
use crate::command_error::{CommandError, UsageError};
use crate::egress_log::{Filter, LogLine, as_json};
use crate::launch_request::Context;
use crate::ui::{self, Reader, Ui};
use crate::whose::Whose;

mod answer;
mod check;
mod suggest;

/// How often is looked for new lines.
const POLL: Duration = Duration::from_millis(200);
/// The longest line; longer ones are none of ours.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

/// The log cannot be read.
#[derive(Debug, Error)]
#[error("cannot read the audit log {}", path.display())]
pub(crate) struct LogUnreadable {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// `agent-vm egress …`.
///
/// # Errors
/// When there is no project here whose decisions could be told, or the log cannot be read.
pub(crate) fn run(context: &Context, command: &EgressCommand, ui: Ui) -> Result<u8, CommandError> {
    match command {
        EgressCommand::Log(args) => log(context, args, ui),
        EgressCommand::Check(args) => check::run(context, args),
        EgressCommand::Suggest(args) => suggest::run(context, args),
        EgressCommand::Pending(args) => answer::pending(context, args),
        EgressCommand::Allow(args) => answer::run(context, args, Answer::Allow, ui),
        EgressCommand::Deny(args) => answer::run(context, args, Answer::Deny, ui),
    }
}

fn log(context: &Context, args: &EgressLogArgs, ui: Ui) -> Result<u8, CommandError> {
    let path = context.directories()?.audit_log();
    let filter = Filter {
        whose: Whose::asked(context, &args.sessions)?,
        denied: args.denied,
        host: args.host.clone(),
    };
    let mut shown = Shown {
        filter,
        json: args.json,
        strange: 0,
    };
    let mut reader = Reader::There;
    let mut tell = |text: &str| -> Result<Reader, CommandError> {
        if reader == Reader::There && !text.is_empty() {
            reader = ui::stream(text).map_err(UsageError::Output)?;
        }
        Ok(reader)
    };
    let current = shown.existing(&path, args.lines, &mut |text| tell(text).map(drop))?;
    if shown.strange > 0 {
        ui.warn(&format!(
            "{} lines of the audit log cannot be understood",
            shown.strange
        ));
    }
    let mut following = Following {
        path: path.clone(),
        current,
    };
    while args.follow && tell("")? == Reader::There {
        std::thread::sleep(POLL);
        let news = following.news(&mut shown);
        tell(&news.map_err(|source| unreadable(&path, source))?)?;
    }
    Ok(0)
}

fn unreadable(path: &Path, source: std::io::Error) -> CommandError {
    let path = path.to_owned();
    LogUnreadable { path, source }.into()
}

/// What of the log is shown, and how.
struct Shown {
    filter: Filter,
    json: bool,
    /// Lines that are no decisions.
    strange: u64,
}

impl Shown {
    /// The text of a line; empty when it is not wanted.
    fn text(&mut self, line: &[u8]) -> String {
        let Some(parsed) = LogLine::parse(line) else {
            self.strange += 1;
            return String::new();
        };
        match self.filter.wants(&parsed) {
            false => String::new(),
            true if self.json => as_json(line),
            true => parsed.render(&self.filter.whose),
        }
    }

    /// Tells what is there now, and gives the file that is written to.
    fn existing(
        &mut self,
        path: &Path,
        last: Option<usize>,
        tell: &mut dyn FnMut(&str) -> Result<(), CommandError>,
    ) -> Result<Option<LogFile>, CommandError> {
        let mut kept = VecDeque::new();
        let mut current = None;
        for mut file in open_all(path).map_err(|source| unreadable(path, source))? {
            loop {
                let line = file.next_line();
                let Some(line) = line.map_err(|source| unreadable(path, source))? else {
                    break;
                };
                let text = self.text(&line);
                match last {
                    _ if text.is_empty() => {}
                    None => tell(&text)?,
                    Some(most) => {
                        kept.push_back(text);
                        kept.drain(..kept.len().saturating_sub(most));
                    }
                }
            }
            current = Some(file);
        }
        tell(&kept.into_iter().collect::<String>())?;
        Ok(current)
    }
}

/// The end of the log, whatever file that is in.
struct Following {
    path: PathBuf,
    current: Option<LogFile>,
}

impl Following {
    /// What was written since.
    fn news(&mut self, shown: &mut Shown) -> std::io::Result<String> {
        let mut text = String::new();
        let known = self.current.as_ref().map(|current| current.inode);
        let later = if known == inode(&self.path)? {
            Vec::new()
        } else {
            let mut files = open_all(&self.path)?;
            let own = files.iter().position(|file| Some(file.inode) == known);
            files.drain(..own.map_or(0, |own| own + 1));
            files
        };
        // Whoever rotated wrote the last line before.
        for next in self.current.take().into_iter().chain(later) {
            let mut file = next;
            while let Some(line) = file.next_line()? {
                text += &shown.text(&line);
            }
            self.current = Some(file);
        }
        Ok(text)
    }
}

/// One file of the log.
struct LogFile {
    inode: (u64, u64),
    file: BufReader<fs_err::File>,
    /// The beginning of a line whose end is not written yet.
    begun: Vec<u8>,
}

impl LogFile {
    /// The next whole line, without its end.
    fn next_line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let room = MAX_LINE_BYTES.saturating_sub(self.begun.len() as u64);
        let mut limited = (&mut self.file).take(room);
        limited.read_until(b'\n', &mut self.begun)?;
        let ended = self.begun.last() == Some(&b'\n');
        if !ended && (self.begun.len() as u64) < MAX_LINE_BYTES {
            return Ok(None);
        }
        let mut line = std::mem::take(&mut self.begun);
        line.truncate(line.len() - usize::from(ended));
        Ok(Some(line))
    }
}

/// Every file there is, the oldest first. The newest is opened first, so that none is missed when they are renamed
/// meanwhile; one that was seen twice is read once.
fn open_all(path: &Path) -> std::io::Result<Vec<LogFile>> {
    let mut files: Vec<LogFile> = Vec::new();
    for path in audit_files(path).into_iter().rev() {
        let file = match fs_err::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let facts = file.metadata()?;
        let inode = (facts.dev(), facts.ino());
        if files.iter().all(|known| known.inode != inode) {
            files.push(LogFile {
                inode,
                file: BufReader::new(file),
                begun: Vec::new(),
            });
        }
    }
    files.reverse();
    Ok(files)
}

fn inode(path: &Path) -> std::io::Result<Option<(u64, u64)>> {
    match fs_err::metadata(path) {
        Ok(facts) => Ok(Some((facts.dev(), facts.ino()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn shown() -> Shown {
        Shown {
            filter: Filter {
                whose: Whose::All,
                denied: false,
                host: None,
            },
            json: true,
            strange: 0,
        }
    }

    /// What is told of what is there, and the file that is written to.
    fn existing(shown: &mut Shown, path: &Path, last: Option<usize>) -> (String, Option<LogFile>) {
        let mut all = String::new();
        let mut tell = |text: &str| {
            all += text;
            Ok(())
        };
        let current = shown.existing(path, last, &mut tell);
        (all, current.unwrap_or_else(|error| panic!("{error:?}")))
    }

    fn line(number: u32) -> String {
        format!("{{\"ms\":{number}}}\n")
    }

    fn append(path: &Path, text: &str) {
        let mut options = fs_err::OpenOptions::new();
        let mut file = options.append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn all_files_are_told_from_the_oldest_line_to_the_newest_or_the_last_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        for (number, file) in (0..).zip(audit_files(&path)) {
            append(
                &file,
                &(line(2 * number) + "no decision\n" + &line(2 * number + 1)),
            );
        }
        let mut shown = shown();
        let (text, _) = existing(&mut shown, &path, None);
        assert_eq!(text, (0..8).map(line).collect::<String>());
        assert_eq!(shown.strange, 4);
        let (text, _) = existing(&mut shown, &path, Some(3));
        assert_eq!(text, (5..8).map(line).collect::<String>());
        let (text, _) = existing(&mut shown, &path, Some(0));
        assert_eq!(text, "");
    }

    #[test]
    fn following_goes_on_over_rotations_and_waits_for_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut shown = shown();
        let (_, current) = existing(&mut shown, &path, None);
        let mut following = Following {
            path: path.clone(),
            current,
        };
        let mut news = || following.news(&mut shown).unwrap();
        assert_eq!(news(), "");
        append(&path, &line(0));
        append(&path, "{\"ms\":");
        assert_eq!(news(), line(0));
        append(&path, "1}\n");
        let files = audit_files(&path);
        for (number, age) in [(2, 1), (3, 2)] {
            if age == 2 {
                fs_err::rename(&files[2], &files[1]).unwrap();
            }
            fs_err::rename(&path, &files[2]).unwrap();
            append(&path, &line(number));
        }
        assert_eq!(news(), (1..4).map(line).collect::<String>());
        assert_eq!(news(), "");
    }

    #[test]
    fn a_line_without_end_is_not_read_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        append(&path, &"x".repeat(3 * 1024 * 1024));
        append(&path, &("\n".to_owned() + &line(1)));
        let mut shown = shown();
        let (text, _) = existing(&mut shown, &path, None);
        assert_eq!((text, shown.strange > 0), (line(1), true));
    }
}
