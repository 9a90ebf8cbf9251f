//! One smoltcp interface with one socket: what a flow runs on, and what is used again after it.
//!
//! The buffers are a mapping of their own: untouched pages cost nothing however large the buffers are, and what a busy
//! flow touched goes back to the system with its stack (see `moving.rs`). From the allocator they would be cleared by writing to them
//! whenever they had been used before.

use std::io;
use std::net::SocketAddr;

use memmap2::MmapMut;
use self_cell::{MutBorrow, self_cell};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::tcp::{ListenError, Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use crate::config::{FLOW_BUFFER, KEEP_ALIVE, SILENCE_LIMIT};

self_cell!(
    /// The memory of both buffers with the socket that uses it.
    struct Sockets {
        owner: MutBorrow<MmapMut>,
        #[not_covariant]
        dependent: SocketSet,
    }
);

/// One smoltcp interface with its only socket.
pub(super) struct Stack {
    interface: Interface,
    sockets: Sockets,
    handle: SocketHandle,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}

impl Stack {
    pub(super) fn new(device: &mut impl Device, now: Instant) -> io::Result<Self> {
        Self::with_seed(getrandom::u64()?, device, now)
    }

    /// A stack whose random numbers come from `seed`.
    pub(super) fn with_seed(seed: u64, device: &mut impl Device, now: Instant) -> io::Result<Self> {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let interface = Interface::new(config, device, now);
        let memory = MutBorrow::new(MmapMut::map_anon(2 * FLOW_BUFFER)?);
        let mut handle = None;
        let sockets = Sockets::new(memory, |memory| {
            let (receive, send) = memory.borrow_mut().split_at_mut(FLOW_BUFFER);
            let socket = Socket::new(SocketBuffer::new(receive), SocketBuffer::new(send));
            let mut sockets = SocketSet::new(Vec::with_capacity(1));
            handle = Some(sockets.add(socket));
            sockets
        });
        Ok(Self {
            interface,
            sockets,
            handle: handle.expect("the set was made with its socket"),
        })
    }

    /// Forgets the last connection and waits for the SYN of one to `local`.
    pub(super) fn listen(&mut self, local: SocketAddr) -> Result<(), ListenError> {
        let address = IpAddress::from(local.ip());
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            let _ = addresses.push(IpCidr::new(address, if local.is_ipv4() { 32 } else { 128 }));
        });
        self.with_socket(|socket| {
            socket.abort();
            socket.listen(IpListenEndpoint::from((address, local.port())))?;
            socket.set_nagle_enabled(false);
            socket.set_ack_delay(None);
            socket.set_keep_alive(Some(KEEP_ALIVE.into()));
            socket.set_timeout(Some(SILENCE_LIMIT.into()));
            Ok(())
        })
    }

    /// Hands in the packet that `device` holds.
    pub(super) fn feed(&mut self, device: &mut impl Device, now: Instant) {
        let interface = &mut self.interface;
        self.sockets.with_dependent_mut(|_, sockets| {
            interface.poll_ingress_single(now, device, sockets);
        });
    }

    /// Sends what can be sent; says when to look again.
    pub(super) fn send(&mut self, device: &mut impl Device, now: Instant) -> Option<Instant> {
        let interface = &mut self.interface;
        self.sockets.with_dependent_mut(|_, sockets| {
            while interface.poll_egress(now, device, sockets) == PollResult::SocketStateChanged {}
            interface.poll_at(now, sockets)
        })
    }

    pub(super) fn with_socket<R>(&mut self, f: impl FnOnce(&mut Socket<'_>) -> R) -> R {
        let handle = self.handle;
        self.sockets
            .with_dependent_mut(|_, sockets| f(sockets.get_mut(handle)))
    }
}
