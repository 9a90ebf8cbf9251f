//! Serves the programs of a session: one `poll` loop over the control stream, the programs' streams and their ends.
//!
//! Rules:
//! - Output is read only while its window and the control queue have room, so a slow host stops the writer, not us.
//! - Input is held only within the window we granted; more is a protocol violation.
//! - A program's end is reported after everything it wrote before was delivered. Background processes that still hold
//!   its pipes get [`LINGER`], then their end of the pipe is closed.
//! - Messages for a program that is unknown or over are ignored: they were on the way.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use agent_vm_protocol::{
    Exec, ExecFailure, ExecFailureKind, ExecId, ExitStatus, GuestMessage, HostMessage, OutputStream,
};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitStatus};
use thiserror::Error;

use crate::control::{Control, ControlError, poll_for};

mod program;
mod start;
mod streams;

use program::Program;

/// How long background processes may keep a program's outputs open after its end.
pub const LINGER: Duration = Duration::from_millis(200);

/// Most programs at a time.
pub const MAX_PROGRAMS: usize = 64;

/// What the engine needs from the machine it runs on; replaced in native tests.
pub trait Machine {
    /// Sets the wall clock to nanoseconds since 1970.
    ///
    /// # Errors
    /// The kernel's.
    fn set_clock(&mut self, unix_ns: u64) -> io::Result<()>;

    /// Readable when a child ended that [`Machine::reap`] should collect.
    fn wake_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Collects ended children of any origin.
    fn reap(&mut self) -> Vec<(Pid, WaitStatus)>;

    /// Notes something odd that was survived.
    fn note(&mut self, text: &str);
}

/// Why the engine stopped.
#[derive(Debug)]
pub enum End {
    /// The host asked for it.
    Shutdown {
        /// Time between SIGTERM and SIGKILL.
        grace: Duration,
    },
    /// The host broke the protocol.
    Violation(Violation),
    /// The control stream is unusable; with `ControlError::Closed` the host went away.
    Broken(ControlError),
}

/// A message that is well-formed but not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// `Boot` came twice.
    #[error("host sent a second boot message")]
    SecondBoot,
    /// More input than the window allows.
    #[error("host sent more input for program {} than its window allows", id.0)]
    InputOverWindow {
        /// For which program.
        id: ExecId,
    },
}

/// The running programs and the stream to the host.
pub struct Engine<M> {
    control: Control,
    machine: M,
    programs: BTreeMap<ExecId, Program>,
    max_open_files: u64,
    scratch: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Control,
    Wake,
    End(ExecId),
    Input(ExecId),
    Output(ExecId, OutputStream),
}

/// What was asked for, and what of it is ready.
type Events = (Vec<Source>, Vec<(Source, PollFlags)>);

enum Turn {
    Go,
    Stop(End),
}

impl<M: Machine> Engine<M> {
    /// An engine without programs. `max_open_files` limits the descriptors of each program.
    pub fn new(control: Control, machine: M, max_open_files: u64) -> Self {
        Self {
            control,
            machine,
            programs: BTreeMap::new(),
            max_open_files,
            scratch: Vec::new(),
        }
    }

    /// Serves until the host ends the session. Programs still running are left to the caller.
    pub fn run(mut self) -> (End, Control, M) {
        let end = loop {
            match self.turn() {
                Ok(Turn::Go) => {}
                Ok(Turn::Stop(end)) => break end,
                Err(error) => break End::Broken(error),
            }
        };
        (end, self.control, self.machine)
    }

    fn turn(&mut self) -> Result<Turn, ControlError> {
        self.control.flush()?;
        let (polled, ready) = self.wait()?;
        for (source, flags) in ready {
            match source {
                Source::Control => {
                    if let Turn::Stop(end) = self.serve_control(flags)? {
                        return Ok(Turn::Stop(end));
                    }
                }
                Source::Wake => self.reap(),
                Source::End(id) => self.with(id, |program, _, _| program.collect())?,
                Source::Input(id) => {
                    self.with(id, |program, control, _| program.pump_input(control))?
                }
                Source::Output(id, stream) => {
                    self.with(id, |program, control, scratch| {
                        program.pump_output(stream, control, scratch)
                    })?;
                }
            }
        }
        self.finish(&polled)?;
        Ok(Turn::Go)
    }

    fn with(
        &mut self,
        id: ExecId,
        act: impl FnOnce(&mut Program, &mut Control, &mut Vec<u8>) -> Result<(), ControlError>,
    ) -> Result<(), ControlError> {
        match self.programs.get_mut(&id) {
            Some(program) => act(program, &mut self.control, &mut self.scratch),
            None => Ok(()),
        }
    }

    /// Waits for the next event. Gives what was asked for, and what of it is ready.
    fn wait(&self) -> Result<Events, ControlError> {
        let mut sources = vec![Source::Control];
        let write = if self.control.wants_write() {
            PollFlags::OUT
        } else {
            PollFlags::empty()
        };
        let control = self.control.fd();
        let mut fds = vec![PollFd::from_borrowed_fd(control, PollFlags::IN | write)];
        if let Some(wake) = self.machine.wake_fd() {
            sources.push(Source::Wake);
            fds.push(PollFd::from_borrowed_fd(wake, PollFlags::IN));
        }
        let room = self.control.has_room();
        for program in self.programs.values() {
            program.interests(room, |source, fd, flags| {
                sources.push(source);
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            });
        }
        let now = Instant::now();
        let limit = self
            .programs
            .values()
            .filter_map(|program| program.time_left(now))
            .min();
        poll_for(&mut fds, limit)?;
        let ready = sources
            .iter()
            .zip(&fds)
            .map(|(source, fd)| (*source, fd.revents()));
        let ready = ready.filter(|(_, flags)| !flags.is_empty()).collect();
        drop(fds);
        Ok((sources, ready))
    }

    fn reap(&mut self) {
        for (pid, status) in self.machine.reap() {
            if let Some(program) = self
                .programs
                .values_mut()
                .find(|program| program.pid() == pid)
            {
                program.ended(status);
            }
        }
    }

    fn finish(&mut self, polled: &[Source]) -> Result<(), ControlError> {
        let now = Instant::now();
        let mut over = Vec::new();
        for (id, program) in &mut self.programs {
            if let Some(status) = program.settle(now, polled, &mut self.control)? {
                over.push((*id, status));
            }
        }
        for (id, status) in over {
            self.programs.remove(&id);
            self.control.send(&GuestMessage::Exited { id, status })?;
        }
        Ok(())
    }

    fn serve_control(&mut self, flags: PollFlags) -> Result<Turn, ControlError> {
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.control.fill(&mut self.scratch)?;
        }
        while let Some(message) = self.control.take_message() {
            if let Turn::Stop(end) = self.serve(message)? {
                return Ok(Turn::Stop(end));
            }
        }
        Ok(Turn::Go)
    }

    fn serve(&mut self, message: HostMessage) -> Result<Turn, ControlError> {
        match message {
            HostMessage::Boot(_) => return Ok(Turn::Stop(End::Violation(Violation::SecondBoot))),
            HostMessage::Shutdown { grace_ms } => {
                let grace = Duration::from_millis(u64::from(grace_ms));
                return Ok(Turn::Stop(End::Shutdown { grace }));
            }
            HostMessage::Exec(exec) => self.start(&exec)?,
            HostMessage::Stdin { id, data } => {
                let fits = self
                    .programs
                    .get_mut(&id)
                    .is_none_or(|program| program.accept_input(data));
                if !fits {
                    return Ok(Turn::Stop(End::Violation(Violation::InputOverWindow {
                        id,
                    })));
                }
                self.with(id, |program, control, _| program.pump_input(control))?;
            }
            HostMessage::StdinEof { id } => self.with(id, |program, control, _| {
                program.end_input();
                program.pump_input(control)
            })?,
            HostMessage::OutputCredit { id, stream, bytes } => self.with(id, |program, _, _| {
                program.grant(stream, bytes);
                Ok(())
            })?,
            HostMessage::OutputClosed { id, stream } => self.with(id, |program, _, _| {
                program.close_output(stream);
                Ok(())
            })?,
            HostMessage::Resize { id, size } => self.with(id, |program, _, _| {
                program.resize(size);
                Ok(())
            })?,
            HostMessage::Signal { id, signal } => self.with(id, |program, _, _| {
                if let Some(signal) = Signal::from_named_raw(i32::from(signal)) {
                    program.signal(signal);
                }
                Ok(())
            })?,
            HostMessage::ClockSync { unix_ns } => {
                if let Err(error) = self.machine.set_clock(unix_ns) {
                    self.machine.note(&format!("cannot set the clock: {error}"));
                }
            }
        }
        Ok(Turn::Go)
    }

    fn start(&mut self, exec: &Exec) -> Result<(), ControlError> {
        let id = exec.id;
        let refused = |message: &str| ExecFailure {
            kind: ExecFailureKind::Invalid,
            message: message.to_owned(),
        };
        let started = if self.programs.contains_key(&id) {
            Err(refused("the id of the program is in use"))
        } else if self.programs.len() >= MAX_PROGRAMS {
            Err(refused("too many programs are running"))
        } else {
            start::start(exec, self.max_open_files)
        };
        match started {
            Ok(program) => {
                let pid = program.pid().as_raw_nonzero().get().unsigned_abs();
                self.programs.insert(id, program);
                self.control.send(&GuestMessage::Started { id, pid })
            }
            Err(mut failure) => {
                failure.message = clip(&failure.message);
                self.control.send(&GuestMessage::ExecFailed { id, failure })
            }
        }
    }
}

/// Longest text in a failure, in bytes; a path can be 4 KiB.
const MAX_TEXT: usize = 8 * 1024;

/// Cuts `text` so that it fits a message.
pub(crate) fn clip(text: &str) -> String {
    let end = text
        .char_indices()
        .map(|(at, _)| at)
        .take_while(|at| *at <= MAX_TEXT)
        .last()
        .unwrap_or(0);
    if text.len() <= MAX_TEXT {
        text.to_owned()
    } else {
        text[..end].to_owned()
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    let byte = |value: i32| u8::try_from(value & 0xff).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(byte(code)),
        (None, Some(signal)) => ExitStatus::Signal(byte(signal)),
        (None, None) => ExitStatus::Code(u8::MAX),
    }
}

#[cfg(test)]
mod tests;
