//! The link as a stream of frames without virtio headers. Threads stand between it and the guest, so time is real.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::connections::V4;
use super::guest::GuestOptions;
use super::handlers::{SINK, SOURCE};
use super::transfers::{download, upload};
use super::{link, with_guest_on};
use crate::config::{GatewayConfig, LinkAddresses};
use crate::link::{ETHERNET_HEADER_LEN, RECEIVE_BUFFER};
use crate::virtio_header::VNET_HEADER_LEN;

/// What the far end of a stream does: takes off and puts on the virtio header, which says nothing.
struct Bridge {
    threads: Vec<JoinHandle<()>>,
    largest: Arc<AtomicUsize>,
}

impl Bridge {
    /// Gives the gateway's end and the guest's as well.
    fn start() -> (Self, (OwnedFd, OwnedFd)) {
        let (near, far) = link();
        let (gateway, stream) = UnixStream::pair().unwrap();
        let largest = Arc::new(AtomicUsize::new(0));
        let (mut out, from) = (stream.try_clone().unwrap(), near.try_clone().unwrap());
        let outwards = std::thread::spawn(move || {
            let mut message = vec![0; RECEIVE_BUFFER];
            while let Ok(len @ VNET_HEADER_LEN..) = rustix::io::read(&from, &mut message[..]) {
                let frame = &message[VNET_HEADER_LEN..len];
                let length = (frame.len() as u32).to_be_bytes();
                if out.write_all(&[&length, frame].concat()).is_err() {
                    break;
                }
            }
        });
        let (mut stream, seen) = (stream, Arc::clone(&largest));
        let inwards = std::thread::spawn(move || {
            let mut length = [0; 4];
            while stream.read_exact(&mut length).is_ok() {
                let len = u32::from_be_bytes(length) as usize;
                seen.fetch_max(len, Ordering::Relaxed);
                let mut message = vec![0; VNET_HEADER_LEN + len];
                message[BUFFERS_AT] = 1;
                stream.read_exact(&mut message[VNET_HEADER_LEN..]).unwrap();
                if rustix::io::write(&near, &message).is_err() {
                    break;
                }
            }
        });
        let bridge = Self {
            threads: vec![outwards, inwards],
            largest,
        };
        (bridge, (gateway.into(), far))
    }

    /// The longest frame that went to the guest, once both ends are closed.
    fn end(self) -> usize {
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.largest.load(Ordering::Relaxed)
    }
}

const MIB: usize = 1 << 20;

/// Where the virtio header says how many buffers a frame is in.
const BUFFERS_AT: usize = 10;

async fn longest_frame_of_transfers(large_frames: bool) -> usize {
    let (bridge, ends) = Bridge::start();
    let config = GatewayConfig {
        mtu: 1_500,
        large_frames,
        ..GatewayConfig::default()
    };
    let options = GuestOptions {
        mtu: if large_frames { 65_520 } else { 1_500 },
        ..GuestOptions::default()
    };
    // The guest verifies every checksum.
    with_guest_on(config, ends, options, async |guest, _| {
        let down = guest.connect(V4, SOURCE).await.unwrap();
        let up = guest.connect(V4, SINK).await.unwrap();
        tokio::join!(download(&down, 4 * MIB, None), upload(&up, 4 * MIB));
    })
    .await;
    bridge.end()
}

#[tokio::test]
async fn frames_of_a_stream_are_finished_and_no_larger_than_the_mtu() {
    let longest = longest_frame_of_transfers(false).await;
    assert_eq!(longest, 1_500 + ETHERNET_HEADER_LEN);
}

#[tokio::test]
async fn a_stream_that_takes_large_frames_gets_them() {
    let longest = longest_frame_of_transfers(true).await;
    assert!(longest > 15_000, "{longest}");
}

#[tokio::test(start_paused = true)]
async fn ports_of_the_gateway_are_asked_of_the_handler_only_where_they_are_offered() {
    let gateway = LinkAddresses::default().gateway_v4;
    for offered in [false, true] {
        let config = GatewayConfig {
            gateway_ports_offered: offered,
            ..GatewayConfig::default()
        };
        with_guest_on(config, link(), GuestOptions::default(), async |guest, _| {
            assert_eq!(guest.connect(gateway, SINK).await.is_some(), offered);
        })
        .await;
    }
}
