//! UDP: each peer of a published port has a stream of its own, ended when it was silent for [`IDLE`].

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use agent_vm_protocol::PortProtocol;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::mux::{Flow, Mux};

/// How long a peer without a datagram either way is remembered.
const IDLE: Duration = Duration::from_secs(60);

/// Peers of one port at a time; datagrams of more are lost.
const MAX_PEERS: usize = 256;

/// How long nothing is read after that did not work.
const PAUSE: Duration = Duration::from_millis(100);

/// Someone who talks to the port.
struct Peer {
    flow: Flow,
    last: Cell<Instant>,
}

/// Serves one port for ever.
pub(super) async fn serve(socket: UdpSocket, mux: Rc<Mux>, guest_port: u16) {
    let socket = Rc::new(socket);
    let mut peers: HashMap<SocketAddr, Weak<Peer>> = HashMap::new();
    loop {
        if socket.readable().await.is_err() {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let mut scratch = mux.scratch();
        let Ok((count, address)) = socket.try_recv_from(&mut scratch) else {
            // Nothing there, or the refusal of an earlier answer.
            continue;
        };
        let known = peers.get(&address).and_then(Weak::upgrade);
        let peer = known.or_else(|| {
            peers.retain(|_, peer| peer.strong_count() > 0);
            if peers.len() >= MAX_PEERS {
                return None;
            }
            let flow = mux.open(PortProtocol::Udp, guest_port)?;
            let last = Cell::new(Instant::now());
            let peer = Rc::new(Peer { flow, last });
            peers.insert(address, Rc::downgrade(&peer));
            let answers = answer(Rc::clone(&socket), Rc::clone(&peer), address);
            mux.connections.spawn(answers);
            Some(peer)
        });
        if let Some(peer) = peer {
            peer.last.set(Instant::now());
            // Without room it is lost, as datagrams are.
            if peer.flow.room_now() >= count.max(1) {
                peer.flow.send(&scratch[..count]);
            }
        }
    }
}

/// Sends what the server says to its peer, until both are silent.
async fn answer(socket: Rc<UdpSocket>, peer: Rc<Peer>, address: SocketAddr) {
    loop {
        let silent = peer.last.get() + IDLE;
        let data = tokio::select! {
            data = peer.flow.receive() => data,
            () = tokio::time::sleep_until(silent) => {
                if peer.last.get() + IDLE <= Instant::now() {
                    return;
                }
                continue;
            }
        };
        let Ok(Some(data)) = data else {
            return;
        };
        peer.last.set(Instant::now());
        // A full socket loses it, as datagrams are lost.
        let _ = socket.try_send_to(&data, address);
        peer.flow.grant(data.len());
    }
}
