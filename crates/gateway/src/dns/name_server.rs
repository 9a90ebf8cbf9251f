//! One question to one name server of the host.
//!
//! Each goes out from a fresh connected socket (random port, source checked by the kernel) with a random id, over UDP
//! first and over TCP if the answer does not fit. A server that refuses EDNS is asked again without.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::resolv_conf::ResolvConf;
use super::resolver::{Answer, Question};
use super::server_reply::{EdnsUse, OwnQuestion, ServerReply, Trust};

/// What came of asking a server.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// An answer, positive or negative.
    Answered(Answer),
    /// It has none; another server may.
    Failed,
    /// It said nothing in time.
    Silent,
    /// It cannot be reached.
    Gone,
}

/// Asks `server`; ends within the settings' timeout and [`TCP_WAIT`], once more for each way of asking.
pub(crate) async fn ask(server: SocketAddr, question: &Question, settings: &ResolvConf) -> Outcome {
    let trust = if settings.trust_ad {
        Trust::VerifiedAnswers
    } else {
        Trust::Nothing
    };
    let mut edns = EdnsUse::Offered;
    let mut cut = false;
    for _ in 0..MAX_WAYS {
        let Ok(random) = getrandom::u32() else {
            return Outcome::Failed;
        };
        let own = OwnQuestion::new(question, random as u16, edns, trust);
        let Some(query) = own.to_bytes() else {
            return Outcome::Failed;
        };
        let asked = if cut || settings.use_tcp {
            timeout(TCP_WAIT, ask_stream(server, &own, &query)).await
        } else {
            timeout(settings.timeout, ask_datagram(server, &own, &query)).await
        };
        match asked {
            Ok(Ok(ServerReply::Full(answer))) => return Outcome::Answered(answer),
            Ok(Ok(ServerReply::Truncated)) if !cut => cut = true,
            Ok(Ok(ServerReply::WithoutEdns)) => edns = EdnsUse::Left,
            // It has spoken over UDP, so it is there.
            _ if cut => return Outcome::Failed,
            Ok(Ok(ServerReply::Truncated | ServerReply::Failed)) => return Outcome::Failed,
            Ok(Err(error)) if is_gone(&error) => return Outcome::Gone,
            Ok(Err(_)) => return Outcome::Failed,
            Err(_) => return Outcome::Silent,
        }
    }
    Outcome::Failed
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
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
    let mut buffer = vec![0; MAX_DATAGRAM];
    for _ in 0..MAX_STRAYS {
        let len = socket.recv(&mut buffer).await?;
        if let Some(reply) = question.read_reply(&buffer[..len]) {
            return Ok(reply);
        }
    }
    Ok(ServerReply::Failed)
}

async fn ask_stream(
    server: SocketAddr,
    question: &OwnQuestion,
    query: &[u8],
) -> io::Result<ServerReply> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(query.len()).map_err(|_| invalid())?;
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(len)];
    stream.read_exact(&mut reply).await?;
    question.read_reply(&reply).ok_or_else(invalid)
}

/// UDP or TCP, with EDNS or without.
const MAX_WAYS: usize = 4;

/// How long one server may take over TCP.
const TCP_WAIT: Duration = Duration::from_secs(4);

/// Larger than any datagram we ask for.
const MAX_DATAGRAM: usize = 4_096;

/// Replies to something else that are passed over: more are an attempt to guess our id.
const MAX_STRAYS: usize = 64;

#[cfg(test)]
mod tests;
