//! What is said to a proxy before the connection is the destination's.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_socks::tcp::Socks5Stream;

use super::{Destination, ProxyKind, ProxyServer};
use crate::dial::{DialError, connect_to};

/// How long a proxy may take in all: its name, its connection, and the destination's.
const PROXY_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer to a CONNECT request, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// Bytes looked at once.
const LOOK_BYTES: usize = 2048;

/// A connection to `destination` through the proxy.
pub(crate) async fn connect(
    proxy: &ProxyServer,
    destination: &Destination,
) -> Result<TcpStream, DialError> {
    let connected = async {
        let mut stream = reach(proxy).await?;
        tunnel(proxy, destination, &mut stream).await?;
        Ok(stream)
    };
    let target = destination.address;
    match timeout(PROXY_TIMEOUT, connected).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(DialError::TimedOut { target }),
    }
}

/// A connection to the proxy, for requests that it forwards.
pub(crate) async fn forward_socket(proxy: &ProxyServer) -> Result<TcpStream, DialError> {
    match timeout(PROXY_TIMEOUT, reach(proxy)).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(unusable(proxy, io::ErrorKind::TimedOut.into())),
    }
}

/// Turns a connection to the proxy into one to the destination.
pub(crate) async fn tunnel(
    proxy: &ProxyServer,
    destination: &Destination,
    stream: &mut TcpStream,
) -> Result<(), DialError> {
    let made = async {
        match proxy.kind {
            ProxyKind::Http => http_connect(proxy, destination, stream).await,
            ProxyKind::Socks5 | ProxyKind::Socks5h => socks(proxy, destination, stream).await,
        }
    };
    match timeout(PROXY_TIMEOUT, made).await {
        Ok(made) => made,
        Err(_elapsed) => Err(unusable(proxy, io::ErrorKind::TimedOut.into())),
    }
}

/// Connects to the first address of the proxy that can be.
async fn reach(proxy: &ProxyServer) -> Result<TcpStream, DialError> {
    let addresses = lookup_host((proxy.host.as_str(), proxy.port)).await;
    let addresses = addresses.map_err(|source| unusable(proxy, source))?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match connect_to(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = io::Error::other(error),
        }
    }
    Err(unusable(proxy, last))
}

fn unusable(proxy: &ProxyServer, source: io::Error) -> DialError {
    DialError::ProxyUnusable {
        proxy: proxy.to_string(),
        source,
    }
}

fn refused(proxy: &ProxyServer, answer: impl ToString) -> DialError {
    DialError::ProxyRefused {
        proxy: proxy.to_string(),
        answer: answer.to_string(),
    }
}

async fn http_connect(
    proxy: &ProxyServer,
    destination: &Destination,
    stream: &mut TcpStream,
) -> Result<(), DialError> {
    let authority = destination.authority();
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some(authorization) = proxy.authorization() {
        head += &format!("Proxy-Authorization: {}\r\n", authorization.expose());
    }
    head += "\r\n";
    let exchanged = async {
        stream.write_all(head.as_bytes()).await?;
        read_answer(stream).await
    };
    let answer = exchanged.await.map_err(|source| unusable(proxy, source))?;
    match status(&answer) {
        Some(200..=299) => Ok(()),
        Some(status) => Err(refused(proxy, status)),
        None => Err(unusable(proxy, io::ErrorKind::InvalidData.into())),
    }
}

/// The head of an answer, and not a byte of what follows it: bytes are only looked at until the end of the head is
/// among them.
async fn read_answer(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut seen = [0; LOOK_BYTES];
    while head.len() < MAX_ANSWER_BYTES {
        let length = stream.peek(&mut seen).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let known = head.len();
        head.extend_from_slice(&seen[..length]);
        let end = end_of_head(&head, known);
        let taken = end.map_or(length, |end| end - known);
        stream.read_exact(&mut seen[..taken]).await?;
        if let Some(end) = end {
            head.truncate(end);
            return Ok(head);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Where the empty line ends that ends a head; the bytes before `known` hold no whole one.
fn end_of_head(bytes: &[u8], known: usize) -> Option<usize> {
    let begin = known.saturating_sub(3);
    let ends = |at: &usize| bytes[..*at].ends_with(b"\r\n\r\n") || bytes[..*at].ends_with(b"\n\n");
    (begin..=bytes.len()).find(ends)
}

/// The status of a head (RFC 9112 §4).
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let (digits, after) = (rest.get(2..5)?, rest.get(5)?);
    let space = rest[0].is_ascii_digit() && rest[1] == b' ' && b" \r\n".contains(after);
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (space && digits.iter().all(u8::is_ascii_digit)).then_some(number)
}

async fn socks(
    proxy: &ProxyServer,
    destination: &Destination,
    stream: &mut TcpStream,
) -> Result<(), DialError> {
    let target = match (&destination.name, proxy.kind) {
        (Some(name), ProxyKind::Socks5h) => {
            tokio_socks::TargetAddr::Domain(name.as_str().into(), destination.address.port())
        }
        _ => tokio_socks::TargetAddr::Ip(destination.address),
    };
    let made = match &proxy.login {
        None => Socks5Stream::connect_with_socket(stream, target).await,
        Some(login) => {
            let password = login
                .password
                .as_ref()
                .map_or("", |password| password.expose());
            let user = login.user.expose();
            Socks5Stream::connect_with_password_and_socket(stream, target, user, password).await
        }
    };
    let Err(error) = made else {
        return Ok(());
    };
    let target = destination.address;
    Err(match error {
        tokio_socks::Error::ConnectionRefused => DialError::Refused { target },
        tokio_socks::Error::HostUnreachable | tokio_socks::Error::NetworkUnreachable => {
            DialError::Unreachable { target }
        }
        tokio_socks::Error::TtlExpired => DialError::TimedOut { target },
        tokio_socks::Error::Io(source) => unusable(proxy, source),
        other => refused(proxy, other),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_status_is_three_digits_of_an_http_1_answer() {
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Some(200)),
            ("HTTP/1.0 407\r\n\r\n", Some(407)),
            ("HTTP/1.1 2000 OK\r\n\r\n", None),
            ("HTTP/1.1 +20 OK\r\n\r\n", None),
            ("HTTP/2 200\r\n\r\n", None),
            ("ICY 200 OK\r\n\r\n", None),
            ("HTTP/1.", None),
            ("", None),
        ] {
            assert_eq!(status(head.as_bytes()), expected, "{head:?}");
        }
    }

    proptest! {
        #[test]
        fn the_end_of_a_head_is_found_under_any_cutting(cut in 0_usize..60, more in "[\\r\\n a]{0,12}") {
            let text = format!("HTTP/1.1 200 OK\r\nVia: x\r\n\r\n{more}");
            let whole = end_of_head(text.as_bytes(), 0);
            prop_assert_eq!(whole, Some(27));
            let cut = cut.min(26);
            prop_assert_eq!(end_of_head(&text.as_bytes()[..cut], 0), None);
            prop_assert_eq!(end_of_head(text.as_bytes(), cut), Some(27));
        }

        #[test]
        fn no_answer_makes_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), known in 0_usize..40) {
            let _ = status(&bytes);
            let _ = end_of_head(&bytes, known.min(bytes.len()));
        }
    }
}
