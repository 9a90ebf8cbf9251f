//! Bulk data both ways, slow ends, loss, small segments. Every byte is checked.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::connections::{V4, V6};
use super::guest::{Connection, GuestOptions};
use super::handlers::{SINK, SLOW_SINK, SOURCE, pattern};
use super::with_guest;

const MIB: usize = 1 << 20;

pub(super) async fn download(connection: &Connection, len: usize, pause: Option<Duration>) {
    assert!(connection.send(&(len as u32).to_be_bytes()).await);
    let mut at = 0;
    while at < len {
        let part = connection.receive(100_000).await.expect("no reset");
        assert!(!part.is_empty(), "ended after {at} of {len}");
        assert!(part == pattern(at, part.len()), "wrong bytes near {at}");
        at += part.len();
        if let Some(pause) = pause {
            sleep(pause).await;
        }
    }
    assert_eq!(connection.receive(1).await.unwrap(), b"");
    connection.close();
}

pub(super) async fn upload(connection: &Connection, len: usize) {
    let mut at = 0;
    while at < len {
        let part = pattern(at, (len - at).min(100_000));
        assert!(connection.send(&part).await, "reset after {at} of {len}");
        at += part.len();
    }
    connection.close();
    let right = connection.receive_all().await.expect("no reset");
    assert_eq!(right, (len as u64).to_be_bytes());
}

#[tokio::test(start_paused = true)]
async fn bulk_transfers_arrive_whole_both_ways() {
    with_guest(GuestOptions::default(), async |guest, _| {
        let down = guest.connect(V4, SOURCE).await.unwrap();
        let up = guest.connect(V6, SINK).await.unwrap();
        tokio::join!(download(&down, 64 * MIB, None), upload(&up, 64 * MIB));
        assert_eq!(
            guest.largest_offload(),
            0,
            "a large MSS needs no segmentation"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn small_segments_go_as_large_frames() {
    let options = GuestOptions {
        mtu: 1_500,
        ..GuestOptions::default()
    };
    with_guest(options, async |guest, _| {
        let down = guest.connect(V4, SOURCE).await.unwrap();
        let down6 = guest.connect(V6, SOURCE).await.unwrap();
        let up = guest.connect(V4, SINK).await.unwrap();
        tokio::join!(
            download(&down, 8 * MIB, None),
            download(&down6, 8 * MIB, None),
            upload(&up, 8 * MIB)
        );
        assert!(
            guest.largest_offload() > 32 * 1024,
            "{}",
            guest.largest_offload()
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_guest_reader_stalls_nothing() {
    let options = GuestOptions {
        buffer: 16 * 1024,
        ..GuestOptions::default()
    };
    with_guest(options, async |guest, _| {
        let connection = guest.connect(V4, SOURCE).await.unwrap();
        let started = Instant::now();
        download(&connection, 2 * MIB, Some(Duration::from_millis(5))).await;
        // 128 rounds of 5 ms and no timer of TCP in between.
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{:?}",
            started.elapsed()
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_pauses_reading_goes_on_at_once() {
    with_guest(GuestOptions::default(), async |guest, _| {
        let connection = guest.connect(V4, SOURCE).await.unwrap();
        assert!(connection.send(&(4 * MIB as u32).to_be_bytes()).await);
        sleep(Duration::from_secs(100)).await;
        let started = Instant::now();
        let mut at = 0;
        while at < 4 * MIB {
            let part = connection.receive(100_000).await.expect("no reset");
            assert!(part == pattern(at, part.len()));
            at += part.len();
        }
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{:?}",
            started.elapsed()
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_stalls_nothing() {
    with_guest(GuestOptions::default(), async |guest, _| {
        let connection = guest.connect(V4, SLOW_SINK).await.unwrap();
        let started = Instant::now();
        upload(&connection, 5 * MIB).await;
        // 105 rounds of 20 ms and no timer of TCP in between.
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "{:?}",
            started.elapsed()
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lost_frames_are_sent_again_both_ways() {
    let options = GuestOptions {
        loss_per_mille: 30,
        mtu: 9_000,
        ..GuestOptions::default()
    };
    with_guest(options, async |guest, _| {
        let down = guest.connect(V4, SOURCE).await.unwrap();
        let up = guest.connect(V6, SINK).await.unwrap();
        tokio::join!(download(&down, 2 * MIB, None), upload(&up, 2 * MIB));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn urgent_data_is_read_as_any_other() {
    let options = GuestOptions {
        urgent: true,
        ..GuestOptions::default()
    };
    with_guest(options, async |guest, _| {
        let up = guest.connect(V4, SINK).await.unwrap();
        upload(&up, MIB).await;
    })
    .await;
}
