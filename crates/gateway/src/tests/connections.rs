//! One connection's life: open, half-close, reset, give up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use smoltcp::socket::tcp::State;
use tokio::time::{Instant, sleep};

use super::guest::GuestOptions;
use super::handlers::{
    DENIED, DROPS, ECHO, GREETS, HOPEFUL, PANICS, REFUSED, SHUTS_FIRST, SINK, SLOW_DIAL, STUCK,
    TIMED_OUT, UNREACHABLE, pattern,
};
use super::with_guest;
use crate::config::{BACKLOG_BUDGET, FLOW_BUFFER, FLOW_FLOOR};

pub(super) const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
pub(super) const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

fn both() -> [IpAddr; 2] {
    [V4.into(), V6.into()]
}

#[tokio::test(start_paused = true)]
async fn carries_bytes_both_ways_on_both_families() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        for address in both() {
            let connection = guest.connect(address, ECHO).await.unwrap();
            assert!(connection.send(b"hello").await);
            assert_eq!(connection.receive(100).await.unwrap(), b"hello");
            connection.close();
            assert_eq!(connection.receive_all().await.unwrap(), b"");
        }
        let requests = handler.requests.borrow();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[1].address, IpAddr::V6(V6));
        assert_eq!(requests[1].port, ECHO);
        assert!(requests[1].names.is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refused_and_denied_look_refused_at_once() {
    with_guest(GuestOptions::default(), async |guest, _| {
        for address in both() {
            // Resolves the gateway's address first.
            guest.connect(address, ECHO).await.unwrap();
            for port in [REFUSED, DENIED, PANICS] {
                let started = Instant::now();
                assert!(guest.connect(address, port).await.is_none());
                assert!(started.elapsed() < Duration::from_millis(100), "{port}");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn unreachable_is_told_by_icmp_in_both_families() {
    with_guest(GuestOptions::default(), async |guest, _| {
        let _v4 = guest.dial(V4, UNREACHABLE);
        guest
            .wire(|wire| {
                wire.kept
                    .iter()
                    .find(|f| f[12..14] == [8, 0] && f[23] == 1)
                    .cloned()
            })
            .await;
        let _v6 = guest.dial(V6, UNREACHABLE);
        let frame = guest
            .wire(|wire| {
                wire.kept
                    .iter()
                    .find(|f| f[12] == 0x86 && f[20] == 58 && f[54] == 1)
                    .cloned()
            })
            .await;
        assert_eq!(frame[55], 3, "address unreachable");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn timed_out_dial_is_silent_and_not_tried_again() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let connection = guest.dial(V4, TIMED_OUT);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(connection.state(), State::SynSent);
        assert_eq!(handler.requests.borrow().len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn accepts_only_after_the_far_end_is_connected() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let started = Instant::now();
        let connection = guest.dial(V4, SLOW_DIAL);
        sleep(Duration::from_secs(9)).await;
        assert_eq!(connection.state(), State::SynSent);
        assert!(connection.opened().await);
        assert!(started.elapsed() >= Duration::from_secs(10));
        assert_eq!(
            handler.requests.borrow().len(),
            1,
            "repeated SYNs are absorbed"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn guest_may_close_its_side_first() {
    with_guest(GuestOptions::default(), async |guest, _| {
        let connection = guest.connect(V4, SINK).await.unwrap();
        assert!(connection.send(&super::handlers::pattern(0, 1000)).await);
        connection.close();
        assert_eq!(
            connection.receive_all().await.unwrap(),
            1000_u64.to_be_bytes()
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn far_end_may_close_its_side_first() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let connection = guest.connect(V6, SHUTS_FIRST).await.unwrap();
        assert_eq!(connection.receive_all().await.unwrap(), b"bye");
        sleep(Duration::from_secs(300)).await;
        assert!(connection.send(b"still here").await);
        connection.close();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(*handler.record.borrow(), ["still here"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn far_end_may_speak_first() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let connection = guest.connect(V4, GREETS).await.unwrap();
        assert_eq!(connection.receive(100).await.unwrap(), b"220 hello\r\n");
        connection.close();
        assert_eq!(connection.receive_all().await.unwrap(), b"");
        assert_eq!(*handler.record.borrow(), ["greeted"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_stream_resets_the_guest() {
    with_guest(GuestOptions::default(), async |guest, _| {
        let connection = guest.connect(V4, DROPS).await.unwrap();
        assert!(connection.send(b"xy").await);
        assert_eq!(connection.receive(10).await, None, "a reset, not an end");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_by_the_guest_reaches_the_consumer() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let connection = guest.connect(V4, SINK).await.unwrap();
        assert!(connection.send(b"xy").await);
        sleep(Duration::from_millis(10)).await;
        connection.abort();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(*handler.record.borrow(), ["ConnectionReset"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_vanishes_is_noticed() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        let connection = guest.connect(V4, SINK).await.unwrap();
        assert!(connection.send(b"xy").await);
        sleep(Duration::from_secs(1)).await;
        // A machine that has forgotten the connection answers the probe with a RST.
        connection.with(|socket| {
            socket.set_keep_alive(None);
            *socket = smoltcp::socket::tcp::Socket::new(
                smoltcp::socket::tcp::SocketBuffer::new(vec![0; 10]),
                smoltcp::socket::tcp::SocketBuffer::new(vec![0; 10]),
            );
        });
        sleep(crate::KEEP_ALIVE + Duration::from_secs(2)).await;
        assert_eq!(*handler.record.borrow(), ["ConnectionReset"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn idle_connections_outlive_the_silence_limit() {
    with_guest(GuestOptions::default(), async |guest, _| {
        let connection = guest.connect(V4, ECHO).await.unwrap();
        sleep(crate::SILENCE_LIMIT * 2).await;
        assert!(connection.send(b"awake").await);
        assert_eq!(connection.receive(10).await.unwrap(), b"awake");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_connections_at_once_keep_their_bytes_apart() {
    let options = GuestOptions {
        buffer: 4_096,
        ..GuestOptions::default()
    };
    with_guest(options, async |guest, _| {
        let connections: Vec<_> = (0..1_000_u32)
            .map(|n| guest.dial(both()[n as usize % 2], ECHO))
            .collect();
        for (n, connection) in (0_u32..).zip(&connections) {
            assert!(connection.opened().await);
            assert!(connection.send(&n.to_be_bytes()).await);
        }
        for (n, connection) in (0_u32..).zip(&connections) {
            assert_eq!(connection.receive(10).await.unwrap(), n.to_be_bytes());
            connection.close();
        }
        for connection in &connections {
            assert_eq!(connection.receive_all().await.unwrap(), b"");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn idle_connections_take_nothing_from_the_memory_of_busy_ones() {
    let options = GuestOptions {
        buffer: 2_048,
        ..GuestOptions::default()
    };
    with_guest(options, async |guest, _handler| {
        // More than the budget has room for, were each to keep what it hoped for.
        let count = BACKLOG_BUDGET / (FLOW_BUFFER - FLOW_FLOOR) + 8;
        let mut idle = Vec::new();
        for _ in 0..count {
            let connection = guest.connect([192, 0, 2, 7], HOPEFUL).await.unwrap();
            assert_eq!(connection.receive(1).await.unwrap(), [1]);
            idle.push(connection);
        }
        let busy = guest.connect([192, 0, 2, 7], SINK).await.unwrap();
        assert!(busy.send(&pattern(0, 300_000)).await);
        busy.close();
        let right = busy.receive_all().await.unwrap();
        assert_eq!(right, 300_000_u64.to_be_bytes());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn stuck_consumers_do_not_hold_up_others() {
    with_guest(GuestOptions::default(), async |guest, _| {
        let stuck = guest.connect(V4, STUCK).await.unwrap();
        stuck.with(|socket| socket.send_slice(&vec![0; 200_000]).unwrap());
        let connection = guest.connect(V4, ECHO).await.unwrap();
        assert!(connection.send(b"quick").await);
        assert_eq!(connection.receive(10).await.unwrap(), b"quick");
    })
    .await;
}
