//! A vsock port of the host as the guest sees it: a byte stream to the launcher.
//!
//! The guest's first connection to it is joined to the connected socket the launcher handed over. There is no second one:
//! a later connection is refused, and so is every port without a socket.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use msb_krun_devices::virtio::{
    VsockConnectRequest, VsockNotifier, VsockPollable, VsockPortBackend, VsockShutdown,
    VsockStreamBackend,
};
use parking_lot::Mutex;

/// The guest's own context id.
pub(crate) const GUEST_CID: u32 = 3;

/// Waits for the guest's connection.
pub(crate) struct HostPort(Mutex<Option<UnixStream>>);

impl HostPort {
    /// Takes the launcher's socket over.
    ///
    /// # Errors
    /// When it cannot be made non-blocking.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        Ok(Self(Mutex::new(Some(stream))))
    }
}

impl VsockPortBackend for HostPort {
    fn connect(
        &self,
        _request: VsockConnectRequest,
        _notifier: VsockNotifier,
    ) -> io::Result<Box<dyn VsockStreamBackend>> {
        match self.0.lock().take() {
            Some(stream) => Ok(Box::new(JoinedStream(stream))),
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

/// The joined connection.
struct JoinedStream(UnixStream);

impl VsockStreamBackend for JoinedStream {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buf)
    }

    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        (&self.0).write(buf)
    }

    fn shutdown(&self, how: VsockShutdown) -> io::Result<()> {
        self.0.shutdown(match how {
            VsockShutdown::Read => Shutdown::Read,
            VsockShutdown::Write => Shutdown::Write,
            VsockShutdown::Both => Shutdown::Both,
        })
    }

    fn pollable(&self) -> Option<VsockPollable> {
        Some(self.0.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use agent_vm_protocol::CONTROL_PORT;

    use super::*;

    fn request() -> VsockConnectRequest {
        VsockConnectRequest {
            guest_cid: 3,
            guest_port: 5000,
            host_port: CONTROL_PORT,
        }
    }

    #[test]
    fn joins_the_first_connection_and_refuses_the_second() {
        let (mut launcher, guest) = UnixStream::pair().unwrap();
        let port = HostPort::new(guest.into()).unwrap();
        let stream = port
            .connect(request(), VsockNotifier::new().unwrap())
            .unwrap();
        assert_eq!(
            stream.read(&mut [0; 8]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        stream.write(b"hello").unwrap();
        let mut heard = [0; 5];
        launcher.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        stream.shutdown(VsockShutdown::Write).unwrap();
        assert_eq!(launcher.read(&mut heard).unwrap(), 0);
        let second = port.connect(request(), VsockNotifier::new().unwrap());
        assert_eq!(
            second.err().unwrap().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
}
