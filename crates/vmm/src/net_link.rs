//! Carries Ethernet frames between the guest's network card and the gateway's socket.
//!
//! The link is a `SOCK_SEQPACKET` pair. One message is a 12-byte `virtio_net_hdr_v1` followed by
//! one Ethernet frame, in both directions: what a TAP device with a header size of 12 carries. The
//! header is kept so that checksums and segmentation can be left undone (virtio 1.2, 5.1.6).
//!
//! Sending waits a bounded time for a gateway that is behind and then drops the frame, as a full
//! queue of a real card would; a gateway that is gone swallows everything.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use msb_krun_devices::virtio::net::backend::{NetBackend, ReadError, WriteError};
use msb_krun_devices::virtio::net::device::VirtioNetBackend;
use msb_krun_devices::virtio::net::rate_limit::RateLimiters;
use msb_krun_vmm::vmm_config::net::NetworkInterfaceConfig;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Bytes of `virtio_net_hdr_v1`.
const HEADER_LEN: usize = 12;
/// Bytes of an Ethernet header; a shorter message is no frame.
const ETHERNET_HEADER_LEN: usize = 14;
/// How long a frame waits for the gateway before it is dropped.
const SEND_PATIENCE: Duration = Duration::from_millis(200);

/// The guest's offload features: what is not negotiated costs a software checksum or a frame per
/// 1500 bytes (virtio 1.2, 5.1.3).
const FEATURES: u32 = feature(0) // CSUM: partial checksums from the guest
    | feature(1) // GUEST_CSUM: unchecked checksums to the guest
    | feature(7) // GUEST_TSO4
    | feature(8) // GUEST_TSO6
    | feature(11) // HOST_TSO4
    | feature(12); // HOST_TSO6

/// A feature's bit (virtio 1.2, 5.1.3).
pub(crate) const fn feature(bit: u32) -> u32 {
    1 << bit
}

/// The guest's Ethernet address, locally administered.
const GUEST_MAC: [u8; 6] = [0x02, 0x76, 0x6d, 0, 0, 2];

/// The guest's network card, joined to the gateway's socket.
pub(crate) fn card(socket: OwnedFd) -> NetworkInterfaceConfig {
    card_with(
        VirtioNetBackend::Custom(Box::new(NetLink::new(socket))),
        FEATURES,
    )
}

/// The same card with something else behind it.
pub(crate) fn card_with(backend: VirtioNetBackend, features: u32) -> NetworkInterfaceConfig {
    NetworkInterfaceConfig {
        iface_id: "eth0".to_owned(),
        backend,
        mac: GUEST_MAC,
        features,
        rate_limiters: RateLimiters::default(),
    }
}

/// The engine's end of the link.
pub(crate) struct NetLink {
    socket: OwnedFd,
    /// Set when the peer is gone for good.
    closed: bool,
}

impl NetLink {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            closed: false,
        }
    }

    /// True when the socket takes data again before `deadline`.
    fn wait_writable(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let limit = Timespec {
                tv_sec: 0,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
            match rustix::event::poll(&mut fds, Some(&limit)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

impl NetBackend for NetLink {
    fn read_frame(&mut self, buf: &mut [u8]) -> Result<usize, ReadError> {
        loop {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match rustix::net::recv(&self.socket, &mut *buf, flags) {
                Ok((_, 0)) => return Err(ReadError::NothingRead),
                Ok((len, whole)) if whole <= len && len >= HEADER_LEN + ETHERNET_HEADER_LEN => {
                    return Ok(len);
                }
                // Longer than any frame, or shorter: not a frame.
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return Err(ReadError::NothingRead),
            }
        }
    }

    fn write_frame(&mut self, header_len: usize, buf: &mut [u8]) -> Result<(), WriteError> {
        if self.closed || header_len != HEADER_LEN || buf.len() < HEADER_LEN + ETHERNET_HEADER_LEN {
            return Ok(());
        }
        let deadline = Instant::now() + SEND_PATIENCE;
        loop {
            match rustix::net::send(&self.socket, buf, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    if !self.wait_writable(deadline) {
                        return Ok(());
                    }
                }
                Err(_) => {
                    self.closed = true;
                    return Ok(());
                }
            }
        }
    }

    fn has_unfinished_write(&self) -> bool {
        false
    }

    fn try_finish_write(&mut self, _header_len: usize, _buf: &[u8]) -> Result<(), WriteError> {
        Ok(())
    }

    fn raw_socket_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;

    fn pair() -> (OwnedFd, NetLink) {
        let (gateway, guest) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        (gateway, NetLink::new(guest))
    }

    fn send(socket: &OwnedFd, message: &[u8]) {
        rustix::net::send(socket, message, SendFlags::empty()).unwrap();
    }

    #[test]
    fn keeps_header_and_boundaries_in_both_directions() {
        let (gateway, mut link) = pair();
        let mut frame = vec![7_u8; 12 + 60];
        link.write_frame(12, &mut frame).unwrap();
        link.write_frame(12, &mut frame[..40]).unwrap();
        let mut buffer = [0; 100];
        assert_eq!(
            rustix::net::recv(&gateway, &mut buffer, RecvFlags::empty())
                .unwrap()
                .1,
            72
        );
        assert_eq!(
            rustix::net::recv(&gateway, &mut buffer, RecvFlags::empty())
                .unwrap()
                .1,
            40
        );

        send(&gateway, &frame);
        let mut received = [0; 100];
        assert_eq!(link.read_frame(&mut received).unwrap(), 72);
        assert_eq!(&received[..72], &frame[..]);
        assert!(matches!(
            link.read_frame(&mut received),
            Err(ReadError::NothingRead)
        ));
    }

    #[test]
    fn skips_messages_that_are_no_frames() {
        let (gateway, mut link) = pair();
        send(&gateway, &[1; 5]);
        send(&gateway, &[2; 200]);
        send(&gateway, &[3; 30]);
        let mut buffer = [0; 100];
        assert_eq!(link.read_frame(&mut buffer).unwrap(), 30);
        assert_eq!(buffer[0], 3);
    }

    #[test]
    fn drops_frames_instead_of_blocking_for_ever() {
        let (_gateway, mut link) = pair();
        let mut frame = vec![0_u8; 60_000];
        let begun = Instant::now();
        for _ in 0..20 {
            link.write_frame(12, &mut frame).unwrap();
        }
        assert!(begun.elapsed() >= SEND_PATIENCE);
        assert!(begun.elapsed() < SEND_PATIENCE * 40);
    }

    #[test]
    fn swallows_frames_when_the_gateway_is_gone() {
        let (gateway, mut link) = pair();
        drop(gateway);
        let mut frame = vec![0_u8; 60];
        link.write_frame(12, &mut frame).unwrap();
        assert!(link.closed);
        assert!(matches!(
            link.read_frame(&mut [0; 100]),
            Err(ReadError::NothingRead)
        ));
    }

    #[test]
    fn offers_checksum_and_tcp_segmentation_both_ways() {
        let (_gateway, guest) = rustix::pipe::pipe().unwrap();
        assert_eq!(card(guest).features, 0x1983);
    }
}
