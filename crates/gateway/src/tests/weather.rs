//! Bad networks: loss, reordering, duplicates, tiny segments, each seeded, in virtual time. Every byte is checked, and how
//! fast it came is not below the table here. Where much is lost it is slow: smoltcp waits a second before it sends again,
//! and twice as long each time after that; the real link loses nothing.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::connections::{V4, V6};
use super::guest::GuestOptions;
use super::handlers::{SINK, SOURCE};
use super::transfers::{download, upload};
use super::with_guest;

/// Bytes in each direction.
const LEN: usize = 400_000;

struct Weather {
    name: &'static str,
    options: GuestOptions,
    /// At least so many KiB/s of virtual time to and from the guest.
    down: u64,
    up: u64,
}

fn calm() -> GuestOptions {
    GuestOptions {
        mtu: 1_500,
        delay: Duration::from_millis(10),
        ..GuestOptions::default()
    }
}

fn table() -> Vec<Weather> {
    let weather = |name, options, down, up| Weather {
        name,
        options,
        down,
        up,
    };
    vec![
        weather("calm", calm(), 3000, 250),
        weather(
            "loss 1 %",
            GuestOptions {
                loss_per_mille: 10,
                ..calm()
            },
            80,
            1500,
        ),
        weather(
            "loss 5 %",
            GuestOptions {
                loss_per_mille: 50,
                ..calm()
            },
            18,
            30,
        ),
        weather(
            "late 5 %",
            GuestOptions {
                late_per_mille: 50,
                ..calm()
            },
            80,
            200,
        ),
        weather(
            "twice 10 %",
            GuestOptions {
                twice_per_mille: 100,
                ..calm()
            },
            200,
            2000,
        ),
        weather(
            "tiny segments",
            GuestOptions { mtu: 296, ..calm() },
            3000,
            3000,
        ),
        weather(
            "everything",
            GuestOptions {
                loss_per_mille: 20,
                late_per_mille: 50,
                twice_per_mille: 50,
                mtu: 1_280,
                ..calm()
            },
            35,
            18,
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn throughput_in_bad_weather_is_not_below_the_table() {
    let mut found = String::new();
    let mut as_told = true;
    for Weather {
        name,
        options,
        down,
        up,
    } in table()
    {
        let mut speeds = [0; 2];
        let measured = &mut speeds;
        // IPv6 has no smaller ones.
        let other: IpAddr = if options.mtu < 1_280 {
            V4.into()
        } else {
            V6.into()
        };
        with_guest(options, async |guest, _handler| {
            let began = Instant::now();
            let connection = guest.connect(V4, SOURCE).await.expect("it connects");
            download(&connection, LEN, None).await;
            let half = Instant::now();
            let connection = guest.connect(other, SINK).await.expect("it connects");
            upload(&connection, LEN).await;
            let speed = |time: Duration| (LEN as f64 / 1024.0 / time.as_secs_f64()) as u64;
            *measured = [speed(half - began), speed(half.elapsed())];
        })
        .await;
        for (speed, told) in speeds.into_iter().zip([down, up]) {
            as_told &= speed >= told;
        }
        let _infallible = writeln!(found, "{name:>15} {:>6} {:>6}", speeds[0], speeds[1]);
    }
    assert!(as_told, "KiB/s down and up:\n{found}");
}
