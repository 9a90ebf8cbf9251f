//! Why a session or a program in it failed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use agent_vm_protocol::{DecodeError, EncodeError, ExecFailure, GuestError};
use thiserror::Error;

/// The session is over, or never began.
#[derive(Clone, Debug, Error)]
pub enum SessionError {
    /// The guest did not do something in time.
    #[error("waited {} s in vain for {waited_for}", limit.as_secs())]
    Timeout {
        /// For what.
        waited_for: &'static str,
        /// How long.
        limit: Duration,
    },
    /// Something else than our guest answers.
    #[error("the peer is no agent-vm guest")]
    NotGuest,
    /// The guest is of another build.
    #[error("the guest speaks protocol version {guest}, not {ours}")]
    Version {
        /// The guest's.
        guest: u32,
        /// Ours.
        ours: u32,
    },
    /// The guest gave up. Its message is untrusted text.
    #[error("the guest gave up: {}", shown(&.0.message))]
    Guest(GuestError),
    /// The guest ended the stream.
    #[error("the guest ended the control stream")]
    Closed,
    /// The socket does not work.
    #[error("control stream is broken")]
    Io(#[source] Arc<io::Error>),
    /// The guest sent what is not the protocol.
    #[error("guest sent a malformed message")]
    Decode(#[from] DecodeError),
    /// What we wanted to send is too large.
    #[error("message cannot be sent")]
    Encode(#[from] EncodeError),
    /// A message that has no place here.
    #[error("guest sent an unexpected message")]
    Unexpected,
    /// The guest sent more output than it was allowed.
    #[error("guest sent more output than its window allows")]
    OverWindow,
}

/// A program was not started.
#[derive(Clone, Debug, Error)]
pub enum ExecError {
    /// The guest refused it.
    #[error("{}", shown(&.0.message))]
    Refused(ExecFailure),
    /// The session is over.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<io::Error> for SessionError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// Text of the guest, safe for a terminal.
fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use agent_vm_protocol::GuestErrorKind;

    use super::*;

    #[test]
    fn control_characters_of_the_guest_are_escaped_and_letters_kept() {
        let message = "no \x1b[2J каталог".to_owned();
        let error = SessionError::Guest(GuestError {
            kind: GuestErrorKind::Mount,
            message,
        });
        assert_eq!(
            error.to_string(),
            "the guest gave up: no \\u{1b}[2J каталог"
        );
    }
}
