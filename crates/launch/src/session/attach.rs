//! Joins a program in the guest with the user's standard streams.
//!
//! With a terminal (both standard input and output are one): one pty, raw mode, size; keys, ^C and ^Z among them, go
//! through as bytes. Otherwise: three separate streams, unbuffered, and signals sent to the launcher are passed on.
//! A standard output nobody reads any more is closed in the guest as well, so the program ends as it would locally.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::Duration;

use agent_vm_protocol::{ExitStatus, MAX_CHUNK, OutputStream, Tty};
use thiserror::Error;
use tokio::io::Interest;

use super::error::{ExecError, SessionError};
use super::output_fd::StreamFd;
use super::program::RunningProgram;
use super::signals::{UserSignal, UserSignals};
use super::terminal::{RawTerminal, TerminalError};
use super::{Command, Session};

/// How long a program may take to end after SIGTERM or SIGHUP was passed on to it.
const TERMINATE: Duration = Duration::from_secs(10);

const HANGUP: u8 = 1;
const TERM: u8 = 15;

/// How the program's streams are connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamMode {
    /// One terminal; `TERM` for the program.
    Terminal {
        /// Value of `TERM`.
        term: Vec<u8>,
    },
    /// Three streams.
    Pipes,
    /// No input; both outputs go to standard error, because standard output belongs to another program.
    Report,
}

impl StreamMode {
    /// A terminal when both standard input and output are one.
    #[must_use]
    pub fn detect(term: impl Into<Vec<u8>>) -> Self {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            Self::Terminal { term: term.into() }
        } else {
            Self::Pipes
        }
    }
}

/// How an attached program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The program's own end.
    Exited(ExitStatus),
    /// It did not end in time after this signal was passed on to it.
    Interrupted(u8),
}

impl Outcome {
    /// The launcher's exit code: the program's own, or 128 + signal number.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Exited(status) => status.shell_code(),
            Self::Interrupted(signal) => ExitStatus::Signal(signal).shell_code(),
        }
    }
}

/// The program could not be run to its end.
#[derive(Debug, Error)]
pub enum AttachError {
    /// It was not started.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The session ended first.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The user's terminal.
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    /// The user's standard streams or signals.
    #[error("cannot use the standard streams")]
    Streams(#[source] io::Error),
}

/// Runs `command` on the user's standard streams until it ends.
///
/// # Errors
/// It cannot be started, or the session ends before it.
pub async fn attach(
    session: &Session,
    command: Command,
    mode: StreamMode,
) -> Result<Outcome, AttachError> {
    let mut signals = UserSignals::listen().map_err(AttachError::Streams)?;
    let streams = UserStreams::open(&mode).map_err(AttachError::Streams)?;
    let (program, terminal) = match mode {
        StreamMode::Pipes | StreamMode::Report => (session.exec(command, None).await?, None),
        StreamMode::Terminal { term } => {
            let terminal = RawTerminal::enter_guarded(io::stdin())?;
            let tty = Tty {
                size: terminal.size(),
                term,
            };
            (session.exec(command, Some(tty)).await?, Some(terminal))
        }
    };
    join(&program, &streams, terminal.as_ref(), &mut signals).await
}

/// The user's three streams.
pub(super) struct UserStreams {
    stdin: StreamFd,
    stdout: StreamFd,
    stderr: StreamFd,
}

impl UserStreams {
    fn open(mode: &StreamMode) -> io::Result<Self> {
        match mode {
            StreamMode::Terminal { .. } | StreamMode::Pipes => {
                Self::of(io::stdin(), io::stdout(), io::stderr())
            }
            StreamMode::Report => {
                let nothing = fs_err::File::open("/dev/null")?;
                Self::of(nothing.file(), io::stderr(), io::stderr())
            }
        }
    }

    pub(super) fn of(stdin: impl AsFd, stdout: impl AsFd, stderr: impl AsFd) -> io::Result<Self> {
        Ok(Self {
            stdin: StreamFd::new(stdin, Interest::READABLE)?,
            stdout: StreamFd::new(stdout, Interest::WRITABLE)?,
            stderr: StreamFd::new(stderr, Interest::WRITABLE)?,
        })
    }
}

/// Passes everything on until the program ended and its output is written.
pub(super) async fn join(
    program: &RunningProgram,
    streams: &UserStreams,
    terminal: Option<&RawTerminal>,
    signals: &mut UserSignals,
) -> Result<Outcome, AttachError> {
    let outputs = async {
        let (out, err) = tokio::join!(
            pass_output(program, OutputStream::Stdout, &streams.stdout),
            pass_output(program, OutputStream::Stderr, &streams.stderr),
        );
        out.and(err)?;
        program.status().await
    };
    // Input never ends the wait: the program may go on after its end.
    let input = async {
        match pass_input(program, &streams.stdin).await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        status = outputs => Ok(Outcome::Exited(status?)),
        error = input => Err(error),
        interrupted = pass_signals(program, terminal, signals) => Ok(Outcome::Interrupted(interrupted?)),
    }
}

async fn pass_output(
    program: &RunningProgram,
    stream: OutputStream,
    to: &StreamFd,
) -> Result<(), SessionError> {
    while let Some(chunk) = program.read(stream).await? {
        if to.write_all(&chunk).await.is_err() {
            program.close_output(stream)?;
            // What was on the way is thrown away.
            while program.read(stream).await?.is_some() {}
            return Ok(());
        }
        program.grant(stream, chunk.len())?;
    }
    Ok(())
}

async fn pass_input(program: &RunningProgram, from: &StreamFd) -> Result<(), AttachError> {
    let mut buffer = vec![0; MAX_CHUNK];
    loop {
        // Not read before the program can take it: what is not read stays for the next reader of the user's stream.
        tokio::select! {
            closed = program.input_closed() => return Ok(closed?),
            ready = from.readable() => ready.map_err(AttachError::Streams)?,
        }
        let Some(room) = program.input_room(buffer.len()).await? else {
            return Ok(());
        };
        // An unreadable input (a directory, EIO of a background job) is an ended one.
        let count = from.read(&mut buffer[..room]).unwrap_or(0);
        if count == 0 {
            return Ok(program.close_input()?);
        }
        program.send_input(buffer[..count].to_vec())?;
        program.give_back_room(room - count);
    }
}

/// Passes signals on; gives the signal after which the program did not end in time.
async fn pass_signals(
    program: &RunningProgram,
    terminal: Option<&RawTerminal>,
    signals: &mut UserSignals,
) -> Result<u8, AttachError> {
    let mut last: Option<u8> = None;
    loop {
        let next = match last {
            Some(signal) => match tokio::time::timeout(TERMINATE, signals.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(signal),
            },
            None => signals.next().await,
        };
        match (next, terminal) {
            (UserSignal::Forward(signal), _) => {
                program.signal(signal)?;
                if matches!(signal, TERM | HANGUP) {
                    last = Some(signal);
                }
            }
            (UserSignal::Resized, Some(terminal)) => program.resize(terminal.size())?,
            (UserSignal::Continued, Some(terminal)) => {
                terminal.make_raw()?;
                program.resize(terminal.size())?;
            }
            (UserSignal::Resized | UserSignal::Continued, None) => {}
        }
    }
}
