//! `load CASE PROTOCOL SECONDS ADDRESS AUTHORITY CA TOKEN`: a client of the upstream at ADDRESS or behind it, over TLS for
//! `localhost` with the authority in the file CA, speaking `http1` or `http2`; AUTHORITY is asked for by CONNECT first, or
//! `-`. Prints one JSON object.
//!
//! Cases: `one` and `sixteen` requests at a time on connections that stay (HTTP/1.1 one each, HTTP/2 one for all), `connect`
//! with a connection of its own for each request and a whole handshake, `events` four at a time, `down` and `up` one at a time.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::payload::{now_ns, take_events};
use crate::{HOST, tls};

mod http1;
mod http2;

/// Connections that are made at the same time.
const DIALLERS: usize = 4;
/// Streams of events at the same time.
const LISTENERS: usize = 4;
/// Bytes of one download or upload.
const BULK: usize = 64 * 1024 * 1024;

/// Where to, and as whom.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    authority: Option<String>,
    tls: TlsConnector,
    token: String,
    http2: bool,
}

/// A connection, or a share in one.
enum Client {
    Http1(Box<http1::Client>),
    Http2(http2::Client),
}

/// What was seen of events, in nanoseconds.
#[derive(Default)]
struct Seen {
    /// From the request to the first event.
    first: Vec<u64>,
    /// How old each was.
    ages: Vec<u64>,
}

impl Seen {
    /// Takes whole events out of what was received of the answer to a request of `begun`; gives how many. `first` says
    /// that none came before.
    fn take_events(&mut self, received: &mut Vec<u8>, begun: Instant, first: bool) -> usize {
        let told = take_events(received);
        if first && !told.is_empty() {
            self.first.push(begun.elapsed().as_nanos() as u64);
        }
        let now = now_ns();
        let ages = told.iter().map(|told| now.saturating_sub(*told));
        self.ages.extend(ages);
        told.len()
    }
}

impl Target {
    /// `words` are the last four of the command line.
    pub(crate) fn new(protocol: &str, words: &[&str]) -> Result<Self> {
        let [address, authority, ca, token] = *words else {
            bail!("a target has four words");
        };
        let http2 = protocol == "http2";
        let mut config = tls::client(Path::new(ca))?;
        config.resumption = rustls::client::Resumption::disabled();
        let name: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![name.to_vec()];
        Ok(Self {
            address: address.parse()?,
            authority: (authority != "-").then(|| authority.to_owned()),
            tls: TlsConnector::from(Arc::new(config)),
            token: token.to_owned(),
            http2,
        })
    }

    async fn connect(&self) -> Result<Client> {
        let stream = self.connect_tls().await?;
        let host = self.authority.as_deref().unwrap_or(HOST);
        if !self.http2 {
            let client = http1::Client::new(stream, host, &self.token);
            return Ok(Client::Http1(Box::new(client)));
        }
        ensure!(
            stream.get_ref().1.alpn_protocol() == Some(b"h2"),
            "no HTTP/2"
        );
        let client = http2::Client::new(stream, host, &self.token).await?;
        Ok(Client::Http2(client))
    }

    async fn connect_tls(&self) -> Result<TlsStream<TcpStream>> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        if let Some(authority) = &self.authority {
            let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(stream.read_u8().await?);
            }
            ensure!(answer.starts_with(b"HTTP/1.1 200"), "CONNECT was refused");
        }
        Ok(self
            .tls
            .connect(ServerName::try_from(HOST)?, stream)
            .await?)
    }

    /// So many clients that each do one thing at a time.
    async fn clients(&self, count: usize) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let client = match clients.first() {
                Some(Client::Http2(client)) => Client::Http2(client.clone()),
                Some(Client::Http1(_)) | None => self.connect().await?,
            };
            clients.push(client);
        }
        Ok(clients)
    }
}

impl Client {
    async fn small(&mut self) -> Result<()> {
        match self {
            Self::Http1(client) => client.small().await,
            Self::Http2(client) => client.small().await,
        }
    }

    async fn events(&mut self, seen: &mut Seen) -> Result<()> {
        match self {
            Self::Http1(client) => client.events(seen).await,
            Self::Http2(client) => client.events(seen).await,
        }
    }

    async fn down(&mut self, bytes: usize) -> Result<()> {
        match self {
            Self::Http1(client) => client.down(bytes).await,
            Self::Http2(client) => client.down(bytes).await,
        }
    }

    async fn up(&mut self, bytes: usize) -> Result<()> {
        match self {
            Self::Http1(client) => client.up(bytes).await,
            Self::Http2(client) => client.up(bytes).await,
        }
    }
}

pub(crate) async fn run(case: &str, seconds: f64, target: Target) -> Result<Value> {
    let time = Duration::from_secs_f64(seconds);
    match case {
        "one" => requests(target.clients(1).await?, time).await,
        "sixteen" => requests(target.clients(16).await?, time).await,
        "connect" => connections(&target, time).await,
        "events" => events(target.clients(LISTENERS).await?, time).await,
        "down" => bulk(target.connect().await?, time, true).await,
        "up" => bulk(target.connect().await?, time, false).await,
        _ => bail!("no such case: {case}"),
    }
}

async fn requests(clients: Vec<Client>, time: Duration) -> Result<Value> {
    let begun = Instant::now();
    let each = clients.into_iter().map(|mut client| async move {
        let mut times = Vec::new();
        while begun.elapsed() < time {
            let sent = Instant::now();
            client.small().await?;
            times.push(sent.elapsed().as_nanos() as u64);
        }
        Ok(times)
    });
    let times = together(each).await?;
    Ok(rate(times.concat(), begun.elapsed()))
}

async fn connections(target: &Target, time: Duration) -> Result<Value> {
    let begun = Instant::now();
    let targets = vec![target.clone(); DIALLERS];
    let each = targets.into_iter().map(|target| async move {
        let mut times = Vec::new();
        while begun.elapsed() < time {
            let sent = Instant::now();
            target.connect().await?.small().await?;
            times.push(sent.elapsed().as_nanos() as u64);
        }
        Ok(times)
    });
    let times = together(each).await?;
    Ok(rate(times.concat(), begun.elapsed()))
}

async fn events(clients: Vec<Client>, time: Duration) -> Result<Value> {
    let begun = Instant::now();
    let each = clients.into_iter().map(|mut client| async move {
        let mut seen = Seen::default();
        while begun.elapsed() < time {
            client.events(&mut seen).await?;
        }
        Ok(seen)
    });
    let (mut first, mut ages) = (Vec::new(), Vec::new());
    for seen in together(each).await? {
        first.extend(seen.first);
        ages.extend(seen.ages);
    }
    let count = first.len();
    let ([first_p50, first_p99], [p50, p99]) = (quantiles(first), quantiles(ages));
    Ok(
        json!({"count": count, "first_p50_us": first_p50, "first_p99_us": first_p99, "p50_us": p50, "p99_us": p99}),
    )
}

async fn bulk(mut client: Client, time: Duration, down: bool) -> Result<Value> {
    let begun = Instant::now();
    let mut bytes = 0;
    while begun.elapsed() < time {
        if down {
            client.down(BULK).await?;
        } else {
            client.up(BULK).await?;
        }
        bytes += BULK;
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(json!({"mb_s": bytes as f64 / 1e6 / seconds, "bytes": bytes}))
}

/// Runs all at once, each as a task of its own.
async fn together<F, T>(each: impl Iterator<Item = F>) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>> + 'static,
    T: 'static,
{
    let tasks: Vec<_> = each.map(spawn_local).collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await??);
    }
    Ok(all)
}

fn rate(times: Vec<u64>, elapsed: Duration) -> Value {
    let count = times.len();
    let rate = count as f64 / elapsed.as_secs_f64();
    let [p50, p99] = quantiles(times);
    json!({"rate": rate, "count": count, "p50_us": p50, "p99_us": p99})
}

/// Median and 99th percentile in microseconds.
fn quantiles(mut times: Vec<u64>) -> [Option<f64>; 2] {
    times.sort_unstable();
    let at = |part: usize| {
        let time = times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
        time.map(|time| *time as f64 / 1e3)
    };
    [at(50), at(99)]
}
