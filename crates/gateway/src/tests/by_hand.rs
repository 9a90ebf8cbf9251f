//! A guest whose segments are written by hand: what smoltcp's own state machine would not send.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::net::RecvFlags;
use smoltcp::wire::{TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};
use tokio::time::{Instant, sleep};

use super::handlers::{
    LATE, LATE_AFTER_BYTES, LATE_PAUSE, SHUTS_FIRST, STUCK, TestHandler, pattern,
};
use super::hostile::{plain, segment};
use super::{link, with_link};
use crate::config::{FLOW_BUFFER, GatewayConfig};
use crate::gateway::Gateway;
use crate::link::{IP_OFFSET, RECEIVE_BUFFER};
use crate::switch::Start;
use crate::virtio_header::VNET_HEADER_LEN;

/// Bytes of the guest's headers before TCP's.
const TCP_AT: usize = IP_OFFSET + 20;

/// A connection of such a guest.
struct Hand {
    link: OwnedFd,
    port: u16,
    /// The next byte it expects.
    expected: TcpSeqNumber,
}

/// A segment to the guest.
#[derive(Debug)]
struct Heard {
    sequence: TcpSeqNumber,
    fin: bool,
    payload: Vec<u8>,
}

impl Hand {
    async fn connect(link: OwnedFd, port: u16) -> Self {
        let mut hand = Self {
            link,
            port,
            expected: TcpSeqNumber(0),
        };
        hand.send_raw(&plain(5_000, TcpControl::Syn));
        let answer = hand.hear(Duration::from_secs(1)).await.expect("a SYN-ACK");
        hand.expected = answer.sequence + 1;
        hand.acknowledge();
        hand
    }

    /// Acknowledges what came before what is expected.
    fn acknowledge(&self) {
        self.send_raw(&TcpRepr {
            seq_number: TcpSeqNumber(1_001),
            ack_number: Some(self.expected),
            ..plain(5_000, TcpControl::None)
        });
    }

    fn send_raw(&self, repr: &TcpRepr<'_>) {
        let mut message = vec![0; VNET_HEADER_LEN];
        message.extend_from_slice(&segment(self.port, repr));
        rustix::io::write(&self.link, &message).unwrap();
    }

    /// The next segment, if one comes in time.
    async fn hear(&self, limit: Duration) -> Option<Heard> {
        let end = Instant::now() + limit;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        while Instant::now() < end {
            let flags = RecvFlags::DONTWAIT;
            if let Ok((len, _)) = rustix::net::recv(&self.link, &mut buffer[..], flags) {
                let tcp = TcpPacket::new_unchecked(&buffer[TCP_AT..len]);
                return Some(Heard {
                    sequence: tcp.seq_number(),
                    fin: tcp.fin(),
                    payload: tcp.payload().to_vec(),
                });
            }
            sleep(Duration::from_millis(1)).await;
        }
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_fin_is_sent_again_soon_whatever_acknowledgement_is_repeated() {
    with_link(async |link, _| {
        let mut hand = Hand::connect(link, SHUTS_FIRST).await;
        let mut all = Vec::new();
        loop {
            let heard = hand.hear(Duration::from_secs(1)).await.expect("a FIN");
            all.extend_from_slice(&heard.payload);
            if heard.fin {
                break;
            }
        }
        assert_eq!(all, b"bye");
        // The data came, the FIN did not.
        hand.expected += all.len();
        for _ in 0..5 {
            hand.acknowledge();
            sleep(Duration::from_millis(10)).await;
        }
        let again = hand
            .hear(Duration::from_secs(3))
            .await
            .expect("it is sent again");
        assert!(again.fin, "{again:?}");
        assert_eq!(again.sequence + again.payload.len(), hand.expected);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_repeated_syn_does_not_change_the_window_of_an_idle_connection() {
    // In units of 16 bytes, as the SYN said; the window of a SYN itself is in bytes.
    const WINDOW: u16 = 100;
    with_link(async |link, _| {
        let hand = Hand::connect(link, LATE).await;
        let data = pattern(0, LATE_AFTER_BYTES);
        for (number, payload) in data.chunks(1_000).enumerate() {
            hand.send_raw(&TcpRepr {
                seq_number: TcpSeqNumber(1_001) + number * 1_000,
                ack_number: Some(hand.expected),
                window_len: WINDOW,
                payload,
                ..plain(5_000, TcpControl::Psh)
            });
            sleep(Duration::from_millis(1)).await;
        }
        hand.send_raw(&plain(5_000, TcpControl::Syn));
        // Its memory is exchanged in the pause.
        let end = Instant::now() + LATE_PAUSE + Duration::from_secs(2);
        let mut sent = 0;
        while let Some(heard) = hand.hear(end - Instant::now()).await {
            sent = sent.max(heard.sequence + heard.payload.len() - hand.expected);
        }
        assert!(sent > 0 && sent <= usize::from(WINDOW) * 16, "{sent}");
    })
    .await;
}

#[tokio::test]
async fn bytes_beyond_the_buffer_are_not_taken() {
    let (near, far) = link();
    rustix::io::ioctl_fionbio(&far, true).unwrap();
    let handler = Rc::new(TestHandler::default());
    let gateway = Gateway::new(
        GatewayConfig::default(),
        near,
        Rc::clone(&handler) as Rc<dyn crate::FlowHandler>,
        handler,
    )
    .unwrap();
    let switch = gateway.switch();
    let mut switch = switch.borrow_mut();
    let message = |repr: &TcpRepr<'_>| {
        let mut message = vec![0; VNET_HEADER_LEN];
        message.extend_from_slice(&segment(STUCK, repr));
        message
    };
    switch.message(&message(&plain(5_000, TcpControl::Syn)));
    let Some(Start::Open(ticket, _)) = switch.take_starts().pop() else {
        panic!("it asks for the connection");
    };
    let mut stream = switch.accept(ticket).unwrap();
    switch.serve_flows();
    let mut buffer = vec![0; RECEIVE_BUFFER];
    let (len, _) = rustix::net::recv(&far, &mut buffer[..], RecvFlags::DONTWAIT).unwrap();
    let expected = TcpPacket::new_unchecked(&buffer[TCP_AT..len]).seq_number() + 1;
    // All before the gateway has said how much it takes.
    let data = [0x5a; 60_000];
    for number in 0..FLOW_BUFFER / data.len() + 8 {
        switch.message(&message(&TcpRepr {
            seq_number: TcpSeqNumber(1_001) + number * data.len(),
            ack_number: Some(expected),
            payload: &data,
            ..plain(5_000, TcpControl::Psh)
        }));
    }
    let mut taken = 0;
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Ok(len)) = stream.poll_read_with(&mut cx, |bytes| Ok(bytes.len())) {
        taken += len;
    }
    assert!(taken > FLOW_BUFFER / 2 && taken <= FLOW_BUFFER, "{taken}");
}
