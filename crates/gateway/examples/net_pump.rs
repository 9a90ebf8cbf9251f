//! Carries frames between a TAP device (standard input, header of 12 bytes) and a stack behind a socket, as the network
//! worker of a virtual machine does: one thread, one message a call, whatever does not fit waits.
//!
//! `net_pump framed PATH`: a stream socket at PATH, each frame behind its length (4 bytes, big endian) and without the
//! virtio header, one write and two reads a frame. `net_pump messages`: a sequential-packet socket as standard output,
//! one message a frame, with the header.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Bytes of the virtio header.
const HEADER: usize = 12;
/// Bytes of the largest message.
const LARGEST: usize = HEADER + 14 + 65_535;
/// Asked of the kernel for the socket.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Frames of one direction before the other has its turn.
const BATCH: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let tap = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::io::ioctl_fionbio(&tap, true)?;
    let (socket, framed) = match words[..] {
        ["framed", path] => (OwnedFd::from(UnixStream::connect(path)?), true),
        ["messages"] => (io::stdout().as_fd().try_clone_to_owned()?, false),
        _ => return Err("net_pump framed PATH | messages".into()),
    };
    let _best_effort = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER);
    let mut pump = Pump {
        tap,
        socket,
        framed,
        waiting: Vec::new(),
        buffer: vec![0; LARGEST],
    };
    while pump.turn()? {}
    Ok(())
}

struct Pump {
    tap: OwnedFd,
    socket: OwnedFd,
    framed: bool,
    /// What the socket has not taken yet of the last frame.
    waiting: Vec<u8>,
    buffer: Vec<u8>,
}

impl Pump {
    /// Waits and carries what there is; false when the stack has closed.
    fn turn(&mut self) -> io::Result<bool> {
        let (from_tap, to_stack) = if self.waiting.is_empty() {
            (PollFlags::IN, PollFlags::empty())
        } else {
            (PollFlags::empty(), PollFlags::OUT)
        };
        let mut both = [
            PollFd::new(&self.tap, from_tap),
            PollFd::new(&self.socket, PollFlags::IN | to_stack),
        ];
        poll(&mut both, None)?;
        let [tap, socket] = [both[0].revents(), both[1].revents()];
        if socket.contains(PollFlags::OUT) {
            self.send_waiting()?;
        }
        if tap.contains(PollFlags::IN) {
            self.carry_out()?;
        }
        if socket.intersects(PollFlags::IN | PollFlags::HUP) {
            return self.carry_in();
        }
        Ok(true)
    }

    fn carry_out(&mut self) -> io::Result<()> {
        for _ in 0..BATCH {
            if !self.waiting.is_empty() {
                break;
            }
            let len = match rustix::io::read(&self.tap, &mut self.buffer) {
                Ok(len) => len,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            let mut control = rustix::net::SendAncillaryBuffer::default();
            let length = ((len - HEADER) as u32).to_be_bytes();
            let frame = &self.buffer[HEADER..len];
            let message: &[IoSlice<'_>] = if self.framed {
                &[IoSlice::new(&length), IoSlice::new(frame)]
            } else {
                &[IoSlice::new(&self.buffer[..len])]
            };
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = match rustix::net::sendmsg(&self.socket, message, &mut control, flags) {
                Ok(sent) => sent,
                Err(Errno::AGAIN) => 0,
                Err(error) => return Err(error.into()),
            };
            let whole: usize = message.iter().map(|part| part.len()).sum();
            if sent < whole {
                self.waiting = message.concat_from(sent);
            }
        }
        Ok(())
    }

    fn send_waiting(&mut self) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(&self.socket, &self.waiting, flags) {
            Ok(sent) => drop(self.waiting.drain(..sent)),
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn carry_in(&mut self) -> io::Result<bool> {
        for _ in 0..BATCH {
            let found = if self.framed {
                self.receive_framed()
            } else {
                self.receive_message()
            };
            let len = match found {
                Ok(0) | Err(Errno::CONNRESET) => return Ok(false),
                Ok(len) => len,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            match rustix::io::write(&self.tap, &self.buffer[..len]) {
                // A frame the device refuses is lost, as on any wire.
                Ok(_) | Err(Errno::INVAL | Errno::IO) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn receive_message(&mut self) -> Result<usize, Errno> {
        rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT)
            .map(|(len, _)| len)
    }

    fn receive_framed(&mut self) -> Result<usize, Errno> {
        let mut length = [0; 4];
        let (got, _) = rustix::net::recv(&self.socket, &mut length[..], RecvFlags::DONTWAIT)?;
        if got == 0 {
            return Ok(0);
        }
        if got < length.len() {
            rustix::net::recv(&self.socket, &mut length[got..], RecvFlags::WAITALL)?;
        }
        let end = (HEADER + u32::from_be_bytes(length) as usize).min(LARGEST);
        self.buffer[..HEADER].fill(0);
        rustix::net::recv(
            &self.socket,
            &mut self.buffer[HEADER..end],
            RecvFlags::WAITALL,
        )?;
        Ok(end)
    }
}

/// Joins parts of a message.
trait ConcatFrom {
    /// Everything after the first `skip` bytes.
    fn concat_from(&self, skip: usize) -> Vec<u8>;
}

impl ConcatFrom for [IoSlice<'_>] {
    fn concat_from(&self, skip: usize) -> Vec<u8> {
        self.iter()
            .flat_map(|part| part.iter().copied())
            .skip(skip)
            .collect()
    }
}
