//! One started program: its streams, its terminal, and how it comes to its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_vm_protocol::{ExecId, ExitStatus, GuestMessage, OutputStream, WindowSize};
use rustix::event::PollFlags;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use rustix::termios::Winsize;

use super::streams::{Input, InputState, Output, Read};
use super::{LINGER, Source, exit_status};
use crate::control::{Control, ControlError};

/// A program and our ends of its streams.
pub(super) struct Program {
    id: ExecId,
    pid: Pid,
    pidfd: OwnedFd,
    input: Option<Input>,
    outputs: Vec<Output>,
    terminal: Option<OwnedFd>,
    end: Option<(ExitStatus, Instant)>,
}

impl Program {
    pub(super) fn new(
        id: ExecId,
        pid: Pid,
        pidfd: OwnedFd,
        input: OwnedFd,
        outputs: Vec<Output>,
    ) -> Self {
        Self {
            id,
            pid,
            pidfd,
            input: Some(Input::new(input)),
            outputs,
            terminal: None,
            end: None,
        }
    }

    /// Adds the terminal's master, for size and foreground group.
    pub(super) fn with_terminal(mut self, master: OwnedFd) -> Self {
        self.terminal = Some(master);
        self
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Tells what the program waits for.
    pub(super) fn interests<'a>(
        &'a self,
        room: bool,
        mut want: impl FnMut(Source, BorrowedFd<'a>, PollFlags),
    ) {
        if self.end.is_none() {
            want(Source::End(self.id), self.pidfd.as_fd(), PollFlags::IN);
        }
        if let Some(input) = &self.input {
            // Without data only the error is of interest: the reader is gone. A terminal would report HUP for ever.
            if input.has_data() {
                want(Source::Input(self.id), input.fd(), PollFlags::OUT);
            } else if self.terminal.is_none() {
                want(Source::Input(self.id), input.fd(), PollFlags::empty());
            }
        }
        for output in self.outputs.iter().filter(|output| output.wants_read(room)) {
            want(
                Source::Output(self.id, output.stream()),
                output.fd(),
                PollFlags::IN,
            );
        }
    }

    /// Time until [`Program::settle`] has something to do without an event.
    pub(super) fn time_left(&self, now: Instant) -> Option<Duration> {
        let (_, at) = self.end?;
        let left = (at + LINGER).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Collects the exit status after the pidfd became readable.
    pub(super) fn collect(&mut self) -> Result<(), ControlError> {
        if self.end.is_none()
            && let Ok(Some((_, status))) =
                rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG)
        {
            self.ended(status);
        }
        Ok(())
    }

    /// Notes the exit status, once.
    pub(super) fn ended(&mut self, status: WaitStatus) {
        if self.end.is_none() {
            self.end = Some((exit_status(status), Instant::now()));
            self.input = None;
            let exact = self.terminal.is_none();
            for output in &mut self.outputs {
                output.note_end(exact);
            }
        }
    }

    pub(super) fn accept_input(&mut self, data: Vec<u8>) -> bool {
        self.input.as_mut().is_none_or(|input| input.accept(&data))
    }

    pub(super) fn end_input(&mut self) {
        if let Some(input) = &mut self.input {
            input.end();
        }
    }

    pub(super) fn pump_input(&mut self, control: &mut Control) -> Result<(), ControlError> {
        let Some(input) = &mut self.input else {
            return Ok(());
        };
        let idle = !input.has_data();
        match input.pump(self.id, control)? {
            InputState::Open if idle && self.reader_is_gone() => self.refuse_input(control),
            InputState::Open => Ok(()),
            InputState::Finished => {
                self.input = None;
                if self.terminal.is_some() {
                    self.hang_up();
                }
                Ok(())
            }
            InputState::Refused => self.refuse_input(control),
        }
    }

    fn refuse_input(&mut self, control: &mut Control) -> Result<(), ControlError> {
        self.input = None;
        control.send(&GuestMessage::StdinClosed { id: self.id })
    }

    fn reader_is_gone(&self) -> bool {
        let Some(input) = self.input.as_ref().filter(|_| self.terminal.is_none()) else {
            return false;
        };
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            input.fd(),
            PollFlags::empty(),
        )];
        crate::control::poll_for(&mut fds, Some(Duration::ZERO)).is_ok()
            && fds[0]
                .revents()
                .intersects(PollFlags::ERR | PollFlags::NVAL)
    }

    pub(super) fn pump_output(
        &mut self,
        stream: OutputStream,
        control: &mut Control,
        scratch: &mut Vec<u8>,
    ) -> Result<(), ControlError> {
        let Some(at) = self
            .outputs
            .iter()
            .position(|output| output.stream() == stream)
        else {
            return Ok(());
        };
        if self.outputs[at].pump(self.id, control, scratch)? == Read::Ended {
            self.outputs.remove(at);
            control.send(&GuestMessage::OutputEof {
                id: self.id,
                stream,
            })?;
        }
        Ok(())
    }

    pub(super) fn grant(&mut self, stream: OutputStream, bytes: u32) {
        if let Some(output) = self
            .outputs
            .iter_mut()
            .find(|output| output.stream() == stream)
        {
            output.grant(bytes);
        }
    }

    pub(super) fn close_output(&mut self, stream: OutputStream) {
        if self.terminal.is_some() {
            self.outputs.iter_mut().for_each(Output::discard);
            self.hang_up();
        } else {
            self.outputs.retain(|output| output.stream() != stream);
        }
    }

    pub(super) fn resize(&self, size: WindowSize) {
        if let Some(terminal) = &self.terminal {
            let size = Winsize {
                ws_row: size.rows,
                ws_col: size.cols,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // Nobody to tell: the program may be gone already.
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }

    /// Signals the foreground group of the terminal, or the program's group.
    pub(super) fn signal(&self, signal: Signal) {
        if self.end.is_some() {
            return;
        }
        let foreground = self
            .terminal
            .as_ref()
            .and_then(|terminal| rustix::termios::tcgetpgrp(terminal).ok());
        // A group that vanished meanwhile is no error.
        let _ = rustix::process::kill_process_group(foreground.unwrap_or(self.pid), signal);
    }

    fn hang_up(&self) {
        self.signal(Signal::HUP);
        self.signal(Signal::CONT);
        if self.end.is_none() {
            let _ = rustix::process::kill_process_group(self.pid, Signal::HUP);
        }
    }

    /// Ends what can end: gives the exit status when the program is over and its outputs are delivered.
    ///
    /// `polled` are the sources that were asked for in this turn: an output that was asked for, is still open and has
    /// nothing to read is quiet.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        polled: &[Source],
        control: &mut Control,
    ) -> Result<Option<ExitStatus>, ControlError> {
        let Some((status, at)) = self.end else {
            return Ok(None);
        };
        if now >= at + LINGER {
            let id = self.id;
            let quiet = |output: &Output| {
                polled.contains(&Source::Output(id, output.stream())) && !has_data(output)
            };
            let (over, open) = self
                .outputs
                .drain(..)
                .partition(|output| output.is_paid() || quiet(output));
            self.outputs = open;
            let over: Vec<Output> = over;
            for output in over {
                control.send(&GuestMessage::OutputEof {
                    id,
                    stream: output.stream(),
                })?;
            }
        }
        Ok(self.outputs.is_empty().then_some(status))
    }
}

fn has_data(output: &Output) -> bool {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(
        output.fd(),
        PollFlags::IN,
    )];
    crate::control::poll_for(&mut fds, Some(Duration::ZERO)).is_ok_and(|ready| ready > 0)
}
