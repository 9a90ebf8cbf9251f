//! Server-sent events (HTML standard §9.2.6): the documents in their `data:` lines.

use super::count::Tally;
use super::scanner::Scanner;

const FIELD: &[u8] = b"data:";

/// Where the lines are read.
#[derive(Debug, Default)]
pub(super) struct EventLines {
    line: Line,
    scanner: Scanner,
}

/// What is known of the line.
#[derive(Debug, Clone, Copy)]
enum Line {
    /// It has begun with as many bytes of the field's name.
    Begun(usize),
    Data,
    Other,
}

impl Default for Line {
    fn default() -> Self {
        Self::Begun(0)
    }
}

impl EventLines {
    pub(super) fn push(&mut self, bytes: &[u8], tally: &mut Tally) {
        for line in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, ended) = match line.split_last() {
                Some((b'\n' | b'\r', text)) => (text, true),
                _ => (line, false),
            };
            self.part(text, tally);
            if ended {
                if matches!(self.line, Line::Data) {
                    self.scanner.end();
                }
                self.line = Line::default();
            }
        }
    }

    fn part(&mut self, mut text: &[u8], tally: &mut Tally) {
        while let Line::Begun(matched) = self.line {
            if matched == FIELD.len() {
                self.line = Line::Data;
                break;
            }
            let Some((first, rest)) = text.split_first() else {
                return;
            };
            self.line = if *first == FIELD[matched] {
                Line::Begun(matched + 1)
            } else {
                Line::Other
            };
            text = rest;
        }
        if matches!(self.line, Line::Data) {
            self.scanner.push(text, tally);
        }
    }
}
