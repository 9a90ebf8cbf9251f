//! The simulated guest.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, HardwareAddress, IpCidr};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::config::LinkAddresses;
use crate::link::{IP_OFFSET, RECEIVE_BUFFER};
use crate::virtio_header::VNET_HEADER_LEN;

#[derive(Debug, Clone)]
pub(crate) struct GuestOptions {
    pub(crate) mtu: usize,
    /// Of 1 000 frames in each direction, so many are lost.
    pub(crate) loss_per_mille: u32,
    /// Buffers of each socket.
    pub(crate) buffer: usize,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self {
            mtu: 65_520,
            loss_per_mille: 0,
            buffer: 256 * 1024,
        }
    }
}

pub(crate) struct Guest {
    machine: RefCell<Machine>,
    fd: AsyncFd<OwnedFd>,
    turned: Notify,
    kick: Notify,
    next_port: Cell<u16>,
    frozen: Cell<bool>,
    epoch: tokio::time::Instant,
    options: GuestOptions,
}

struct Machine {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
}

/// Frames on their way, and what was seen of them.
pub(crate) struct Wire {
    arrived: VecDeque<Vec<u8>>,
    leaving: VecDeque<Vec<u8>>,
    mtu: usize,
    loss: u32,
    random: u64,
    /// Frames that do not concern smoltcp are kept for the test.
    pub(crate) kept: Vec<Vec<u8>>,
    /// The largest frame of several segments.
    pub(crate) largest_offload: usize,
}

impl Guest {
    pub(crate) fn start(fd: OwnedFd, options: GuestOptions) -> Rc<Self> {
        rustix::io::ioctl_fionbio(&fd, true).unwrap();
        let addresses = LinkAddresses::default();
        let mut wire = Wire {
            arrived: VecDeque::new(),
            leaving: VecDeque::new(),
            mtu: options.mtu,
            loss: options.loss_per_mille,
            random: 0x9e37_79b9_7f4a_7c15,
            kept: Vec::new(),
            largest_offload: 0,
        };
        let mac = EthernetAddress(addresses.guest_mac);
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut wire, Instant::from_secs(1));
        interface.update_ip_addrs(|list| {
            list.push(IpCidr::new(addresses.guest_v4.into(), addresses.prefix_v4))
                .unwrap();
            list.push(IpCidr::new(addresses.guest_v6.into(), addresses.prefix_v6))
                .unwrap();
        });
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route(addresses.gateway_v4).unwrap();
        routes.add_default_ipv6_route(addresses.gateway_v6).unwrap();
        #[expect(deprecated, reason = "the descriptor is owned")]
        let fd = AsyncFd::new(fd).unwrap();
        let guest = Rc::new(Self {
            machine: RefCell::new(Machine {
                interface,
                sockets: SocketSet::new(Vec::new()),
                wire,
            }),
            fd,
            turned: Notify::new(),
            kick: Notify::new(),
            next_port: Cell::new(10_000),
            frozen: Cell::new(false),
            epoch: tokio::time::Instant::now(),
            options,
        });
        tokio::task::spawn_local(Rc::clone(&guest).run());
        guest
    }

    async fn run(self: Rc<Self>) {
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            while self.frozen.get() {
                self.kick.notified().await;
            }
            let wait = self.turn(&mut buffer);
            self.turned.notify_waiters();
            tokio::select! {
                ready = self.fd.readable() => {
                    let mut ready = ready.unwrap();
                    if !self.readable() { ready.clear_ready(); }
                }
                () = self.kick.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// A frozen guest neither reads nor writes its card.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.set(frozen);
        self.kick.notify_one();
    }

    fn readable(&self) -> bool {
        let flags = rustix::net::RecvFlags::PEEK;
        rustix::net::recv(self.fd.get_ref(), &mut [0_u8; 1][..], flags).is_ok()
    }

    /// Reads what has come, lets smoltcp work, and sends what it made.
    fn turn(&self, buffer: &mut [u8]) -> std::time::Duration {
        let mut machine = self.machine.borrow_mut();
        let Machine {
            interface,
            sockets,
            wire,
        } = &mut *machine;
        for _ in 0..64 {
            match rustix::io::read(self.fd.get_ref(), &mut *buffer) {
                Ok(len) if len > 0 => wire.arrive(&buffer[..len]),
                _ => break,
            }
        }
        let now = self.now();
        if !wire.arrived.is_empty() {
            wire.confirm_gateway();
        }
        interface.poll(now, wire, sockets);
        while let Some(frame) = wire.leaving.pop_front() {
            if wire.lost() {
                continue;
            }
            if rustix::io::write(self.fd.get_ref(), &frame).is_err() {
                wire.leaving.push_front(frame);
                break;
            }
        }
        let blocked = !wire.leaving.is_empty();
        let delay = interface
            .poll_delay(now, sockets)
            .map_or(std::time::Duration::from_secs(5), std::time::Duration::from);
        if blocked {
            std::time::Duration::from_millis(1)
        } else {
            delay
        }
    }

    fn now(&self) -> Instant {
        let micros = self.epoch.elapsed().as_micros();
        Instant::from_micros(1_000_000 + i64::try_from(micros).unwrap())
    }

    /// Sends a frame as it is, behind an empty virtio header.
    pub(crate) fn send_raw(&self, frame: &[u8]) {
        let mut message = vec![0; VNET_HEADER_LEN];
        message.extend_from_slice(frame);
        rustix::io::write(self.fd.get_ref(), &message).unwrap();
    }

    /// Waits until `find` finds something in what has come.
    pub(crate) async fn wire<T>(&self, mut find: impl FnMut(&mut Wire) -> Option<T>) -> T {
        loop {
            let turned = self.turned.notified();
            if let Some(found) = find(&mut self.machine.borrow_mut().wire) {
                return found;
            }
            turned.await;
        }
    }

    /// Frames that came and smoltcp cannot use.
    pub(crate) fn largest_offload(&self) -> usize {
        self.machine.borrow().wire.largest_offload
    }

    /// Begins to connect; the connection is not open yet.
    pub(crate) fn dial(self: &Rc<Self>, address: impl Into<IpAddr>, port: u16) -> Connection {
        let local = self.next_port.get();
        self.next_port.set(local.checked_add(1).unwrap_or(10_000));
        let size = self.options.buffer;
        let mut socket = Socket::new(
            SocketBuffer::new(vec![0; size]),
            SocketBuffer::new(vec![0; size]),
        );
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let remote = SocketAddr::new(address.into(), port);
        let mut machine = self.machine.borrow_mut();
        let Machine {
            interface, sockets, ..
        } = &mut *machine;
        socket.connect(interface.context(), remote, local).unwrap();
        let handle = sockets.add(socket);
        drop(machine);
        self.kick.notify_one();
        Connection {
            guest: Rc::clone(self),
            handle,
        }
    }

    /// Connects; `None` if the connection is refused.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        address: impl Into<IpAddr>,
        port: u16,
    ) -> Option<Connection> {
        let connection = self.dial(address, port);
        connection.opened().await.then_some(connection)
    }
}

impl Wire {
    fn lost(&mut self) -> bool {
        // xorshift64: any fixed sequence will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1_000 < u64::from(self.loss)
    }

    /// A kernel keeps a neighbour it hears from and queues packets while it looks one up; smoltcp does neither.
    fn confirm_gateway(&mut self) {
        let addresses = LinkAddresses::default();
        let reply = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(addresses.gateway_mac),
            source_protocol_addr: addresses.gateway_v4,
            target_hardware_addr: EthernetAddress(addresses.guest_mac),
            target_protocol_addr: addresses.guest_v4,
        };
        let mut frame = [&addresses.guest_mac[..], &addresses.gateway_mac, &[8, 6]].concat();
        frame.resize(14 + reply.buffer_len(), 0);
        reply.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
        self.arrived.push_front(frame);
    }

    /// Finishes a message as a driver would: checksum and segmentation.
    fn arrive(&mut self, message: &[u8]) {
        if self.lost() {
            return;
        }
        let (header, frame) = message.split_at(VNET_HEADER_LEN);
        let mut frame = frame.to_vec();
        let half = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        assert_eq!(half(10), 1, "one buffer");
        if header[0] == 1 && header[1] == 0 {
            finish_checksum(&mut frame, half(6), half(8));
        }
        self.kept.push(frame.clone());
        if self.kept.len() > 256 {
            self.kept.remove(0);
        }
        if header[1] == 0 {
            assert!(frame.len() <= self.mtu + 14, "fits the card");
            self.arrived.push_back(frame);
            return;
        }
        assert_eq!(header[0], 1, "offload needs the checksum left open");
        self.largest_offload = self.largest_offload.max(frame.len());
        for segment in segments(&frame, half(2), half(4), half(6)) {
            self.arrived.push_back(segment);
        }
    }
}

/// Adds the sum of everything from `start` to the pseudo-header sum in place.
fn finish_checksum(frame: &mut [u8], start: usize, offset: usize) {
    let mut sum: u32 = frame[start..]
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !(sum as u16);
    frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Cuts a TCP frame into segments of `size` bytes.
fn segments(frame: &[u8], header_len: usize, size: usize, tcp_at: usize) -> Vec<Vec<u8>> {
    let (headers, payload) = frame.split_at(header_len);
    let sequence = u32::from_be_bytes(headers[tcp_at + 4..tcp_at + 8].try_into().unwrap());
    let v6 = headers[14] >> 4 == 6;
    let source = if v6 {
        headers[22..54].to_vec()
    } else {
        headers[26..34].to_vec()
    };
    let pieces: Vec<&[u8]> = payload.chunks(size).collect();
    let last = pieces.len() - 1;
    let mut out = Vec::new();
    for (number, piece) in pieces.into_iter().enumerate() {
        let mut segment = headers.to_vec();
        segment.extend_from_slice(piece);
        let at = sequence.wrapping_add((number * size) as u32);
        segment[tcp_at + 4..tcp_at + 8].copy_from_slice(&at.to_be_bytes());
        if number != last {
            segment[tcp_at + 13] &= !0x09; // FIN and PSH belong to the last
        }
        let tcp_len = segment.len() - tcp_at;
        let mut sum: u32 = source
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        sum += 6 + tcp_len as u32;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        segment[tcp_at + 16..tcp_at + 18].copy_from_slice(&(sum as u16).to_be_bytes());
        finish_checksum(&mut segment, tcp_at, 16);
        if v6 {
            segment[18..20].copy_from_slice(&(tcp_len as u16).to_be_bytes());
        } else {
            let total = (segment.len() - 14) as u16;
            segment[16..18].copy_from_slice(&total.to_be_bytes());
            segment[24..26].fill(0);
            let mut header = segment[14..34].to_vec();
            finish_checksum(&mut header, 0, 10);
            segment[14..34].copy_from_slice(&header);
        }
        out.push(segment);
    }
    out
}

pub(crate) struct Received(Vec<u8>);
pub(crate) struct Leaving<'a>(&'a mut Wire);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut message = vec![0; VNET_HEADER_LEN + len];
        let result = f(&mut message[VNET_HEADER_LEN..]);
        self.0.leaving.push_back(message);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Leaving<'_>)> {
        let frame = self.arrived.pop_front()?;
        Some((Received(frame), Leaving(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Leaving<'_>> {
        (self.leaving.len() < 64).then_some(Leaving(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + IP_OFFSET - VNET_HEADER_LEN;
        capabilities
    }
}

/// A connection of the guest.
pub(crate) struct Connection {
    guest: Rc<Guest>,
    handle: SocketHandle,
}

impl Connection {
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Socket<'static>) -> T) -> T {
        let mut machine = self.guest.machine.borrow_mut();
        let result = f(machine.sockets.get_mut(self.handle));
        drop(machine);
        self.guest.kick.notify_one();
        result
    }

    /// Waits until `f` says something.
    pub(crate) async fn wait<T>(&self, mut f: impl FnMut(&mut Socket<'static>) -> Option<T>) -> T {
        loop {
            let turned = self.guest.turned.notified();
            let found = f(self.guest.machine.borrow_mut().sockets.get_mut(self.handle));
            if let Some(found) = found {
                self.guest.kick.notify_one();
                return found;
            }
            turned.await;
        }
    }

    /// Waits for the handshake; says whether there is a connection.
    pub(crate) async fn opened(&self) -> bool {
        self.wait(|socket| match socket.state() {
            State::SynSent | State::SynReceived => None,
            State::Closed => Some(false),
            _ => Some(true),
        })
        .await
    }

    pub(crate) fn state(&self) -> State {
        self.with(|socket| socket.state())
    }

    /// Sends all of `data`; false if the connection is gone.
    pub(crate) async fn send(&self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let sent = self
                .wait(|socket| match socket.send_slice(data) {
                    Ok(0) => None,
                    Ok(sent) => Some(Some(sent)),
                    Err(_) => Some(None),
                })
                .await;
            match sent {
                Some(sent) => data = &data[sent..],
                None => return false,
            }
        }
        true
    }

    /// Receives up to `limit` bytes; empty at the end, `None` after a reset.
    pub(crate) async fn receive(&self, limit: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; limit];
        let received = self
            .wait(|socket| match socket.recv_slice(&mut buffer) {
                Ok(0) => None,
                Ok(len) => Some(Some(len)),
                Err(RecvError::Finished) => Some(Some(0)),
                Err(RecvError::InvalidState) => Some(None),
            })
            .await?;
        buffer.truncate(received);
        Some(buffer)
    }

    /// Receives until the end; `None` after a reset.
    pub(crate) async fn receive_all(&self) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let part = self.receive(64 * 1024).await?;
            if part.is_empty() {
                return Some(all);
            }
            all.extend_from_slice(&part);
        }
    }

    /// Sends a FIN.
    pub(crate) fn close(&self) {
        self.with(|socket| socket.close());
    }

    /// Sends a RST.
    pub(crate) fn abort(&self) {
        self.with(|socket| socket.abort());
    }
}
