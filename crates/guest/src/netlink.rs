//! rtnetlink (RFC 3549; Linux `rtnetlink(7)`): the few requests a static configuration needs, built as bytes.
//!
//! One request at a time, each acknowledged by the kernel with an error code.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
/// `struct nlmsghdr` in bytes.
pub(crate) const HEADER: usize = 16;

/// A netlink route socket.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        // Protocol 0 is NETLINK_ROUTE.
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sets the link up, with an MTU in bytes if given.
    pub(crate) fn link_up(&mut self, index: u32, mtu: Option<u32>) -> io::Result<()> {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        if let Some(mtu) = mtu {
            attribute(&mut body, IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.request(RTM_NEWLINK, 0, &body)
    }

    /// Gives the link an address, usable at once (no duplicate address detection).
    pub(crate) fn add_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix: u8,
    ) -> io::Result<()> {
        let mut body = vec![family(address), prefix, 0, 0];
        body.extend(index.to_ne_bytes());
        attribute(&mut body, IFA_LOCAL, &octets(address));
        attribute(&mut body, IFA_ADDRESS, &octets(address));
        if address.is_ipv6() {
            attribute(&mut body, IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        }
        self.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body)
    }

    /// Sends everything without a better route to `gateway`.
    pub(crate) fn add_default_route(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let mut body = vec![
            family(gateway),
            0,
            0,
            0,
            RT_TABLE_MAIN,
            RTPROT_BOOT,
            0,
            RTN_UNICAST,
        ];
        body.extend(0u32.to_ne_bytes());
        attribute(&mut body, RTA_GATEWAY, &octets(gateway));
        attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
        self.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body)
    }

    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let message = message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, self.sequence, body);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        let mut buffer = [0; 8192];
        loop {
            let (count, _) = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::empty())?;
            match acknowledgement(&buffer[..count], self.sequence) {
                Some(0) => return Ok(()),
                Some(code) => return Err(io::Error::from_raw_os_error(code)),
                None => {}
            }
        }
    }
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The error code (positive errno, 0 for success) the kernel answers to request `sequence`.
fn acknowledgement(buffer: &[u8], sequence: u32) -> Option<i32> {
    let mut rest = buffer;
    while rest.len() >= HEADER {
        let word = |at: usize| {
            rest.get(at..at + 4)
                .and_then(|b| b.try_into().ok())
                .map(u32::from_ne_bytes)
        };
        let length = usize::try_from(word(0)?).ok()?;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        if kind == NLMSG_ERROR && word(8)? == sequence {
            let code = i32::from_ne_bytes(rest.get(16..20)?.try_into().ok()?);
            return Some(code.saturating_neg());
        }
        rest = rest.get(length.max(HEADER).next_multiple_of(4)..)?;
    }
    None
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_to_four_bytes_but_keep_their_length() {
        let mut body = Vec::new();
        attribute(&mut body, 7, b"abcde");
        assert_eq!(body.len(), 12);
        assert_eq!(body[..4], [9u16.to_ne_bytes(), 7u16.to_ne_bytes()].concat());
    }

    #[test]
    fn an_acknowledgement_is_found_behind_another_message() {
        let other = message(RTM_NEWLINK, 0, 5, &[0; 6]);
        let mut buffer = other;
        buffer.resize(buffer.len().next_multiple_of(4), 0);
        buffer.extend(message(NLMSG_ERROR, 0, 6, &(-17i32).to_ne_bytes()));
        assert_eq!(acknowledgement(&buffer, 6), Some(17));
        assert_eq!(acknowledgement(&buffer, 7), None);
    }

    #[test]
    fn damaged_answers_are_no_acknowledgement() {
        assert_eq!(acknowledgement(&[], 1), None);
        assert_eq!(acknowledgement(&[0; 16], 1), None);
        assert_eq!(acknowledgement(&[0xff; 40], 1), None);
        let mut short = message(NLMSG_ERROR, 0, 1, &[]);
        short.truncate(16);
        assert_eq!(acknowledgement(&short, 1), None);
    }

    #[test]
    fn the_kernel_answers_requests_for_a_link_that_does_not_exist() {
        let mut netlink = Netlink::open().unwrap();
        let error = netlink.link_up(0x7fff_0000, None).unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)),
            "{error}"
        );
    }
}
