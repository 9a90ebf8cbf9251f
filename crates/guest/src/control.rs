//! The guest's end of a stream of frames: in and out over one non-blocking descriptor.
//!
//! What goes out is queued; the queue is bounded because senders of data ask [`FrameStream::has_room`] first and all other
//! messages answer one message of the host each.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_vm_protocol::{
    DecodeError, Decoder, EncodeError, GuestMessage, HostMessage, MAX_GUEST_WRITE, Message, encode,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};
use thiserror::Error;

/// Data is queued only while fewer bytes than this are waiting to be sent.
const HIGH_WATER: usize = 256 * 1024;

/// More than this is never queued: the host stopped reading.
const HARD_LIMIT: usize = 8 * 1024 * 1024;

/// Messages read ahead in one call at most (a frame of 4 MiB counts as one).
const READ_SIZE: usize = 64 * 1024;

/// The guest's end of the control stream.
pub type Control = FrameStream<HostMessage, GuestMessage>;

/// The guest's end of a stream of messages: `I` come in, `O` go out.
#[derive(Debug)]
pub struct FrameStream<I, O> {
    fd: OwnedFd,
    decoder: Decoder<I>,
    inbox: VecDeque<I>,
    out: Vec<u8>,
    sent: usize,
    outgoing: PhantomData<fn(O)>,
}

/// The stream cannot be used any more.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Reading or writing failed.
    #[error("control stream is broken")]
    Io(#[from] io::Error),
    /// The host sent what is not the protocol.
    #[error("host sent a malformed message")]
    Decode(#[from] DecodeError),
    /// We tried to send what the protocol does not allow.
    #[error("message cannot be sent")]
    Encode(#[from] EncodeError),
    /// The host ended the stream.
    #[error("host ended the control stream")]
    Closed,
    /// The host does not read.
    #[error("host does not read the control stream")]
    Stuck,
    /// Nothing came in time.
    #[error("no answer from the host")]
    TimedOut,
}

impl<I: Message, O: Message> FrameStream<I, O> {
    /// Takes a connected stream socket and makes it non-blocking.
    ///
    /// # Errors
    /// The descriptor cannot be made non-blocking.
    pub fn new(fd: OwnedFd) -> Result<Self, ControlError> {
        rustix::io::ioctl_fionbio(&fd, true).map_err(io::Error::from)?;
        Ok(Self {
            fd,
            decoder: Decoder::new(),
            inbox: VecDeque::new(),
            out: Vec::new(),
            sent: 0,
            outgoing: PhantomData,
        })
    }

    /// The descriptor, for `poll`.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Whether a program's output may be queued now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.out.len() - self.sent < HIGH_WATER
    }

    /// Queues a message.
    ///
    /// # Errors
    /// It is over a limit, or the host reads nothing.
    pub fn send(&mut self, message: &O) -> Result<(), ControlError> {
        if self.out.len() - self.sent > HARD_LIMIT {
            return Err(ControlError::Stuck);
        }
        Ok(encode(message, &mut self.out)?)
    }

    /// Writes what the socket takes now.
    ///
    /// # Errors
    /// The stream is broken.
    pub fn flush(&mut self) -> Result<(), ControlError> {
        while self.wants_write() {
            let end = self.out.len().min(self.sent + MAX_GUEST_WRITE);
            match rustix::net::send(&self.fd, &self.out[self.sent..end], SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        if !self.wants_write() {
            self.out.clear();
            self.sent = 0;
        } else if self.sent > HIGH_WATER {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// Reads what is there. `scratch` is reused between calls.
    ///
    /// # Errors
    /// The stream ended, is broken, or is not the protocol.
    pub fn fill(&mut self, scratch: &mut Vec<u8>) -> Result<(), ControlError> {
        scratch.resize(READ_SIZE, 0);
        match rustix::io::read(&self.fd, scratch.as_mut_slice()) {
            Ok(0) => Err(ControlError::Closed),
            Ok(count) => {
                let mut input = &scratch[..count];
                while let Some(message) = self.decoder.next(&mut input)? {
                    self.inbox.push_back(message);
                }
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(errno) => Err(io::Error::from(errno).into()),
        }
    }

    /// Takes the oldest message read.
    pub fn take_message(&mut self) -> Option<I> {
        self.inbox.pop_front()
    }

    /// Waits for one message.
    ///
    /// # Errors
    /// The stream is unusable, or nothing came within `limit`.
    pub fn receive(&mut self, limit: Duration) -> Result<I, ControlError> {
        let deadline = Instant::now() + limit;
        let mut scratch = Vec::new();
        loop {
            if let Some(message) = self.take_message() {
                return Ok(message);
            }
            self.wait(PollFlags::IN, deadline)?;
            self.fill(&mut scratch)?;
        }
    }

    /// Writes everything queued.
    ///
    /// # Errors
    /// The stream is broken, or the host did not read within `limit`.
    pub fn flush_all(&mut self, limit: Duration) -> Result<(), ControlError> {
        let deadline = Instant::now() + limit;
        loop {
            self.flush()?;
            if !self.wants_write() {
                return Ok(());
            }
            self.wait(PollFlags::OUT, deadline)?;
        }
    }

    /// Ends our direction and waits until the host ends its own, so that nothing sent is lost, at most `limit`.
    pub fn finish(mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        if self.flush_all(limit).is_err()
            || rustix::net::shutdown(&self.fd, Shutdown::Write).is_err()
        {
            return;
        }
        let mut scratch = vec![0; READ_SIZE];
        while self.wait(PollFlags::IN, deadline).is_ok() {
            match rustix::io::read(&self.fd, scratch.as_mut_slice()) {
                Ok(0) => return,
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> Result<(), ControlError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ControlError::TimedOut);
        }
        poll_for(&mut [PollFd::new(&self.fd, flags)], Some(left))?;
        Ok(())
    }
}

/// `poll` that takes a `Duration` and passes over interruptions.
///
/// # Errors
/// The kernel's.
pub fn poll_for(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<usize> {
    let timeout = limit.map(|limit| Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    });
    match rustix::event::poll(fds, timeout.as_ref()) {
        Err(Errno::INTR) => Ok(0),
        other => Ok(other?),
    }
}
