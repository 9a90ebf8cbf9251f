//! A name server for tests, over UDP and TCP on one port of the loopback.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    Datagram,
    Stream,
}

/// Something the server does with a question.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Say(Message),
    SayBytes(Vec<u8>),
    /// From another port than the one that was asked.
    SayFromElsewhere(Message),
    Wait(Duration),
}

type Zone = dyn Fn(&Message, Via) -> Vec<Act> + Send + Sync;

/// A running server; it ends when it is dropped.
pub(super) struct TestServer {
    pub(super) address: SocketAddr,
    asked: Asked,
    _tasks: JoinSet<()>,
}

/// Questions, how they came, and from which port.
type Asked = Arc<Mutex<Vec<(Message, Via, u16)>>>;

impl TestServer {
    pub(super) async fn start(
        zone: impl Fn(&Message, Via) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        // A port that is free for UDP may be taken for TCP.
        let (socket, listener) = loop {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
                break (socket, listener);
            }
        };
        let address = socket.local_addr().unwrap();
        let zone: Arc<Zone> = Arc::new(zone);
        let asked = Asked::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(datagrams(
            Arc::new(socket),
            Arc::clone(&zone),
            Arc::clone(&asked),
        ));
        tasks.spawn(streams(listener, zone, Arc::clone(&asked)));
        Self {
            address,
            asked,
            _tasks: tasks,
        }
    }

    /// How often it was asked.
    pub(super) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(super) fn asked(&self) -> Vec<(Message, Via)> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .map(|(query, via, _)| (query.clone(), *via))
            .collect()
    }

    /// Ports it was asked from.
    pub(super) fn peers(&self) -> Vec<u16> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .map(|(_, _, port)| *port)
            .collect()
    }
}

async fn datagrams(socket: Arc<UdpSocket>, zone: Arc<Zone>, asked: Asked) {
    let mut answers = JoinSet::new();
    let mut buffer = [0; 2_000];
    loop {
        let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
        let query = Message::from_vec(&buffer[..len]).unwrap();
        let acts = zone(&query, Via::Datagram);
        asked
            .lock()
            .unwrap()
            .push((query, Via::Datagram, peer.port()));
        let socket = Arc::clone(&socket);
        answers.spawn(async move {
            for act in acts {
                let (from, bytes) = match act {
                    Act::Wait(time) => {
                        tokio::time::sleep(time).await;
                        continue;
                    }
                    Act::Say(message) => (Arc::clone(&socket), message.to_vec().unwrap()),
                    Act::SayBytes(bytes) => (Arc::clone(&socket), bytes),
                    Act::SayFromElsewhere(message) => {
                        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                        (Arc::new(other), message.to_vec().unwrap())
                    }
                };
                let _gone = from.send_to(&bytes, peer).await;
            }
        });
    }
}

async fn streams(listener: TcpListener, zone: Arc<Zone>, asked: Asked) {
    loop {
        let (mut stream, peer) = listener.accept().await.unwrap();
        let len = stream.read_u16().await.unwrap();
        let mut query = vec![0; usize::from(len)];
        stream.read_exact(&mut query).await.unwrap();
        let query = Message::from_vec(&query).unwrap();
        let acts = zone(&query, Via::Stream);
        asked
            .lock()
            .unwrap()
            .push((query, Via::Stream, peer.port()));
        for act in acts {
            let bytes = match act {
                Act::Say(message) | Act::SayFromElsewhere(message) => message.to_vec().unwrap(),
                Act::SayBytes(bytes) => bytes,
                Act::Wait(_) => continue,
            };
            stream.write_u16(bytes.len() as u16).await.unwrap();
            let _gone = stream.write_all(&bytes).await;
        }
    }
}

/// A response to `query` of a server that looks further.
pub(super) fn response(query: &Message) -> Message {
    let mut message = query.clone().into_response();
    message.metadata.recursion_available = true;
    message
}

/// A response with these records.
pub(super) fn answer(query: &Message, records: impl IntoIterator<Item = Record>) -> Message {
    let mut message = response(query);
    message.add_answers(records);
    message
}

pub(super) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub(super) fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

/// An address of the documentation's network.
pub(super) fn a(last: u8) -> RData {
    RData::A(std::net::Ipv4Addr::new(192, 0, 2, last).into())
}

pub(super) fn alias(target: &str) -> RData {
    RData::CNAME(hickory_proto::rr::rdata::CNAME(name(target)))
}

/// The SOA of `test.`, with the time for negative answers.
pub(super) fn soa(ttl: u32, minimum: u32) -> Record {
    let (server, mailbox) = (name("ns.test."), name("admin.test."));
    let data = hickory_proto::rr::rdata::SOA::new(server, mailbox, 1, 2, 3, 4, minimum);
    record("test.", ttl, RData::SOA(data))
}
