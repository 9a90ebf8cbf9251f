//! `agent-vm usage`: the tokens that models used, summed from what sessions recorded.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::args::UsageArgs;
use crate::command_error::{CommandError, UsageError};
use crate::launch_request::Context;
use crate::ui::{self, Ui, harmless};
use crate::whose::Whose;

/// The most of one session's file that is read, in bytes; sessions write less.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Shown for a model that no answer named.
const UNNAMED: &str = "(unnamed)";

/// What was recorded cannot be read.
#[derive(Debug, Error)]
#[error("cannot read what models used from {}", path.display())]
pub(crate) struct UsageUnreadable {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// One answer, as recorded.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    time: String,
    session: String,
    project: String,
    model: Option<String>,
    unread: bool,
    #[serde(flatten)]
    tokens: Tokens,
}

/// Tokens by kind; those of the cache are not among `input_tokens`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Tokens {
    input_tokens: u64,
    cache_read_tokens: u64,
    cache_write_tokens: u64,
    output_tokens: u64,
}

/// What one model did in one session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Sum {
    session: String,
    project: String,
    model: String,
    /// When the first answer ended.
    since: String,
    answers: u64,
    /// Answers among them whose tokens are not known.
    unread: u64,
    #[serde(flatten)]
    tokens: Tokens,
}

/// Everything that is told.
#[derive(Debug, Serialize)]
struct Told {
    sessions: Vec<Sum>,
    models: Vec<Sum>,
    total: Sum,
}

/// Tells what models used.
///
/// # Errors
/// When there is no project here whose sessions could be told, or the records cannot be read.
pub(crate) fn run(context: &Context, args: &UsageArgs, ui: Ui) -> Result<u8, CommandError> {
    let directory = context.directories()?.usage();
    let whose = Whose::asked(context, &args.sessions)?;
    let mut sums = BTreeMap::new();
    let mut strange = 0;
    for path in files(&directory)? {
        strange += add_file(&path, &whose, &mut sums)?;
    }
    if strange > 0 {
        ui.warn(&format!("{strange} records cannot be understood"));
    }
    let told = told(sums.into_values().collect());
    let text = if args.json {
        let json = serde_json::to_string_pretty(&told).expect("plain data has a JSON form");
        json + "\n"
    } else {
        table(&told)
    };
    ui::data(&text).map_err(UsageError::Output)?;
    Ok(0)
}

fn unreadable(path: &Path, source: std::io::Error) -> CommandError {
    let path = path.to_owned();
    UsageUnreadable { path, source }.into()
}

/// The sessions' files; none before the first answer.
fn files(directory: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(unreadable(directory, source)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| unreadable(directory, source))?;
        files.push(entry.path());
    }
    files.retain(|path| path.extension().is_some_and(|end| end == "jsonl"));
    files.sort();
    Ok(files)
}

type Sums = BTreeMap<(String, String), Sum>;

/// Adds a file's answers; gives the number of lines that are none.
fn add_file(path: &Path, whose: &Whose, sums: &mut Sums) -> Result<u64, CommandError> {
    let unreadable = |source| unreadable(path, source);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut strange = 0;
    for line in BufReader::new(file.take(MAX_FILE_BYTES)).split(b'\n') {
        let line = line.map_err(unreadable)?;
        match serde_json::from_slice::<Line>(&line) {
            Ok(line) if whose.wants(&line.session, &line.project) => add(line, sums),
            Ok(_) => {}
            Err(_) => strange += 1,
        }
    }
    Ok(strange)
}

fn add(line: Line, sums: &mut Sums) {
    let model = line.model.unwrap_or_else(|| UNNAMED.to_owned());
    let sum = sums.entry((line.session.clone(), model.clone()));
    let sum = sum.or_insert_with(|| Sum {
        session: line.session,
        project: line.project,
        model,
        since: line.time,
        ..Sum::default()
    });
    sum.answers += 1;
    sum.unread += u64::from(line.unread);
    sum.tokens.add(&line.tokens);
}

impl Tokens {
    fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.cache_read_tokens, other.cache_read_tokens),
            (&mut self.cache_write_tokens, other.cache_write_tokens),
            (&mut self.output_tokens, other.output_tokens),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.unread += other.unread;
        self.tokens.add(&other.tokens);
    }
}

fn told(mut sessions: Vec<Sum>) -> Told {
    sessions.sort_by(|one, other| (&one.since, &one.model).cmp(&(&other.since, &other.model)));
    let mut models: BTreeMap<&str, Sum> = BTreeMap::new();
    let mut total = Sum::default();
    for sum in &sessions {
        let model = models.entry(&sum.model).or_default();
        model.model.clone_from(&sum.model);
        model.add(sum);
        total.add(sum);
    }
    let models = models.into_values().collect();
    Told {
        sessions,
        models,
        total,
    }
}

fn table(told: &Told) -> String {
    if told.sessions.is_empty() {
        return "no model was used\n".to_owned();
    }
    let head = [
        "SESSION",
        "MODEL",
        "ANSWERS",
        "INPUT",
        "CACHE READ",
        "CACHE WRITE",
        "OUTPUT",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(told.sessions.iter().map(|sum| row(&sum.session, sum)));
    if told.models.len() > 1 && told.sessions.len() > told.models.len() {
        rows.extend(told.models.iter().map(|sum| row("all", sum)));
    }
    rows.push(row("total", &told.total));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    if told.total.unread > 0 {
        text += &format!(
            "{} answers could not be read; their tokens are not counted\n",
            told.total.unread
        );
    }
    text
}

fn row(session: &str, sum: &Sum) -> [String; 7] {
    let tokens = &sum.tokens;
    [
        harmless(session),
        harmless(&sum.model),
        sum.answers.to_string(),
        tokens.input_tokens.to_string(),
        tokens.cache_read_tokens.to_string(),
        tokens.cache_write_tokens.to_string(),
        tokens.output_tokens.to_string(),
    ]
}
