//! The signals a user sends to the launcher, as a stream.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a user's signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UserSignal {
    /// Pass this signal (Linux number) on to the program.
    Forward(u8),
    /// The terminal has another size.
    Resized,
    /// The launcher was stopped and goes on.
    Continued,
}

/// Receives signals from its creation on; until then they act as usual.
pub(super) struct UserSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    resized: Signal,
    continued: Signal,
}

/// SIGCONT.
const CONT: i32 = 18;

impl UserSignals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            resized: signal(SignalKind::window_change())?,
            continued: signal(SignalKind::from_raw(CONT))?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> UserSignal {
        tokio::select! {
            _ = self.interrupt.recv() => UserSignal::Forward(2),
            _ = self.terminate.recv() => UserSignal::Forward(15),
            _ = self.hangup.recv() => UserSignal::Forward(1),
            _ = self.quit.recv() => UserSignal::Forward(3),
            _ = self.resized.recv() => UserSignal::Resized,
            _ = self.continued.recv() => UserSignal::Continued,
        }
    }
}
