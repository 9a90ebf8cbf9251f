//! Bytes between a guest's connection and a socket of the host, without a copy in between: the kernel reads from and
//! writes to the memory the connection's buffers are in.
//!
//! Each direction has its own end: the end of what one side sends is passed on, an error ends both. A direction holds no
//! memory of its own, so an idle flow costs nothing here.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::RecvFlags;
use tokio::io::{AsyncWrite as _, Interest};
use tokio::net::TcpStream;

use crate::stream::GuestStream;

/// Bytes carried so far; readable while the relay is at work, and right however it ends.
#[derive(Debug, Default)]
pub struct Relayed {
    /// From the guest.
    pub up: Cell<u64>,
    /// To the guest.
    pub down: Cell<u64>,
}

/// How a relay ended.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both sides have sent all they had.
    Finished,
    /// One side broke off; the other was reset.
    Broken(io::Error),
}

/// Carries bytes both ways until both directions have ended.
pub async fn relay(guest: GuestStream, upstream: TcpStream, relayed: &Relayed) -> RelayEnd {
    let mut relay = Relay {
        guest,
        upstream,
        up: Stage::Copying,
        down: Stage::Copying,
    };
    let ended = poll_fn(|cx| {
        let up = relay.poll_up(cx, relayed)?;
        let down = relay.poll_down(cx, relayed)?;
        if up.is_ready() && down.is_ready() {
            Poll::Ready(io::Result::Ok(()))
        } else {
            Poll::Pending
        }
    });
    match ended.await {
        Ok(()) => RelayEnd::Finished,
        Err(error) => {
            // The guest's connection is reset by being dropped; the upstream's like this.
            let zero = Some(std::time::Duration::ZERO);
            let _closed_anyway = rustix::net::sockopt::set_socket_linger(&relay.upstream, zero);
            RelayEnd::Broken(error)
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Copying,
    Ended,
}

struct Relay {
    guest: GuestStream,
    upstream: TcpStream,
    up: Stage,
    down: Stage,
}

impl Relay {
    fn poll_up(&mut self, cx: &mut Context<'_>, relayed: &Relayed) -> Poll<io::Result<()>> {
        if self.up == Stage::Ended {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..PIECES_PER_TURN {
            if self.upstream.poll_write_ready(cx)?.is_pending() {
                return self.guest.poll_reset(cx);
            }
            let upstream = &self.upstream;
            let taken = self
                .guest
                .poll_read_with(cx, |bytes| upstream.try_write(bytes));
            match ready!(taken) {
                Ok(0) => {
                    // Not by tokio's shutdown, which needs the stream for itself.
                    socket_shutdown(&self.upstream)?;
                    self.up = Stage::Ended;
                    return Poll::Ready(Ok(()));
                }
                Ok(taken) => relayed.up.set(relayed.up.get() + taken as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_down(&mut self, cx: &mut Context<'_>, relayed: &Relayed) -> Poll<io::Result<()>> {
        if self.down == Stage::Ended {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..PIECES_PER_TURN {
            ready!(self.upstream.poll_read_ready(cx))?;
            let upstream = &self.upstream;
            let mut ended = false;
            let written = self.guest.poll_write_with(cx, PIECE, |room| {
                let read = read_some(upstream, room)?;
                ended = read == 0;
                Ok(read)
            });
            match ready!(written) {
                Ok(_) if ended => {
                    ready!(Pin::new(&mut self.guest).poll_shutdown(cx))?;
                    self.down = Stage::Ended;
                    return Poll::Ready(Ok(()));
                }
                Ok(written) => relayed.down.set(relayed.down.get() + written as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Reads once. When there was less than room, nothing is left for now, and tokio is told so: without, it would ask again.
fn read_some(stream: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    let mut found = None;
    let told = stream.try_io(Interest::READABLE, || {
        let (read, _) = rustix::net::recv(stream, &mut *room, RecvFlags::DONTWAIT)?;
        found = Some(read);
        if 0 < read && read < room.len() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    match (found, told) {
        (Some(read), _) => Ok(read),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn socket_shutdown(stream: &TcpStream) -> io::Result<()> {
    let done = rustix::net::shutdown(stream, rustix::net::Shutdown::Write);
    match done {
        // The far end has reset the connection meanwhile: the other direction tells.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Bytes asked for at once.
const PIECE: usize = 256 * 1024;

/// Calls in one direction before others have their turn.
const PIECES_PER_TURN: usize = 4;
