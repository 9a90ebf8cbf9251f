//! A program running in the guest, as its user holds it.

use std::rc::Rc;

use agent_vm_protocol::{ExecId, ExitStatus, HostMessage, MAX_CHUNK, OutputStream, WindowSize};

use super::error::SessionError;
use super::state::State;

/// SIGKILL.
const KILL: u8 = 9;

/// A started program. Dropping it before its end kills it.
#[derive(Debug)]
pub struct RunningProgram {
    state: Rc<State>,
    id: ExecId,
    pid: Option<u32>,
}

impl RunningProgram {
    pub(super) fn new(state: Rc<State>, id: ExecId) -> Self {
        Self {
            state,
            id,
            pid: None,
        }
    }

    pub(super) fn has_started(&mut self, pid: u32) {
        self.pid = Some(pid);
    }

    /// Its process id in the guest; 0 before it started.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.unwrap_or(0)
    }

    /// The next bytes of an output, `None` at its end. What was passed on must be [granted](Self::grant) again, or the
    /// program stops writing.
    ///
    /// # Errors
    /// The session is over.
    pub async fn read(&self, stream: OutputStream) -> Result<Option<Vec<u8>>, SessionError> {
        self.state.output(self.id, stream).await
    }

    /// Allows the program `bytes` more bytes of output.
    ///
    /// # Errors
    /// The session is over.
    pub fn grant(&self, stream: OutputStream, bytes: usize) -> Result<(), SessionError> {
        self.state
            .grant(self.id, stream, u32::try_from(bytes).unwrap_or(u32::MAX))
    }

    /// Tells the program that nobody reads this output any more (it gets SIGPIPE).
    ///
    /// # Errors
    /// The session is over.
    pub fn close_output(&self, stream: OutputStream) -> Result<(), SessionError> {
        self.state.send(&HostMessage::OutputClosed {
            id: self.id,
            stream,
        })
    }

    /// How many bytes of input the program takes now, at most one chunk; waits for at least one. `None` when it takes
    /// no more. The room is taken: what is not
    /// [sent](Self::send_input) must be [given back](Self::give_back_room).
    ///
    /// # Errors
    /// The session is over.
    pub async fn input_room(&self, most: usize) -> Result<Option<usize>, SessionError> {
        self.state.input_room(self.id, most.min(MAX_CHUNK)).await
    }

    /// Waits until the program takes no more input.
    ///
    /// # Errors
    /// The session is over.
    pub async fn input_closed(&self) -> Result<(), SessionError> {
        self.state.input_closed(self.id).await
    }

    /// Sends input within the room taken before.
    ///
    /// # Errors
    /// The session is over.
    pub fn send_input(&self, data: Vec<u8>) -> Result<(), SessionError> {
        self.state.send(&HostMessage::Stdin { id: self.id, data })
    }

    /// Gives back room that was taken but not used.
    pub fn give_back_room(&self, bytes: usize) {
        self.state.give_back_room(self.id, bytes);
    }

    /// Sends all of `data`, waiting for room; gives false when the program does not take it.
    ///
    /// # Errors
    /// The session is over.
    pub async fn write(&self, mut data: &[u8]) -> Result<bool, SessionError> {
        while !data.is_empty() {
            let Some(room) = self.input_room(data.len()).await? else {
                return Ok(false);
            };
            let (now, rest) = data.split_at(room);
            self.send_input(now.to_vec())?;
            data = rest;
        }
        Ok(true)
    }

    /// Ends the program's input; with a terminal, hangs it up.
    ///
    /// # Errors
    /// The session is over.
    pub fn close_input(&self) -> Result<(), SessionError> {
        self.state.send(&HostMessage::StdinEof { id: self.id })
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    /// The session is over.
    pub fn resize(&self, size: WindowSize) -> Result<(), SessionError> {
        self.state.send(&HostMessage::Resize { id: self.id, size })
    }

    /// Sends a signal (Linux number) to its process group.
    ///
    /// # Errors
    /// The session is over.
    pub fn signal(&self, signal: u8) -> Result<(), SessionError> {
        self.state.send(&HostMessage::Signal {
            id: self.id,
            signal,
        })
    }

    /// Waits for its end. All output arrived before.
    ///
    /// # Errors
    /// The session is over.
    pub async fn status(&self) -> Result<ExitStatus, SessionError> {
        self.state.status(self.id).await
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        if self.pid.is_some() {
            // For a program that ended the guest ignores all of it; a session that is over needs none.
            let _ = self.signal(KILL);
            let _ = self.close_output(OutputStream::Stdout);
            let _ = self.close_output(OutputStream::Stderr);
        }
        self.state.forget(self.id);
    }
}
