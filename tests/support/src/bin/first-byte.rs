//! `first-byte ROUNDS PROGRAM ARGUMENT…`: starts the program ROUNDS times and prints, as one JSON object a line, the
//! nanoseconds from its start to the first byte of its standard output and to its end. The clock of launch benchmarks.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a benchmark starts programs")]

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let rounds = arguments.next().context("missing argument: rounds")?;
    let rounds: usize = rounds
        .to_str()
        .context("rounds")?
        .parse()
        .context("rounds")?;
    let program = arguments.next().context("missing argument: program")?;
    let arguments: Vec<_> = arguments.collect();
    for _ in 0..rounds {
        let started = Instant::now();
        let mut child = Command::new(&program)
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = child.stdout.take().context("standard output")?;
        let mut first = [0];
        ensure!(output.read(&mut first)? == 1, "the program wrote nothing");
        let first_byte = started.elapsed();
        let mut rest = Vec::new();
        output.read_to_end(&mut rest)?;
        let status = child.wait()?;
        let end = started.elapsed();
        ensure!(status.success(), "the program ended with {status}");
        let line =
            serde_json::json!({"first_byte_ns": first_byte.as_nanos(), "end_ns": end.as_nanos()});
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(())
}
