//! What a person sees of cases that run one by one, each in a run of libtest of its own: a line for a case that passed,
//! and all a case printed when it did not. The word FAILED stays for what has failed for good.

use std::io::{Result, Write};

use super::libtest::{Verdict, cases};

/// Takes what libtest prints and passes on a case when it has ended.
#[derive(Debug)]
pub(super) struct Progress<W> {
    to: W,
    /// The lines of the run that has not ended.
    run: String,
    /// The line that has not ended.
    line: Vec<u8>,
}

/// The last line of a run of libtest begins so.
const RESULT: &str = "test result: ";

impl<W: Write> Progress<W> {
    pub(super) fn new(to: W) -> Self {
        Self {
            to,
            run: String::new(),
            line: Vec::new(),
        }
    }

    /// Passes on what is left, of a case that did not end.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.end_line();
        let left = std::mem::take(&mut self.run);
        let lines = left.lines().filter(|line| !line.is_empty());
        for line in lines {
            writeln!(self.to, "    {line}")?;
        }
        self.to.flush()
    }

    fn end_line(&mut self) {
        self.run.push_str(&String::from_utf8_lossy(&self.line));
        self.run.push('\n');
        self.line.clear();
    }

    /// Passes on one run of libtest, with its result line.
    fn pass_on(&mut self, run: &str) -> Result<()> {
        let took = run
            .rsplit_once("finished in ")
            .map_or("?", |(_, took)| took.trim());
        for case in cases(run) {
            let name = case.name;
            match case.verdict {
                Some(Verdict::Passed) => writeln!(self.to, "test {name} ... ok ({took})")?,
                Some(Verdict::Ignored) => writeln!(self.to, "test {name} ... ignored")?,
                Some(Verdict::Failed) => {
                    writeln!(self.to, "boot: {name} did not pass ({took})")?;
                }
                None => continue,
            }
            for line in case.printed.lines().filter(|line| !line.is_empty()) {
                writeln!(self.to, "    {line}")?;
            }
        }
        self.to.flush()
    }
}

impl<W: Write> Write for Progress<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(end) = piece.strip_suffix(b"\n") else {
                self.line.extend_from_slice(piece);
                break;
            };
            self.line.extend_from_slice(end);
            let last = self.line.starts_with(RESULT.as_bytes());
            self.end_line();
            if last {
                let run = std::mem::take(&mut self.run);
                self.pass_on(&run)?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[&str]) -> String {
        let mut progress = Progress::new(Vec::new());
        for piece in pieces {
            progress.write_all(piece.as_bytes()).unwrap();
        }
        progress.finish().unwrap();
        String::from_utf8(progress.to).unwrap()
    }

    #[test]
    fn a_case_is_one_line_or_all_that_it_printed() {
        let text = "\nrunning 1 test\ntest a::one ... ok\n\ntest result: ok. 1 passed; 0 failed; finished in 7.77s\n\n\
            \nrunning 1 test\ntest a::two ... mirrored after 9 ms\nok\n\ntest result: ok. 1 passed; finished in 1.00s\n\n\
            \nrunning 1 test\ntest b::three ... no answer\nFAILED\n\nfailures:\n\nfailures:\n    b::three\n\n\
            test result: FAILED. 0 passed; 1 failed; finished in 200.1s\n\n\nrunning 1 test\ntest b::four ... half";
        let expected = "test a::one ... ok (7.77s)\ntest a::two ... ok (1.00s)\n    mirrored after 9 ms\n\
            boot: b::three did not pass (200.1s)\n    no answer\n    running 1 test\n    test b::four ... half\n";
        assert_eq!(shown(&[text]), expected);
        let pieces: Vec<_> = text.split_inclusive(' ').collect();
        assert_eq!(shown(&pieces), expected);
    }
}
