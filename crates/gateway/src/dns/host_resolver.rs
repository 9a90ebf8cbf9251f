//! The default resolver: asks the host's own name servers, as the host's programs would.
//!
//! Each question goes out from a fresh connected socket (random port, source checked by the kernel) with a random id,
//! over UDP first and over TCP if the answer does not fit. A reply counts only if it repeats the question. The servers
//! are asked in turn, twice at most.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::host_files::{HostsFile, name_servers};
use super::message::{OwnQuestion, ServerReply};
use super::resolver::{Answer, DnsFailure, Family, Resolver};
use crate::handler::LocalBoxFuture;

/// Resolves through the host's name servers and its hosts file.
#[derive(Debug)]
pub struct HostResolver {
    servers: Rc<[SocketAddr]>,
    hosts: HostsFile,
    in_flight: Rc<Cell<usize>>,
}

impl HostResolver {
    /// From the text of `/etc/resolv.conf` and of `/etc/hosts`; an empty text is as good as a missing file.
    #[must_use]
    pub fn new(resolv_conf: &str, hosts: &str) -> Self {
        Self::with_servers(name_servers(resolv_conf), hosts)
    }

    /// With name servers given by address and port.
    #[must_use]
    pub fn with_servers(servers: Vec<SocketAddr>, hosts: &str) -> Self {
        Self {
            servers: servers.into(),
            hosts: HostsFile::parse(hosts),
            in_flight: Rc::default(),
        }
    }
}

impl Resolver for HostResolver {
    fn resolve(
        &self,
        name: &str,
        family: Family,
    ) -> LocalBoxFuture<'static, Result<Answer, DnsFailure>> {
        if let Some(addresses) = self.hosts.lookup(name, family) {
            let ttl = HOSTS_TTL;
            return Box::pin(async move { Ok(Answer { addresses, ttl }) });
        }
        if name == "localhost" || name.ends_with(".localhost") {
            // RFC 6761 §6.3: never asked of a server.
            return Box::pin(async { Err(DnsFailure::NoSuchName) });
        }
        let servers = Rc::clone(&self.servers);
        let name = name.to_owned();
        let slot = Slot::take(&self.in_flight);
        Box::pin(async move {
            let Some(_slot) = slot else {
                return Err(DnsFailure::ServerFailure);
            };
            ask_all(&servers, &name, family).await
        })
    }
}

async fn ask_all(servers: &[SocketAddr], name: &str, family: Family) -> Result<Answer, DnsFailure> {
    for _ in 0..ROUNDS {
        for server in servers {
            let id = getrandom::u32().map_err(|_| DnsFailure::ServerFailure)? as u16;
            let question = OwnQuestion::new(name, family, id).ok_or(DnsFailure::Refused)?;
            match ask(*server, &question).await {
                Some(Err(DnsFailure::ServerFailure)) | None => {}
                Some(decided) => return decided,
            }
        }
    }
    Err(DnsFailure::ServerFailure)
}

async fn ask(server: SocketAddr, question: &OwnQuestion) -> Option<Result<Answer, DnsFailure>> {
    let query = question.to_bytes()?;
    let datagram = timeout(UDP_WAIT, ask_datagram(server, question, &query)).await;
    match datagram.ok()?.ok()? {
        ServerReply::Full(result) => Some(result),
        ServerReply::Truncated => {
            let stream = timeout(TCP_WAIT, ask_stream(server, question, &query)).await;
            match stream.ok()?.ok()? {
                ServerReply::Full(result) => Some(result),
                ServerReply::Truncated => None,
            }
        }
    }
}

async fn ask_datagram(
    server: SocketAddr,
    question: &OwnQuestion,
    query: &[u8],
) -> io::Result<ServerReply> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; MAX_REPLY];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if let Some(reply) = question.read_reply(&buffer[..len]) {
            return Ok(reply);
        }
    }
}

async fn ask_stream(
    server: SocketAddr,
    question: &OwnQuestion,
    query: &[u8],
) -> io::Result<ServerReply> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = u16::try_from(query.len())
        .map_err(|_| invalid())?
        .to_be_bytes()
        .to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(len)];
    stream.read_exact(&mut reply).await?;
    question.read_reply(&reply).ok_or_else(invalid)
}

/// A place among the questions in flight, given back on drop.
struct Slot(Rc<Cell<usize>>);

impl Slot {
    fn take(count: &Rc<Cell<usize>>) -> Option<Self> {
        if count.get() >= MAX_IN_FLIGHT {
            return None;
        }
        count.set(count.get() + 1);
        Some(Self(Rc::clone(count)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Time to live told for names of the hosts file.
const HOSTS_TTL: Duration = Duration::from_secs(60);

/// How often the list of servers is gone through.
const ROUNDS: usize = 2;

/// How long one server may take over UDP.
const UDP_WAIT: Duration = Duration::from_millis(2_500);

/// How long one server may take over TCP.
const TCP_WAIT: Duration = Duration::from_secs(4);

/// Larger than any datagram we ask for.
const MAX_REPLY: usize = 4_096;

/// Questions in flight at one time: each takes a socket.
const MAX_IN_FLIGHT: usize = 512;

#[cfg(test)]
mod tests;
