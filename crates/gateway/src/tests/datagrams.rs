//! UDP and echo requests to somewhere outside.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smoltcp::wire::{IpAddress, IpProtocol};

use super::guest::{Guest, GuestOptions};
use super::handlers::{ECHO, FAR, PANICS, REFUSED, TIMED_OUT, UNREACHABLE};
use super::refusals::{frame, is_port_unreachable, public, take, udp};
use super::with_guest;
use crate::config::{
    DATAGRAM_IDLE, DATAGRAM_OPENS, DATAGRAM_UNANSWERED, LinkAddresses, MAX_FLOW_DATAGRAMS,
};
use crate::{DatagramKind, DenyReason};

/// Bytes before the payload of a UDP datagram in a frame.
fn headers(frame: &[u8]) -> usize {
    if frame[12] == 8 {
        14 + 20 + 8
    } else {
        14 + 40 + 8
    }
}

/// A UDP datagram from this port, by its payload.
async fn answer(guest: &Guest, port: u16) -> Vec<u8> {
    let is_udp = |f: &[u8]| match f[12] {
        8 => f[23] == 17,
        _ => f[20] == 17,
    };
    let found = guest.wire(|wire| {
        take(wire, |f| {
            is_udp(f) && f[headers(f) - 8..headers(f) - 6] == port.to_be_bytes()
        })
    });
    let frame = found.await;
    // The guest's side has finished the checksum; it must be right.
    let at = headers(&frame) - 8;
    let udp = smoltcp::wire::UdpPacket::new_checked(&frame[at..]).unwrap();
    let v4 = |at: usize| {
        IpAddress::from(
            <[u8; 4]>::try_from(&frame[at..at + 4])
                .map(IpAddr::from)
                .unwrap(),
        )
    };
    let v6 = |at: usize| {
        IpAddress::from(
            <[u8; 16]>::try_from(&frame[at..at + 16])
                .map(IpAddr::from)
                .unwrap(),
        )
    };
    let (from, to) = if frame[12] == 8 {
        (v4(26), v4(30))
    } else {
        (v6(22), v6(38))
    };
    assert!(udp.verify_checksum(&from, &to));
    assert_eq!(udp.dst_port(), 4_444);
    udp.payload().to_vec()
}

async fn far_socket() -> (tokio::net::UdpSocket, SocketAddr) {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test(start_paused = true)]
async fn datagrams_go_both_ways_on_both_families_and_one_flow_is_asked_about_once() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        for destination in public() {
            for payload in [&b"one"[..], b"", &[0x55; 60_000]] {
                guest.send_raw(&udp(destination, ECHO, payload));
                assert_eq!(answer(&guest, ECHO).await, payload);
            }
        }
        let asked = handler.datagrams.borrow();
        assert_eq!(asked.len(), 2);
        assert!(
            asked
                .iter()
                .all(|r| r.kind == DatagramKind::Udp && r.source_port == 4_444)
        );
        assert!(handler.denied.borrow().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn datagrams_wait_for_the_decision_up_to_their_limit() {
    with_guest(GuestOptions::default(), async |guest, _handler| {
        let [v4, _] = public();
        for number in 0..2 * MAX_FLOW_DATAGRAMS {
            guest.send_raw(&udp(v4, ECHO, &[number as u8]));
        }
        for number in 0..MAX_FLOW_DATAGRAMS {
            assert_eq!(answer(&guest, ECHO).await, [number as u8]);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_far_end_looks_refused_and_a_silent_one_silent() {
    with_guest(GuestOptions::default(), async |guest, _handler| {
        for destination in public() {
            guest.send_raw(&udp(destination, REFUSED, b"x"));
            guest.wire(|wire| take(wire, is_port_unreachable)).await;
            guest.send_raw(&udp(destination, UNREACHABLE, b"x"));
            let host = guest.wire(|wire| {
                take(wire, |f| match f[12] {
                    8 => f[23] == 1 && f[34..36] == [3, 1],
                    _ => f[20] == 58 && f[54..56] == [1, 3],
                })
            });
            host.await;
            for silent in [TIMED_OUT, PANICS] {
                guest.send_raw(&udp(destination, silent, b"x"));
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let icmp = guest.wire(|wire| Some(wire.kept.iter().any(|f| f[23] == 1 || f[20] == 58)));
        assert!(!icmp.await, "nothing is said about the silent ones");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_the_asked_peer_may_answer() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let (far, address) = far_socket().await;
        handler.far.set(Some(address));
        let [v4, _] = public();
        guest.send_raw(&udp(v4, FAR, b"question"));
        let mut buffer = [0; 100];
        let (len, ours) = far.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"question");
        let (other, _) = far_socket().await;
        other.send_to(b"forged", ours).await.unwrap();
        far.send_to(b"answer", ours).await.unwrap();
        assert_eq!(answer(&guest, FAR).await, b"answer");
        // Another card, another port of the guest: other flows.
        let before = handler.datagrams.borrow().len();
        guest.send_raw(&udp(IpAddress::v4(192, 0, 2, 10), FAR, b"x"));
        far.recv_from(&mut buffer).await.unwrap();
        assert_eq!(handler.datagrams.borrow().len(), before + 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_port_of_the_far_end_looks_closed() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let (far, address) = far_socket().await;
        handler.far.set(Some(address));
        drop(far);
        let [v4, _] = public();
        guest.send_raw(&udp(v4, FAR, b"x"));
        guest.wire(|wire| take(wire, is_port_unreachable)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn flows_end_when_nothing_comes_any_more() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let (far, address) = far_socket().await;
        handler.far.set(Some(address));
        let [v4, _] = public();
        let started = tokio::time::Instant::now();
        guest.send_raw(&udp(v4, FAR, b"unanswered"));
        while handler.record.borrow().is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let lived = started.elapsed();
        let second = Duration::from_secs(2);
        assert!((DATAGRAM_UNANSWERED..DATAGRAM_UNANSWERED + second).contains(&lived));
        let mut buffer = [0; 100];
        far.recv_from(&mut buffer).await.unwrap();
        guest.send_raw(&udp(v4, FAR, b"answered"));
        let (_, ours) = far.recv_from(&mut buffer).await.unwrap();
        far.send_to(b"answer", ours).await.unwrap();
        answer(&guest, FAR).await;
        let started = tokio::time::Instant::now();
        while handler.record.borrow().len() < 2 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let lived = started.elapsed();
        assert!(
            (DATAGRAM_IDLE..DATAGRAM_IDLE + second).contains(&lived),
            "{lived:?}"
        );
        assert_eq!(*handler.record.borrow(), ["10 up, 0 down", "8 up, 6 down"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn new_flows_are_limited_in_number_and_reported() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        for number in 0..2 * DATAGRAM_OPENS.0 {
            let [_, _, high, low] = (number as u32).to_be_bytes();
            guest.send_raw(&udp(IpAddress::v4(192, 0, high, low), TIMED_OUT, b"x"));
            if number % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        let asked = handler.datagrams.borrow().len() as u64;
        assert_eq!(asked, 2 * DATAGRAM_OPENS.0, "the handler is asked, cheaply");
        let denied = handler.denied.borrow();
        assert!(denied.iter().all(|d| d.reason == DenyReason::Limit));
        assert!(!denied.is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pings_to_the_outside_come_back_with_the_guests_identifier() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let addresses = LinkAddresses::default();
        let [v4, v6] = public();
        handler
            .names
            .borrow_mut()
            .insert("pinged.test".to_owned(), vec![v4.into(), v6.into()]);
        super::names::learn(&guest, "pinged.test").await;
        let mut request = [8, 0, 0, 0, 0x12, 0x34, 0, 7, 1, 2, 3, 4];
        guest.send_raw(&frame(
            addresses.guest_v4.into(),
            v4,
            IpProtocol::Icmp,
            &request,
        ));
        let reply = guest
            .wire(|wire| take(wire, |f| f[12] == 8 && f[23] == 1))
            .await;
        let icmp = smoltcp::wire::Icmpv4Packet::new_checked(&reply[34..]).unwrap();
        assert!(icmp.verify_checksum());
        assert_eq!((icmp.echo_ident(), icmp.echo_seq_no()), (0x1234, 7));
        assert_eq!(icmp.data(), [1, 2, 3, 4]);
        request[0] = 128;
        guest.send_raw(&frame(
            addresses.guest_v6.into(),
            v6,
            IpProtocol::Icmpv6,
            &request,
        ));
        let reply = guest
            .wire(|wire| take(wire, |f| f[12] == 0x86 && f[20] == 58 && f[54] == 129))
            .await;
        let icmp = smoltcp::wire::Icmpv6Packet::new_checked(&reply[54..]).unwrap();
        let (IpAddress::Ipv6(from), to) = (v6, addresses.guest_v6) else {
            unreachable!()
        };
        assert!(icmp.verify_checksum(&from, &to));
        assert_eq!((icmp.echo_ident(), icmp.echo_seq_no()), (0x1234, 7));
    })
    .await;
}
