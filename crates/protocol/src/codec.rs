//! Frames: `u32` little-endian payload length, then one postcard message. No I/O.
//!
//! A decoder holds at most one frame, never more than the receiver's bound for that direction, and grows only with
//! bytes that really arrived. After the first error it yields nothing but that error: framing is lost.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::forward::{ForwardReply, ForwardRequest};
use crate::messages::{GuestMessage, HostMessage};
use crate::{MAX_CHUNK, boot::Boot};

/// Largest payload host → guest in bytes: `Boot` with its files, or `Exec` with its arguments and environment.
pub const MAX_HOST_PAYLOAD: usize = 4 * 1024 * 1024;

/// Largest payload guest → host in bytes: one chunk of output, or some lines of text.
pub const MAX_GUEST_PAYLOAD: usize = MAX_CHUNK + 16 * 1024;

/// Most elements of each list in `Boot`.
pub const MAX_BOOT_LIST: usize = 4096;

const HEADER: usize = 4;

/// A direction of the protocol.
pub trait Message: Serialize + DeserializeOwned {
    /// Largest encoded payload in bytes.
    const MAX_PAYLOAD: usize;

    /// Whether the limits hold that the types alone do not express.
    fn within_limits(&self) -> bool;
}

impl Message for HostMessage {
    const MAX_PAYLOAD: usize = MAX_HOST_PAYLOAD;

    fn within_limits(&self) -> bool {
        match self {
            Self::Stdin { data, .. } => data.len() <= MAX_CHUNK,
            Self::Boot(boot) => boot_within_limits(boot),
            _ => true,
        }
    }
}

impl Message for GuestMessage {
    const MAX_PAYLOAD: usize = MAX_GUEST_PAYLOAD;

    fn within_limits(&self) -> bool {
        match self {
            Self::Output { data, .. } => data.len() <= MAX_CHUNK,
            _ => true,
        }
    }
}

/// A message cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// Longer than the direction allows.
    #[error("message of {bytes} bytes is longer than {limit}")]
    TooLong {
        /// Its encoded length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A list or chunk in it exceeds its limit.
    #[error("message exceeds a limit of the protocol")]
    OverLimit,
    /// The serializer refused; no message of this crate makes it do so.
    #[error("message cannot be serialized")]
    Serialize(#[source] postcard::Error),
}

/// What arrived is not this protocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The header announces more than the direction allows.
    #[error("frame of {bytes} bytes is longer than {limit}")]
    TooLong {
        /// Announced payload length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The payload is no message.
    #[error("frame of {bytes} bytes is not a message")]
    Malformed {
        /// Payload length.
        bytes: usize,
        /// What the parser says.
        #[source]
        source: postcard::Error,
    },
    /// Bytes follow the message inside its frame.
    #[error("frame has {bytes} bytes after its message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A list or chunk in it exceeds its limit.
    #[error("message exceeds a limit of the protocol")]
    OverLimit,
}

/// Appends the frame of `message` to `out`. On error `out` is as before.
///
/// # Errors
/// The message is over a limit, so the peer would refuse it.
pub fn encode<M: Message>(message: &M, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if !message.within_limits() {
        return Err(EncodeError::OverLimit);
    }
    let start = out.len();
    let mut frame = std::mem::take(out);
    frame.extend_from_slice(&[0; HEADER]);
    let result = postcard::to_extend(message, Appender(&mut frame)).map(|_| ());
    *out = frame;
    let bytes = out.len() - start - HEADER;
    let failure = match (result, u32::try_from(bytes)) {
        (Err(source), _) => EncodeError::Serialize(source),
        (Ok(()), Ok(length)) if bytes <= M::MAX_PAYLOAD => {
            out[start..start + HEADER].copy_from_slice(&length.to_le_bytes());
            return Ok(());
        }
        (Ok(()), _) => EncodeError::TooLong {
            bytes,
            limit: M::MAX_PAYLOAD,
        },
    };
    out.truncate(start);
    Err(failure)
}

/// Makes messages of one direction from bytes in any chunking.
#[derive(Debug)]
pub struct Decoder<M> {
    header: Vec<u8>,
    payload: Vec<u8>,
    failed: Option<DecodeError>,
    direction: PhantomData<fn() -> M>,
}

impl<M: Message> Decoder<M> {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            header: Vec::with_capacity(HEADER),
            payload: Vec::new(),
            failed: None,
            direction: PhantomData,
        }
    }

    /// Takes bytes off `input` until a message is complete; `None` means `input` is used up.
    ///
    /// # Errors
    /// The stream is not this protocol. Every later call gives the same error.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<M>, DecodeError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        self.step(input)
            .inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Whether the stream may end here: no frame is begun.
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        self.header.is_empty() && self.failed.is_none()
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Option<M>, DecodeError> {
        take(&mut self.header, HEADER, input);
        let Ok(header) = <[u8; HEADER]>::try_from(self.header.as_slice()) else {
            return Ok(None);
        };
        let bytes = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
        if bytes > M::MAX_PAYLOAD {
            return Err(DecodeError::TooLong {
                bytes,
                limit: M::MAX_PAYLOAD,
            });
        }
        take(&mut self.payload, bytes, input);
        if self.payload.len() < bytes {
            return Ok(None);
        }
        let message = parse(&self.payload)?;
        self.header.clear();
        self.payload.clear();
        Ok(Some(message))
    }
}

impl<M: Message> Default for Decoder<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// Feeds arbitrary bytes to the decoders of all directions, in one piece and byte by byte, and checks what must hold for any input:
/// no panic, chunking does not matter, and what was accepted encodes and decodes to itself.
///
/// # Panics
/// When one of these does not hold.
pub fn fuzz_decoder(data: &[u8]) {
    fuzz_direction::<HostMessage>(data);
    fuzz_direction::<GuestMessage>(data);
    fuzz_direction::<ForwardRequest>(data);
    fuzz_direction::<ForwardReply>(data);
}

fn fuzz_direction<M: Message + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let whole = decode_in_chunks::<M>(data, data.len().max(1));
    assert_eq!(
        whole,
        decode_in_chunks::<M>(data, 1),
        "chunking changed the result"
    );
    let mut wire = Vec::new();
    for message in &whole.0 {
        encode(message, &mut wire).expect("an accepted message is within limits");
    }
    assert_eq!(
        decode_in_chunks::<M>(&wire, 7),
        (whole.0, None),
        "an accepted message changed on the way"
    );
}

fn decode_in_chunks<M: Message>(data: &[u8], size: usize) -> (Vec<M>, Option<DecodeError>) {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for mut chunk in data.chunks(size) {
        loop {
            match decoder.next(&mut chunk) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fn take(buffer: &mut Vec<u8>, want: usize, input: &mut &[u8]) {
    let missing = want.saturating_sub(buffer.len());
    let (now, rest) = input.split_at(missing.min(input.len()));
    buffer.extend_from_slice(now);
    *input = rest;
}

fn parse<M: Message>(payload: &[u8]) -> Result<M, DecodeError> {
    let (message, rest) =
        postcard::take_from_bytes::<M>(payload).map_err(|source| DecodeError::Malformed {
            bytes: payload.len(),
            source,
        })?;
    if !rest.is_empty() {
        return Err(DecodeError::Trailing { bytes: rest.len() });
    }
    if !message.within_limits() {
        return Err(DecodeError::OverLimit);
    }
    Ok(message)
}

fn boot_within_limits(boot: &Boot) -> bool {
    let lists = [
        boot.shares.len(),
        boot.files.len(),
        boot.sysctls.len(),
        boot.sockets.len(),
    ];
    lists.iter().all(|length| *length <= MAX_BOOT_LIST)
}

/// Lets postcard append to a vector that already has content.
struct Appender<'a>(&'a mut Vec<u8>);

impl Extend<u8> for Appender<'_> {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.0.extend(bytes);
    }
}

#[cfg(test)]
mod tests;
