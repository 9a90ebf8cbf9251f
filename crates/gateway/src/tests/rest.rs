//! What an idle connection holds.

use std::time::Duration;

use tokio::time::sleep;

use super::connections::{V4, V6};
use super::guest::{Connection, GuestOptions};
use super::handlers::{ECHO, pattern};
use super::with_guest;
use crate::config::{FLOW_BUFFER, REST_AFTER, REST_FLOOR};

/// Connections that are busy, then idle.
const COUNT: usize = 32;

/// What the allocator, the guest and the test may take meanwhile, in bytes.
const NOISE: usize = 4 << 20;

fn resident_bytes() -> usize {
    let statm = fs_err::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

/// Sends bytes and has them back.
async fn echo(connection: &Connection, len: usize) {
    let mut at = 0;
    while at < len {
        let piece = pattern(at, (len - at).min(8_000));
        assert!(connection.send(&piece).await);
        let mut back = Vec::new();
        while back.len() < piece.len() {
            back.extend(connection.receive(8_000).await.expect("no reset"));
        }
        assert!(back == piece, "wrong bytes near {at}");
        at += piece.len();
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connections_give_back_what_they_touched_and_go_on() {
    let options = GuestOptions {
        buffer: 16_384,
        ..GuestOptions::default()
    };
    with_guest(options, async |guest, _| {
        let mut connections = Vec::new();
        for number in 0..COUNT {
            let connection = if number % 2 == 0 {
                guest.connect(V4, ECHO).await
            } else {
                guest.connect(V6, ECHO).await
            };
            connections.push(connection.unwrap());
        }
        for connection in &connections {
            echo(connection, 16_000).await;
        }
        let before = resident_bytes();
        for round in 0..2 {
            for connection in &connections {
                echo(connection, FLOW_BUFFER + 100_000).await;
            }
            let busy = resident_bytes();
            let touched = COUNT * FLOW_BUFFER * 3 / 4;
            assert!(busy > before + touched, "round {round}: {before} {busy}");
            sleep(2 * REST_AFTER + Duration::from_secs(1)).await;
            let idle = resident_bytes();
            let allowed = before + COUNT * REST_FLOOR + NOISE;
            assert!(idle < allowed, "round {round}: {before} {busy} {idle}");
        }
        for connection in &connections {
            echo(connection, 1).await;
            connection.close();
            assert_eq!(connection.receive_all().await.unwrap(), b"");
        }
    })
    .await;
}
