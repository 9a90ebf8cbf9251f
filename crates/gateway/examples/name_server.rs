//! `name_server ADDRESS:PORT`: a name server over UDP and TCP with a record of every kind, friendly and not, below
//! `corpus.test`; for `cargo xtask dig`. Prints a line when it listens, and one for each question.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example talks to a script"
)]

use std::collections::HashMap;
use std::sync::Arc;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::svcb::{
    Alpn, EchConfigList, IpHint, SVCB, SvcParamKey, SvcParamValue,
};
use hickory_proto::rr::rdata::{A, AAAA, CAA, CNAME, HTTPS, MX, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

type Zone = HashMap<Name, Vec<RData>>;

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name of the corpus")
}

fn v4(text: &str) -> RData {
    RData::A(A(text.parse().expect("an IPv4 address of the corpus")))
}

fn v6(text: &str) -> RData {
    RData::AAAA(AAAA(text.parse().expect("an IPv6 address of the corpus")))
}

fn alias(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

/// A service record with everything that may have to be taken out of it.
fn service() -> RData {
    let protocols = ["h3", "h2"].map(ToString::to_string).to_vec();
    let v4_hints = ["93.184.215.14", "127.0.0.1"].map(|text| A(text.parse().expect("a hint")));
    let v6_hints = ["2606:4700::1111", "::ffff:10.0.0.1"];
    let v6_hints = v6_hints.map(|text| AAAA(text.parse().expect("a hint")));
    let params = vec![
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(protocols))),
        (SvcParamKey::Port, SvcParamValue::Port(443)),
        (
            SvcParamKey::Ipv4Hint,
            SvcParamValue::Ipv4Hint(IpHint(v4_hints.to_vec())),
        ),
        (
            SvcParamKey::EchConfigList,
            SvcParamValue::EchConfigList(EchConfigList(ech())),
        ),
        (
            SvcParamKey::Ipv6Hint,
            SvcParamValue::Ipv6Hint(IpHint(v6_hints.to_vec())),
        ),
    ];
    RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), params)))
}

/// A list with one configuration of a version nobody knows, which `dig` can still print.
fn ech() -> Vec<u8> {
    vec![0, 8, 0xfe, 0xff, 0, 4, 1, 2, 3, 4]
}

fn zone() -> Zone {
    let mail = MX::new(10, name("a.corpus.test."));
    let sip = SRV::new(1, 2, 5_060, name("a.corpus.test."));
    let many = (0..60).map(|n| v4(&format!("93.184.216.{n}"))).collect();
    let text = TXT::new(vec!["v=spf1 -all".to_owned(), "x".repeat(255)]);
    let issuer = CAA::new_issue(false, Some(name("ca.test.")), Vec::new());
    let mut records = vec![
        (
            "a.corpus.test.",
            vec![v4("93.184.215.14"), v6("2606:4700::1111")],
        ),
        ("mx.corpus.test.", vec![RData::MX(mail)]),
        ("txt.corpus.test.", vec![RData::TXT(text)]),
        ("_sip._tcp.corpus.test.", vec![RData::SRV(sip)]),
        (
            "ns.corpus.test.",
            vec![RData::NS(NS(name("a.corpus.test.")))],
        ),
        ("caa.corpus.test.", vec![RData::CAA(issuer)]),
        (
            "14.215.184.93.in-addr.arpa.",
            vec![RData::PTR(PTR(name("a.corpus.test.")))],
        ),
        (
            "1.0.0.10.in-addr.arpa.",
            vec![RData::PTR(PTR(name("secret.lan.")))],
        ),
        ("alias.corpus.test.", vec![alias("second.corpus.test.")]),
        ("second.corpus.test.", vec![alias("a.corpus.test.")]),
        ("loop.corpus.test.", vec![alias("pool.corpus.test.")]),
        ("pool.corpus.test.", vec![alias("loop.corpus.test.")]),
        ("inside.corpus.test.", vec![alias("router.lan.")]),
        ("router.lan.", vec![v4("192.168.0.1")]),
        (
            "rebind.corpus.test.",
            vec![v4("127.0.0.1"), v4("169.254.169.254"), v4("93.184.215.14")],
        ),
        ("service.corpus.test.", vec![service()]),
        ("api.corpus.test.", vec![service(), v4("93.184.215.14")]),
        ("many.corpus.test.", many),
    ];
    let encodings = [
        "::ffff:127.0.0.1",
        "64:ff9b::a00:1",
        "2002:7f00:1::1",
        "::1",
        "fd00::1",
    ];
    records.push(("rebind6.corpus.test.", encodings.map(v6).to_vec()));
    let records = records.into_iter();
    records.map(|(owner, data)| (name(owner), data)).collect()
}

fn answer(zone: &Zone, query: &Message) -> Message {
    let mut message = query.clone().into_response();
    message.metadata.recursion_available = true;
    let Some(asked) = query.queries.first() else {
        return message;
    };
    println!("asked {} {}", asked.name(), asked.query_type());
    let mut owner = asked.name().clone();
    let mut known = zone.get(&owner);
    if known.is_none() {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    for _ in 0..4 {
        let mut next = None;
        for data in known.into_iter().flatten() {
            if let RData::CNAME(target) = data {
                next = Some(target.0.clone());
            } else if data.record_type() != asked.query_type() {
                continue;
            }
            message.add_answer(Record::from_rdata(owner.clone(), 300, data.clone()));
        }
        let Some(target) = next else { break };
        known = zone.get(&target);
        owner = target;
    }
    let data = |record: &Record| record.record_type() != RecordType::CNAME;
    if !message.answers.iter().any(data) {
        let soa = SOA::new(name("ns.test."), name("admin.test."), 1, 2, 3, 4, 60);
        message.add_authority(Record::from_rdata(
            name("corpus.test."),
            600,
            RData::SOA(soa),
        ));
    }
    message
}

async fn datagrams(socket: UdpSocket, zone: Arc<Zone>) -> std::io::Result<()> {
    let mut buffer = [0; 2_000];
    loop {
        let (len, peer) = socket.recv_from(&mut buffer).await?;
        let Ok(query) = Message::from_vec(&buffer[..len]) else {
            continue;
        };
        let message = answer(&zone, &query);
        let room = usize::from(query.max_payload());
        let bytes = message.to_vec().unwrap_or_default();
        let bytes = match bytes.len() <= room {
            true => bytes,
            false => message.truncate().to_vec().unwrap_or_default(),
        };
        socket.send_to(&bytes, peer).await?;
    }
}

async fn streams(listener: TcpListener, zone: Arc<Zone>) -> std::io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let len = stream.read_u16().await?;
        let mut query = vec![0; usize::from(len)];
        stream.read_exact(&mut query).await?;
        let Ok(query) = Message::from_vec(&query) else {
            continue;
        };
        let bytes = answer(&zone, &query).to_vec().unwrap_or_default();
        stream
            .write_u16(u16::try_from(bytes.len()).unwrap_or(0))
            .await?;
        stream.write_all(&bytes).await?;
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("no address")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let zone = Arc::new(zone());
        let socket = UdpSocket::bind(&address).await?;
        let listener = TcpListener::bind(&address).await?;
        println!("listening on {address}");
        tokio::try_join!(
            datagrams(socket, Arc::clone(&zone)),
            streams(listener, zone)
        )?;
        Ok(())
    })
}
