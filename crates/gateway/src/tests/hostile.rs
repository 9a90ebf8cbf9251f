//! A guest that does what no kernel does.

use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};
use tokio::time::sleep;

use super::connections::V4;
use super::guest::{Guest, GuestOptions};
use super::handlers::{ECHO, SLOW_DIAL, SOURCE, STUCK, pattern};
use super::refusals::frame;
use super::with_guest;
use crate::DenyReason;
use crate::config::LinkAddresses;

/// A segment to a port of [`V4`], with the sums left wrong.
pub(super) fn segment(port: u16, repr: &TcpRepr<'_>) -> Vec<u8> {
    let source: IpAddress = LinkAddresses::default().guest_v4.into();
    let mut bytes = vec![0; repr.buffer_len()];
    let ignored = ChecksumCapabilities::ignored();
    let repr = TcpRepr {
        dst_port: port,
        ..*repr
    };
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut bytes[..]),
        &source,
        &V4.into(),
        &ignored,
    );
    frame(source, V4.into(), IpProtocol::Tcp, &bytes)
}

pub(super) fn plain(port: u16, control: TcpControl) -> TcpRepr<'static> {
    TcpRepr {
        src_port: port,
        dst_port: 0,
        control,
        seq_number: TcpSeqNumber(1_000),
        ack_number: None,
        window_len: 60_000,
        window_scale: Some(4),
        max_seg_size: Some(1_460),
        sack_permitted: true,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload: &[],
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_syns_is_bounded_and_passes() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        for port in 1..3_000 {
            guest.send_raw(&segment(SLOW_DIAL, &plain(port, TcpControl::Syn)));
            if port % 50 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(handler.requests.borrow().len(), crate::MAX_HALF_OPEN);
        let limit = |d: &crate::Denied| d.reason == DenyReason::Limit;
        assert!(handler.denied.borrow().iter().any(limit));
        // The dials end, the guest answers every SYN-ACK it did not ask for with a RST, and all is well again.
        sleep(Duration::from_secs(20)).await;
        let connection = guest.connect(V4, ECHO).await.unwrap();
        assert!(connection.send(b"x").await);
        assert_eq!(connection.receive(1).await.unwrap(), b"x");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_while_dialling_ends_the_dial() {
    with_guest(GuestOptions::default(), async |guest, handler| {
        guest.send_raw(&segment(SLOW_DIAL, &plain(9, TcpControl::Syn)));
        sleep(Duration::from_secs(1)).await;
        guest.send_raw(&segment(SLOW_DIAL, &plain(9, TcpControl::Rst)));
        sleep(Duration::from_secs(30)).await;
        assert_eq!(handler.requests.borrow().len(), 1);
        assert_eq!(
            guest.wire(|wire| Some(wire.kept.len())).await,
            0,
            "no SYN-ACK"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_stops_reading_its_card_loses_nothing_of_tcp() {
    with_guest(GuestOptions::default(), async |guest, _| {
        let len = 3 << 20;
        let connection = guest.connect(V4, SOURCE).await.unwrap();
        assert!(connection.send(&(len as u32).to_be_bytes()).await);
        for round in 0..20 {
            guest.freeze(true);
            // Replies pile up meanwhile: more than the queue holds.
            for port in 1..200 {
                guest.send_raw(&segment(9, &plain(port, TcpControl::Fin)));
            }
            sleep(Duration::from_millis(20)).await;
            guest.freeze(false);
            let part = connection.receive(100_000).await.unwrap();
            assert!(!part.is_empty(), "round {round}");
            connection.with(|socket| assert!(socket.may_send()));
        }
        let rest = connection.receive_all().await.unwrap();
        assert!(rest == pattern(len - rest.len(), rest.len()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_stuck_consumers_hold_is_bounded_by_the_window() {
    with_guest(
        GuestOptions {
            buffer: 4 << 20,
            ..GuestOptions::default()
        },
        async |guest, _| {
            let connection = guest.connect(V4, STUCK).await.unwrap();
            connection.with(|socket| socket.send_slice(&vec![0; 4 << 20]).unwrap());
            sleep(Duration::from_secs(60)).await;
            let left = connection.with(|socket| socket.send_queue());
            let taken = (4 << 20) - left;
            assert!((64 * 1024..=crate::FLOW_BUFFER).contains(&taken), "{taken}");
        },
    )
    .await;
}

#[derive(Debug, Clone)]
struct Oddity {
    control: u8,
    sequence: i32,
    ack: Option<i32>,
    window: u16,
    len: usize,
    from_known: bool,
}

fn oddity() -> impl Strategy<Value = Oddity> {
    let near = prop_oneof![-3..3_i32, -70_000..70_000_i32, any::<i32>()];
    let lengths = prop_oneof![Just(0_usize), 1..3_000_usize, Just(60_000)];
    (
        0..5_u8,
        near.clone(),
        prop::option::of(near),
        any::<u16>(),
        lengths,
        any::<bool>(),
    )
        .prop_map(|(control, sequence, ack, window, len, from_known)| Oddity {
            control,
            sequence,
            ack,
            window,
            len,
            from_known,
        })
}

/// Opens a connection by hand, so that sequence numbers are known, and plays odd segments into it.
async fn play(guest: Rc<Guest>, oddities: Vec<Oddity>) {
    guest.send_raw(&segment(ECHO, &plain(50, TcpControl::Syn)));
    let theirs = guest
        .wire(|wire| {
            let syn_ack = wire.kept.iter().find(|f| f[23] == 6 && f[47] == 0x12)?;
            Some(i32::from_be_bytes(syn_ack[38..42].try_into().unwrap()))
        })
        .await;
    let payload = vec![0x61; 60_000];
    let mut next = TcpSeqNumber(1_001);
    let first_ack = TcpSeqNumber(theirs) + 1;
    for odd in oddities {
        let sequence = TcpSeqNumber(next.0.wrapping_add(odd.sequence));
        let base = if odd.from_known { first_ack.0 } else { 0 };
        let repr = TcpRepr {
            control: match odd.control {
                0 => TcpControl::None,
                1 => TcpControl::Psh,
                2 => TcpControl::Fin,
                3 => TcpControl::Syn,
                _ => TcpControl::Rst,
            },
            seq_number: sequence,
            ack_number: odd.ack.map(|ack| TcpSeqNumber(base.wrapping_add(ack))),
            window_len: odd.window,
            window_scale: None,
            max_seg_size: None,
            payload: &payload[..odd.len],
            ..plain(50, TcpControl::None)
        };
        guest.send_raw(&segment(ECHO, &repr));
        if odd.sequence == 0 && odd.ack.is_some() {
            next = TcpSeqNumber(next.0.wrapping_add(odd.len as i32));
        }
        sleep(Duration::from_millis(30)).await;
    }
    sleep(Duration::from_secs(200)).await;
}

#[test]
fn no_odd_segment_brings_the_gateway_down() {
    let config = Config {
        cases: 96,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&prop::collection::vec(oddity(), 1..30), |oddities| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(with_guest(GuestOptions::default(), async |guest, _| {
                play(Rc::clone(&guest), oddities).await;
                let connection = guest.connect(V4, ECHO).await.unwrap();
                assert!(connection.send(b"alive").await);
                assert_eq!(connection.receive(10).await.unwrap(), b"alive");
            }));
            Ok(())
        })
        .unwrap();
}
