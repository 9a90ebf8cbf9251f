//! The socket: handshake in sequence, then a reading and a writing task.

use std::rc::Rc;

use agent_vm_protocol::{
    Boot, Decoder, GuestMessage, HostMessage, MAGIC, PROTOCOL_VERSION, Timings, encode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

use super::error::SessionError;
use super::state::State;

const READ_SIZE: usize = 64 * 1024;

/// The stream before `Ready`.
pub(super) struct Handshake {
    reader: Reader,
    write: OwnedWriteHalf,
}

struct Reader {
    read: OwnedReadHalf,
    decoder: Decoder<GuestMessage>,
    buffer: Vec<u8>,
    /// Unread part of `buffer`.
    rest: std::ops::Range<usize>,
}

impl Handshake {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        let reader = Reader {
            read,
            decoder: Decoder::new(),
            buffer: vec![0; READ_SIZE],
            rest: 0..0,
        };
        Self { reader, write }
    }

    pub(super) async fn hello(&mut self) -> Result<(), SessionError> {
        match self.reader.next().await? {
            GuestMessage::Hello { magic, .. } if magic != MAGIC => Err(SessionError::NotGuest),
            GuestMessage::Hello { version, .. } if version != PROTOCOL_VERSION => {
                Err(SessionError::Version {
                    guest: version,
                    ours: PROTOCOL_VERSION,
                })
            }
            GuestMessage::Hello { .. } => Ok(()),
            _ => Err(SessionError::NotGuest),
        }
    }

    pub(super) async fn boot(
        &mut self,
        boot: Boot,
    ) -> Result<(Timings, Vec<String>), SessionError> {
        let mut wire = Vec::new();
        encode(&HostMessage::Boot(Box::new(boot)), &mut wire)?;
        self.write.write_all(&wire).await?;
        match self.reader.next().await? {
            GuestMessage::Ready { timings, warnings } => Ok((timings, warnings)),
            GuestMessage::Error(error) => Err(SessionError::Guest(error)),
            _ => Err(SessionError::Unexpected),
        }
    }

    pub(super) fn into_tasks(self) -> (Rc<State>, [JoinHandle<()>; 2]) {
        let state = Rc::new(State::default());
        let reading = tokio::task::spawn_local(read_all(self.reader, Rc::clone(&state)));
        let writing = tokio::task::spawn_local(write_all(self.write, Rc::clone(&state)));
        (state, [reading, writing])
    }
}

impl Reader {
    async fn next(&mut self) -> Result<GuestMessage, SessionError> {
        loop {
            let mut input = &self.buffer[self.rest.clone()];
            let message = self.decoder.next(&mut input)?;
            self.rest.start = self.rest.end - input.len();
            if let Some(message) = message {
                return Ok(message);
            }
            let count = self.read.read(&mut self.buffer).await?;
            if count == 0 {
                return Err(SessionError::Closed);
            }
            self.rest = 0..count;
        }
    }
}

async fn read_all(mut reader: Reader, state: Rc<State>) {
    let error = loop {
        match reader.next().await {
            Ok(message) => {
                if let Err(error) = state.receive(message) {
                    break error;
                }
            }
            Err(error) => break error,
        }
    };
    state.fail(error);
}

async fn write_all(mut write: OwnedWriteHalf, state: Rc<State>) {
    loop {
        let bytes = state.take_queued().await;
        if let Err(error) = write.write_all(&bytes).await {
            state.fail(error.into());
            return;
        }
    }
}
