//! The simulated guest.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, HardwareAddress, IpCidr};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

pub(crate) use super::guest_options::GuestOptions;
use super::offload::{finish_checksum, segments};
use crate::config::LinkAddresses;
use crate::link::{IP_OFFSET, RECEIVE_BUFFER};
use crate::virtio_header::VNET_HEADER_LEN;

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
    /// On their way in each direction, by when they are there.
    inbound: BTreeMap<(Instant, u64), Vec<u8>>,
    outbound: BTreeMap<(Instant, u64), Vec<u8>>,
    serial: u64,
    options: GuestOptions,
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
            inbound: BTreeMap::new(),
            outbound: BTreeMap::new(),
            serial: 0,
            options: options.clone(),
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
    fn turn(&self, buffer: &mut [u8]) -> Duration {
        let mut machine = self.machine.borrow_mut();
        let Machine {
            interface,
            sockets,
            wire,
        } = &mut *machine;
        let now = self.now();
        for _ in 0..64 {
            match rustix::io::read(self.fd.get_ref(), &mut *buffer) {
                Ok(len) if len > 0 => wire.arrive(&buffer[..len], now),
                _ => break,
            }
        }
        while let Some(frame) = due(&mut wire.inbound, now) {
            wire.arrived.push_back(frame);
        }
        if !wire.arrived.is_empty() {
            wire.confirm_gateway();
        }
        interface.poll(now, wire, sockets);
        while let Some(mut frame) = wire.leaving.pop_front() {
            if wire.options.urgent && frame[URGENT_AT - 24] == 6 {
                frame[URGENT_AT] |= 0x20;
                frame[URGENT_AT + 5..URGENT_AT + 7].copy_from_slice(&[0, 1]);
            }
            wire.send(Direction::Out, frame, now);
        }
        let mut blocked = false;
        while let Some(frame) = due(&mut wire.outbound, now) {
            if rustix::io::write(self.fd.get_ref(), &frame).is_err() {
                wire.outbound.insert((Instant::ZERO, 0), frame);
                blocked = true;
                break;
            }
        }
        if blocked {
            return Duration::from_millis(1);
        }
        let first = |frames: &BTreeMap<(Instant, u64), Vec<u8>>| {
            let ((at, _), _) = frames.first_key_value()?;
            Some(Duration::from(*at - now))
        };
        let timer = interface.poll_delay(now, sockets).map(Duration::from);
        let waits = [timer, first(&wire.inbound), first(&wire.outbound)];
        let soonest = waits.into_iter().flatten().min();
        soonest.unwrap_or(Duration::from_secs(5))
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

#[derive(Debug, Clone, Copy)]
enum Direction {
    In,
    Out,
}

/// The next frame that is there by now.
fn due(way: &mut BTreeMap<(Instant, u64), Vec<u8>>, now: Instant) -> Option<Vec<u8>> {
    let first = way.first_entry()?;
    (first.key().0 <= now).then(|| first.remove())
}

/// Where the flags of an IPv4 guest's segment are in a message.
const URGENT_AT: usize = IP_OFFSET + 20 + 13;

impl Wire {
    fn happens(&mut self, per_mille: u32) -> bool {
        // xorshift64: any fixed sequence will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1_000 < u64::from(per_mille)
    }

    /// Puts a frame on its way, where it may be lost, doubled or overtaken.
    fn send(&mut self, direction: Direction, frame: Vec<u8>, now: Instant) {
        if self.happens(self.options.loss_per_mille) {
            return;
        }
        let mut at = now + self.options.delay.into();
        if self.happens(self.options.late_per_mille) {
            at += (self.options.delay / 2).into();
        }
        let copies = 1 + u64::from(self.happens(self.options.twice_per_mille));
        let way = match direction {
            Direction::In => &mut self.inbound,
            Direction::Out => &mut self.outbound,
        };
        for _ in 0..copies {
            self.serial += 1;
            way.insert((at, self.serial), frame.clone());
        }
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
    fn arrive(&mut self, message: &[u8], now: Instant) {
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
            let mtu = self.options.mtu;
            assert!(frame.len() <= mtu + 14, "fits the card");
            self.send(Direction::In, frame, now);
            return;
        }
        assert_eq!(header[0], 1, "offload needs the checksum left open");
        self.largest_offload = self.largest_offload.max(frame.len());
        for segment in segments(&frame, half(2), half(4), half(6)) {
            self.send(Direction::In, segment, now);
        }
    }
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
        capabilities.max_transmission_unit = self.options.mtu + IP_OFFSET - VNET_HEADER_LEN;
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
