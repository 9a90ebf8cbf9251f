//! One smoltcp interface with one socket: what a flow runs on, and what is used again after it.

use std::net::SocketAddr;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{ListenError, Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use crate::config::{FLOW_BUFFER, KEEP_ALIVE, SILENCE_LIMIT};
use crate::device::FlowDevice;

/// One smoltcp interface with its only socket.
pub(super) struct Stack {
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("state", &self.socket().state())
            .finish_non_exhaustive()
    }
}

impl Stack {
    pub(super) fn new(device: &mut FlowDevice<'_>, now: Instant) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = getrandom::u64().unwrap_or_default();
        let interface = Interface::new(config, device, now);
        let socket = Socket::new(
            SocketBuffer::new(vec![0; FLOW_BUFFER]),
            SocketBuffer::new(vec![0; FLOW_BUFFER]),
        );
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            interface,
            sockets,
            handle,
        }
    }

    /// Forgets the last connection and waits for the SYN of one to `local`.
    pub(super) fn listen(&mut self, local: SocketAddr) -> Result<(), ListenError> {
        let address = IpAddress::from(local.ip());
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            let _ = addresses.push(IpCidr::new(address, if local.is_ipv4() { 32 } else { 128 }));
        });
        let socket = self.socket_mut();
        socket.abort();
        socket.listen(IpListenEndpoint::from((address, local.port())))?;
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_keep_alive(Some(KEEP_ALIVE.into()));
        socket.set_timeout(Some(SILENCE_LIMIT.into()));
        Ok(())
    }

    pub(super) fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    pub(super) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}
