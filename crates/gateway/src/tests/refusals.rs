//! What is not carried is refused in a way that programs understand, and reported.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, IpRepr, UdpPacket, UdpRepr};

use super::guest::{GuestOptions, Wire};
use super::with_guest;
use crate::config::LinkAddresses;
use crate::{DenyReason, Transport};

/// An IP packet of the guest in a frame.
pub(crate) fn frame(
    source: IpAddress,
    destination: IpAddress,
    protocol: IpProtocol,
    payload: &[u8],
) -> Vec<u8> {
    let addresses = LinkAddresses::default();
    let ip = IpRepr::new(source, destination, protocol, payload.len(), 64);
    let mut frame = vec![0; 14 + ip.buffer_len()];
    frame[..6].copy_from_slice(&addresses.gateway_mac);
    frame[6..12].copy_from_slice(&addresses.guest_mac);
    let v4 = matches!(destination, IpAddress::Ipv4(_));
    frame[12..14].copy_from_slice(if v4 { &[8, 0] } else { &[0x86, 0xdd] });
    ip.emit(&mut frame[14..], &ChecksumCapabilities::default());
    let at = 14 + ip.header_len();
    frame[at..].copy_from_slice(payload);
    frame
}

pub(crate) fn udp(destination: IpAddress, port: u16, payload: &[u8]) -> Vec<u8> {
    let addresses = LinkAddresses::default();
    let source: IpAddress = match destination {
        IpAddress::Ipv4(_) => addresses.guest_v4.into(),
        IpAddress::Ipv6(_) => addresses.guest_v6.into(),
    };
    let repr = UdpRepr {
        src_port: 4_444,
        dst_port: port,
    };
    let mut bytes = vec![0; repr.header_len() + payload.len()];
    repr.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[..]),
        &source,
        &destination,
        payload.len(),
        |room| room.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
    frame(source, destination, IpProtocol::Udp, &bytes)
}

/// ICMP or ICMPv6 port unreachable.
pub(crate) fn is_port_unreachable(frame: &[u8]) -> bool {
    match frame[12] {
        8 => frame[23] == 1 && frame[34..36] == [3, 3],
        _ => frame[20] == 58 && frame[54..56] == [1, 4],
    }
}

/// Takes a frame out of what was kept.
pub(crate) fn take(wire: &mut Wire, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let found = wire.kept.iter().position(|frame| wanted(frame))?;
    Some(wire.kept.remove(found))
}

pub(crate) fn public() -> [IpAddress; 2] {
    [
        IpAddress::v4(192, 0, 2, 9),
        IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9),
    ]
}

#[tokio::test(start_paused = true)]
async fn quic_and_other_udp_is_refused_by_icmp_and_reported() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        for (port, reason) in [
            (443, DenyReason::Quic),
            (53, DenyReason::OtherDnsServer),
            (123, DenyReason::Udp),
        ] {
            for destination in public() {
                guest.send_raw(&udp(destination, port, b"x"));
                let port_unreachable = guest.wire(|wire| take(wire, is_port_unreachable));
                port_unreachable.await;
                let denied = handler.denied.borrow_mut().pop().unwrap();
                assert_eq!(denied.reason, reason);
                assert_eq!(denied.protocol, Transport::Udp);
                assert_eq!(denied.port, Some(port));
            }
        }
        assert!(handler.requests.borrow().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn dns_over_tcp_elsewhere_and_other_gateway_ports_are_refused_and_reported() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let gateway = LinkAddresses::default().gateway_v4;
        for (address, port, reason) in [
            ([192, 0, 2, 9].into(), 53, DenyReason::OtherDnsServer),
            (gateway.into(), 22, DenyReason::GatewayPort),
        ] {
            let address: std::net::IpAddr = address;
            assert!(guest.connect(address, port).await.is_none());
            let denied = handler.denied.borrow_mut().pop().unwrap();
            assert_eq!((denied.reason, denied.port), (reason, Some(port)));
        }
        assert!(handler.requests.borrow().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn other_protocols_and_pings_elsewhere_are_prohibited_and_reported() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let source: IpAddress = LinkAddresses::default().guest_v4.into();
        let [public, _] = public();
        let mut echo = [8, 0, 0, 0, 0, 1, 0, 1];
        echo[2..4].copy_from_slice(&(!0x0802_u16).to_be_bytes());
        for (protocol, payload, transport, reason) in [
            (
                IpProtocol::Unknown(132),
                &[0; 12][..],
                Transport::Other(132),
                DenyReason::Protocol,
            ),
            (
                IpProtocol::Icmp,
                &echo[..],
                Transport::Icmp,
                DenyReason::Icmp,
            ),
        ] {
            guest.send_raw(&frame(source, public, protocol, payload));
            guest
                .wire(|wire| {
                    let found = wire
                        .kept
                        .iter()
                        .position(|f| f[23] == 1 && f[34..36] == [3, 13])?;
                    wire.kept.remove(found);
                    Some(())
                })
                .await;
            let denied = handler.denied.borrow_mut().pop().unwrap();
            assert_eq!((denied.protocol, denied.reason), (transport, reason));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pings_to_the_gateway_are_answered() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let addresses = LinkAddresses::default();
        let mut payload = vec![8, 0, 0, 0, 0, 1, 0, 1];
        payload.resize(60_000, 0x55);
        guest.send_raw(&frame(
            addresses.guest_v4.into(),
            addresses.gateway_v4.into(),
            IpProtocol::Icmp,
            &payload,
        ));
        let reply = guest
            .wire(|wire| wire.kept.iter().find(|f| f[23] == 1 && f[34] == 0).cloned())
            .await;
        assert_eq!(reply[42..], payload[8..]);
        payload.truncate(100);
        payload[0] = 128;
        guest.send_raw(&frame(
            addresses.guest_v6.into(),
            addresses.gateway_v6.into(),
            IpProtocol::Icmpv6,
            &payload,
        ));
        guest
            .wire(|wire| {
                wire.kept
                    .iter()
                    .find(|f| f[20] == 58 && f[54] == 129)
                    .cloned()
            })
            .await;
        assert!(handler.denied.borrow().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn spoofed_addresses_are_dropped_and_reported() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let [public, public6] = public();
        let other = IpAddress::v4(10, 118, 0, 3);
        let other6 = IpAddress::v6(0xfd76, 0x6d00, 0, 0, 0, 0, 0, 3);
        let mut frames = vec![
            frame(other, public, IpProtocol::Udp, &[0; 8]),
            frame(other6, public6, IpProtocol::Udp, &[0; 8]),
            udp(public, 443, b"x"),
        ];
        frames[2][6] = 0x06; // another card's address
        for frame in &frames {
            guest.send_raw(frame);
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let reasons: Vec<_> = handler.denied.borrow().iter().map(|d| d.reason).collect();
        assert_eq!(reasons, [DenyReason::SpoofedSource; 3]);
        assert_eq!(
            guest.wire(|wire| Some(wire.kept.len())).await,
            0,
            "no answer"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn reports_are_rate_limited_and_counted() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let [public, _] = public();
        for _ in 0..20 {
            for _ in 0..50 {
                guest.send_raw(&udp(public, 443, b"x"));
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let reported = handler.denied.borrow().len() as u64;
        assert!(reported < 150, "{reported}");
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        guest.send_raw(&udp(public, 443, b"x"));
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let suppressed: u64 = handler.denied.borrow().iter().map(|d| d.suppressed).sum();
        assert_eq!(handler.denied.borrow().len() as u64 + suppressed, 1_001);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn noise_and_garbage_change_nothing() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        guest.send_raw(&[]);
        guest.send_raw(&[0xff; 13]);
        guest.send_raw(&vec![0xff; 65_600]);
        guest.send_raw(&udp(IpAddress::v4(224, 0, 0, 251), 5_353, b"mdns"));
        guest.send_raw(&udp(IpAddress::v4(255, 255, 255, 255), 67, b"dhcp"));
        let connection = guest.connect([192, 0, 2, 7], super::handlers::ECHO).await;
        assert!(connection.is_some());
        assert!(handler.denied.borrow().is_empty());
    })
    .await;
}
