//! Published ports end to end, natively: real clients, the launcher's side, the guest's forwarder, real servers.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::time::Duration;

use agent_vm_guest::forward::Forwarder;
use agent_vm_protocol::{ForwardReply, ForwardRequest, MAX_FORWARD_STREAMS, StreamId, encode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
/// The boot case holds it to half a second; here other tests take the processors.
const SOON: Duration = Duration::from_secs(2);

struct Rig {
    publishing: Publishing,
    news: mpsc::Receiver<PublishEvent>,
}

fn port(host_port: u16, guest_port: u16, protocol: PortProtocol) -> PublishedPort {
    PublishedPort {
        bind: "127.0.0.1".parse().unwrap(),
        host_port,
        guest_port,
        protocol,
    }
}

fn to_publish(settings: PublishSettings) -> (ToPublish, std::os::unix::net::UnixStream) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let publish = ToPublish {
        ports: bind(&settings.ports).unwrap(),
        settings,
        agents: KeyAgents::default(),
        stream: UnixStream::from_std(ours).unwrap(),
    };
    (publish, theirs)
}

/// With the guest's real forwarder on a thread.
fn rig(settings: PublishSettings) -> Rig {
    let forwarding = forwarding(&settings, &KeyAgents::default());
    let (publish, guest) = to_publish(settings);
    let forwarder = Forwarder::new(guest.into(), forwarding, Vec::new()).unwrap();
    std::thread::spawn(move || drop(forwarder.run()));
    let (publishing, news) = Publishing::start(publish).unwrap();
    Rig { publishing, news }
}

impl Rig {
    async fn opened(&mut self) -> (u16, SocketAddr) {
        match timeout(PATIENCE, self.news.recv()).await.unwrap().unwrap() {
            PublishEvent::Open { guest_port, at, .. } => (guest_port, at),
            other => panic!("{other:?}"),
        }
    }
}

/// A rig with one published port and its server.
async fn one() -> (Rig, TcpListener, SocketAddr) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let guest_port = server.local_addr().unwrap().port();
    let mut rig = rig(PublishSettings {
        ports: vec![port(0, guest_port, PortProtocol::Tcp)],
        auto: None,
    });
    let (told, at) = rig.opened().await;
    assert_eq!(told, guest_port);
    (rig, server, at)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async {
        timeout(Duration::from_secs(60), test)
            .await
            .expect("in time")
    };
    LocalSet::new().block_on(&runtime, limited);
}

#[test]
fn a_client_half_closes_and_gets_its_answer() {
    run(async {
        let (_rig, server, at) = one().await;
        let mut client = TcpStream::connect(at).await.unwrap();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let (mut peer, _) = server.accept().await.unwrap();
        let mut heard = String::new();
        peer.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "question");
        peer.write_all(b"answer").await.unwrap();
        drop(peer);
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "answer");
    });
}

#[test]
fn a_reset_of_either_side_is_one_on_the_other_and_comes_after_what_was_said() {
    run(async {
        let (_rig, server, at) = one().await;
        let client = TcpStream::connect(at).await.unwrap();
        let (mut peer, _) = server.accept().await.unwrap();
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
        let error = peer.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

        let mut client = TcpStream::connect(at).await.unwrap();
        let (mut peer, _) = server.accept().await.unwrap();
        peer.write_all(b"last words").await.unwrap();
        let mut heard = [0; 10];
        client.read_exact(&mut heard).await.unwrap();
        rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
        drop(peer);
        let error = client.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

        drop(server);
        let mut client = TcpStream::connect(at).await.unwrap();
        let error = client.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn megabytes_pass_both_ways_at_once_beside_a_client_that_does_not_read() {
    run(async {
        let (_rig, server, at) = one().await;
        let _stalled = TcpStream::connect(at).await.unwrap();
        let (mut never_read, _) = server.accept().await.unwrap();
        let stall = tokio::task::spawn_local(async move {
            let _ = never_read.write_all(&vec![1; 64 << 20]).await;
        });
        let mut client = TcpStream::connect(at).await.unwrap();
        let (mut peer, _) = server.accept().await.unwrap();
        let sent: Vec<u8> = (0..8_u32 << 20).map(|i| (i ^ (i >> 9)) as u8).collect();
        let echo = tokio::task::spawn_local(async move {
            let (mut read, mut write) = peer.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap()
        });
        let (mut read, mut write) = client.split();
        let mut back = Vec::new();
        let (wrote, read) = tokio::join!(
            async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await
            },
            read.read_to_end(&mut back)
        );
        wrote.unwrap();
        assert_eq!(read.unwrap(), sent.len());
        assert!(back == sent, "the bytes came back changed");
        assert_eq!(echo.await.unwrap(), sent.len() as u64);
        assert!(!stall.is_finished());
        stall.abort();
    });
}

#[test]
fn a_thousand_connections_live_side_by_side_and_too_many_are_reset() {
    run(async {
        // Client, both ends of the launcher and the server are in one process here.
        let limit = getrlimit(Resource::Nofile);
        let all = Rlimit {
            current: limit.maximum,
            ..limit
        };
        setrlimit(Resource::Nofile, all).unwrap();
        let (rig, server, at) = one().await;
        let mut pairs = Vec::new();
        for _ in 0..MAX_FORWARD_STREAMS {
            let client = TcpStream::connect(at).await.unwrap();
            pairs.push((client, server.accept().await.unwrap().0));
        }
        let mut more = TcpStream::connect(at).await.unwrap();
        let error = more.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        for (number, (client, peer)) in pairs.iter_mut().enumerate() {
            let said = number.to_le_bytes();
            client.write_all(&said).await.unwrap();
            let mut heard = [0; 8];
            peer.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, said);
        }
        drop(pairs);
        // All are given back.
        let begun = tokio::time::Instant::now();
        while rig.publishing.mux.open_flows() > 0 {
            assert!(begun.elapsed() < PATIENCE, "flows leak");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn each_udp_client_gets_its_own_answers() {
    run(async {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let guest_port = server.local_addr().unwrap().port();
        let mut rig = rig(PublishSettings {
            ports: vec![port(0, guest_port, PortProtocol::Udp)],
            auto: None,
        });
        let (_, at) = rig.opened().await;
        let mut clients = Vec::new();
        for name in [&b"one"[..], b"two"] {
            let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            client.connect(at).await.unwrap();
            client.send(name).await.unwrap();
            clients.push((client, name));
        }
        let mut buffer = [0; 64];
        for _ in 0..2 {
            let (count, peer) = server.recv_from(&mut buffer).await.unwrap();
            server.send_to(&buffer[..count], peer).await.unwrap();
        }
        for (client, name) in clients {
            let count = client.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..count], name);
        }
    });
}

/// The forwarder sees every listener of its machine, here those of all tests: so this one has a network to itself.
#[test]
#[allow(clippy::disallowed_methods, reason = "tests may start programs")]
fn a_listener_is_mirrored_and_taken_away_with_it() {
    let script =
        "ip link set lo up && exec \"$0\" --exact publish::tests::mirrored_listener --ignored";
    let output = std::process::Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "the half of the test above that runs in a network of its own"]
fn mirrored_listener() {
    run(async {
        let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let excluded = held.local_addr().unwrap().port();
        let mut rig = rig(PublishSettings {
            ports: Vec::new(),
            auto: Some(AutoPublish {
                except: [excluded].into(),
            }),
        });
        // Guest and host are one machine here: the port itself is taken, so another is given and told.
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let guest_port = server.local_addr().unwrap().port();
        let begun = tokio::time::Instant::now();
        let at = loop {
            let (told, at) = rig.opened().await;
            assert_ne!(told, excluded);
            if told == guest_port {
                break at;
            }
        };
        assert!(begun.elapsed() < SOON);
        assert!(at.ip().is_loopback() && at.port() != guest_port);
        let mut client = TcpStream::connect(at).await.unwrap();
        let (mut peer, _) = server.accept().await.unwrap();
        drop(server);
        let begun = tokio::time::Instant::now();
        while TcpStream::connect(at).await.is_ok() {
            assert!(begun.elapsed() < SOON, "still there");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The connection goes on without its listener.
        peer.write_all(b"on").await.unwrap();
        client.read_exact(&mut [0; 2]).await.unwrap();
    });
}

/// The guest's end of the frame stream, for what the real forwarder does not do.
fn hostile() -> (Rig, std::os::unix::net::UnixStream) {
    let (publish, guest) = to_publish(PublishSettings {
        ports: vec![port(0, 80, PortProtocol::Tcp)],
        auto: Some(AutoPublish::default()),
    });
    let (publishing, news) = Publishing::start(publish).unwrap();
    (Rig { publishing, news }, guest)
}

fn say(guest: &std::os::unix::net::UnixStream, replies: &[ForwardReply]) {
    let mut wire = Vec::new();
    for reply in replies {
        encode(reply, &mut wire).unwrap();
    }
    std::io::Write::write_all(&mut &*guest, &wire).unwrap();
}

#[test]
fn a_guest_gets_at_most_64_ports_none_privileged_and_no_address_but_loopback() {
    run(async {
        let (mut rig, guest) = hostile();
        rig.opened().await;
        let ports = (1..=200).collect();
        say(&guest, &[ForwardReply::Listening { ports }]);
        for _ in 0..MAX_MIRRORED {
            let (_, at) = rig.opened().await;
            assert!(at.ip().is_loopback() && at.port() >= 1024, "{at}");
        }
        let last = rig.news.recv().await.unwrap();
        assert!(matches!(last, PublishEvent::TooMany { .. }), "{last:?}");
        // It cannot make news without end either: ports are told once.
        for _ in 0..3 {
            say(&guest, &[ForwardReply::Listening { ports: Vec::new() }]);
            tokio::time::sleep(Duration::from_millis(20)).await;
            say(&guest, &[ForwardReply::Listening { ports: vec![1, 2] }]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(rig.news.try_recv().is_err());
    });
}

#[test]
fn a_guest_that_breaks_the_protocol_loses_its_ports_and_nothing_else() {
    let id = StreamId(0);
    let data = |size| ForwardReply::Data {
        id,
        data: vec![0; size],
    };
    for breach in [
        // Nothing in it: that would cost memory without using the window up.
        vec![data(0)],
        vec![ForwardReply::Eof { id }, data(1)],
    ] {
        run(async {
            let (mut rig, guest) = hostile();
            let (_, at) = rig.opened().await;
            let _client = TcpStream::connect(at).await.unwrap();
            while rig.publishing.mux.open_flows() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            say(&guest, &breach);
            assert_eq!(rig.news.recv().await, Some(PublishEvent::Lost));
            assert_eq!(rig.publishing.mux.open_flows(), 0);
        });
    }
}

#[test]
fn messages_for_streams_that_are_over_are_ignored() {
    run(async {
        let (mut rig, guest) = hostile();
        let (_, at) = rig.opened().await;
        let id = StreamId(77);
        let data = vec![0; 65_536];
        say(
            &guest,
            &[
                ForwardReply::Data { id, data },
                ForwardReply::Eof { id },
                ForwardReply::Reset { id },
                ForwardReply::Credit { id, bytes: 5 },
            ],
        );
        let _client = TcpStream::connect(at).await.unwrap();
        let mut decoder = agent_vm_protocol::Decoder::<ForwardRequest>::new();
        guest.set_nonblocking(true).unwrap();
        let mut stream = UnixStream::from_std(guest).unwrap();
        let mut buffer = [0; 64];
        let count = stream.read(&mut buffer).await.unwrap();
        let first = decoder.next(&mut &buffer[..count]).unwrap();
        assert!(matches!(first, Some(ForwardRequest::Open { port: 80, .. })));
        assert!(rig.news.try_recv().is_err());
    });
}
