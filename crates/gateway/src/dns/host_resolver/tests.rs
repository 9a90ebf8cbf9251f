use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record};
use tokio::net::TcpListener;

use super::*;

/// What a fake server does with a question.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Answers,
    ForgesFirst,
    Truncates,
    Fails,
    Silent,
}

fn answer(query: &[u8], mood: Mood, stream: bool) -> Message {
    let mut message = Message::from_vec(query).unwrap().into_response();
    if mood == Mood::Fails {
        message.metadata.response_code = hickory_proto::op::ResponseCode::ServFail;
        return message;
    }
    if mood == Mood::Truncates && !stream {
        message.metadata.truncation = true;
        return message;
    }
    let name = message.queries[0].name().clone();
    message.add_answer(Record::from_rdata(
        name,
        30,
        RData::A(Ipv4Addr::new(192, 0, 2, 5).into()),
    ));
    message
}

/// Starts a server over UDP and TCP on the same port.
async fn server(mood: Mood) -> SocketAddr {
    // A port that is free for UDP may be taken for TCP.
    let (socket, address, listener) = loop {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        if let Ok(listener) = TcpListener::bind(address).await {
            break (socket, address, listener);
        }
    };
    tokio::spawn(async move {
        let mut buffer = [0; 2_000];
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
            if mood == Mood::Silent {
                continue;
            }
            let good = answer(&buffer[..len], mood, false);
            if mood == Mood::ForgesFirst {
                let mut forged = good.clone();
                forged.metadata.id ^= 0x5555;
                forged.answers[0].data = RData::A(Ipv4Addr::new(203, 0, 113, 1).into());
                socket
                    .send_to(&forged.to_vec().unwrap(), peer)
                    .await
                    .unwrap();
                socket.send_to(b"junk", peer).await.unwrap();
            }
            socket.send_to(&good.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let len = stream.read_u16().await.unwrap();
            let mut query = vec![0; usize::from(len)];
            stream.read_exact(&mut query).await.unwrap();
            let bytes = answer(&query, mood, true).to_vec().unwrap();
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    address
}

async fn resolve(moods: &[Mood]) -> Result<Answer, DnsFailure> {
    let mut servers = Vec::new();
    for mood in moods {
        servers.push(server(*mood).await);
    }
    let resolver = HostResolver::with_servers(servers, "");
    resolver.resolve("a.test", Family::V4).await
}

fn expected() -> Result<Answer, DnsFailure> {
    Ok(Answer {
        addresses: vec![[192, 0, 2, 5].into()],
        ttl: Duration::from_secs(30),
    })
}

#[tokio::test]
async fn takes_the_answer_of_a_server() {
    assert_eq!(resolve(&[Mood::Answers]).await, expected());
}

#[tokio::test]
async fn passes_over_forged_and_broken_replies() {
    assert_eq!(resolve(&[Mood::ForgesFirst]).await, expected());
}

#[tokio::test]
async fn asks_again_over_tcp_when_the_answer_was_cut() {
    assert_eq!(resolve(&[Mood::Truncates]).await, expected());
}

#[tokio::test]
async fn goes_on_to_the_next_server() {
    assert_eq!(resolve(&[Mood::Fails, Mood::Answers]).await, expected());
}

#[tokio::test(start_paused = true)]
async fn gives_up_in_bounded_time() {
    let started = tokio::time::Instant::now();
    assert_eq!(
        resolve(&[Mood::Silent]).await,
        Err(DnsFailure::ServerFailure)
    );
    assert!(started.elapsed() <= 2 * UDP_WAIT + Duration::from_secs(1));
}

#[tokio::test]
async fn knows_the_hosts_file_and_never_asks_for_localhost() {
    let resolver = HostResolver::with_servers(Vec::new(), "192.0.2.9 printer.test\n");
    let answer = resolver.resolve("printer.test", Family::V4).await.unwrap();
    assert_eq!(answer.addresses, [IpAddr::from([192, 0, 2, 9])]);
    for name in ["localhost", "a.localhost"] {
        let failed = resolver.resolve(name, Family::V4).await;
        assert_eq!(failed, Err(DnsFailure::NoSuchName));
    }
}
