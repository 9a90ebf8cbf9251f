//! One input or output of a program: non-blocking descriptor, window, and what is on the way.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_vm_protocol::{ExecId, GuestMessage, INITIAL_WINDOW, MAX_CHUNK, OutputStream};
use rustix::io::Errno;

use crate::control::{Control, ControlError};

/// Credit is sent back in pieces of at least this many bytes.
const GRANT_STEP: u32 = INITIAL_WINDOW / 4;

/// Standard input of a program, or the terminal's input.
pub(super) struct Input {
    fd: OwnedFd,
    queue: VecDeque<u8>,
    window: u32,
    consumed: u32,
    ended: bool,
}

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputState {
    Open,
    /// The host ended it and all was written.
    Finished,
    /// The program closed it.
    Refused,
}

impl Input {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            queue: VecDeque::new(),
            window: INITIAL_WINDOW,
            consumed: 0,
            ended: false,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn has_data(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Takes data of the host; false when it exceeds the window.
    pub(super) fn accept(&mut self, data: &[u8]) -> bool {
        let fits = u32::try_from(data.len())
            .ok()
            .and_then(|length| self.window.checked_sub(length));
        let Some(window) = fits else {
            return false;
        };
        self.window = window;
        if !self.ended {
            self.queue.extend(data);
        }
        true
    }

    /// Writes what the program takes now, and gives credit for it.
    pub(super) fn pump(
        &mut self,
        id: ExecId,
        control: &mut Control,
    ) -> Result<InputState, ControlError> {
        loop {
            let (head, _) = self.queue.as_slices();
            if head.is_empty() {
                break;
            }
            match rustix::io::write(&self.fd, head) {
                Ok(count) => {
                    self.queue.drain(..count);
                    self.consumed += u32::try_from(count).unwrap_or(0);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return Ok(InputState::Refused),
            }
        }
        if self.consumed >= GRANT_STEP {
            self.window += self.consumed;
            control.send(&GuestMessage::StdinCredit {
                id,
                bytes: std::mem::take(&mut self.consumed),
            })?;
        }
        Ok(if self.ended && self.queue.is_empty() {
            InputState::Finished
        } else {
            InputState::Open
        })
    }
}

/// Standard output or error of a program, or the terminal's output.
pub(super) struct Output {
    stream: OutputStream,
    fd: OwnedFd,
    window: u64,
    discard: bool,
    /// Bytes that were in the pipe when the program ended and are not delivered yet.
    owed: Option<u64>,
}

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Some,
    Nothing,
    Ended,
}

impl Output {
    pub(super) fn new(stream: OutputStream, fd: OwnedFd) -> Self {
        Self {
            stream,
            fd,
            window: u64::from(INITIAL_WINDOW),
            discard: false,
            owed: None,
        }
    }

    pub(super) fn stream(&self) -> OutputStream {
        self.stream
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn wants_read(&self, room: bool) -> bool {
        self.discard || (room && self.window > 0)
    }

    pub(super) fn grant(&mut self, bytes: u32) {
        self.window = self.window.saturating_add(u64::from(bytes));
    }

    /// From now on what is written is thrown away.
    pub(super) fn discard(&mut self) {
        self.discard = true;
    }

    /// The program ended: remembers how much of what it wrote is still to be read.
    pub(super) fn note_end(&mut self, exact: bool) {
        let pending = if exact {
            rustix::io::ioctl_fionread(&self.fd).ok()
        } else {
            None
        };
        self.owed = Some(pending.unwrap_or(u64::MAX));
    }

    /// Whether everything written before the program's end was delivered.
    pub(super) fn is_paid(&self) -> bool {
        self.owed == Some(0)
    }

    /// Reads one chunk and sends it.
    pub(super) fn pump(
        &mut self,
        id: ExecId,
        control: &mut Control,
        scratch: &mut Vec<u8>,
    ) -> Result<Read, ControlError> {
        let window = if self.discard {
            MAX_CHUNK
        } else {
            usize::try_from(self.window).unwrap_or(MAX_CHUNK)
        };
        let size = window.min(MAX_CHUNK);
        if size == 0 {
            return Ok(Read::Nothing);
        }
        scratch.resize(size, 0);
        let count = match rustix::io::read(&self.fd, scratch.as_mut_slice()) {
            Ok(0) => return Ok(Read::Ended),
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Read::Nothing),
            // A terminal whose last user is gone gives EIO.
            Err(_) => return Ok(Read::Ended),
        };
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        self.owed = self.owed.map(|owed| owed.saturating_sub(bytes));
        if !self.discard {
            self.window = self.window.saturating_sub(bytes);
            control.send(&GuestMessage::Output {
                id,
                stream: self.stream,
                data: scratch[..count].to_vec(),
            })?;
        }
        Ok(Read::Some)
    }
}
