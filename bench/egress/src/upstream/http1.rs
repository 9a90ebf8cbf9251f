//! HTTP/1.1 by hand, so that the upstream costs little beside what is measured.

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{Asked, SMALL};
use crate::payload::{EVENT_PAUSE, EVENTS, PART, event, find};

pub(super) async fn serve(mut stream: TlsStream<TcpStream>) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut filled = 0;
    loop {
        let head = loop {
            if let Some(end) = find(&buffer[..filled], b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                len => filled += len,
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
        let path = text.split(' ').nth(1).unwrap_or_default();
        let asked = Asked::new(path, field(&text, "authorization").unwrap_or_default());
        let length = field(&text, "content-length").unwrap_or("0");
        let body: usize = length.parse()?;
        let mut left = body.saturating_sub(filled - head);
        let rest = head + (body - left);
        buffer.copy_within(rest..filled, 0);
        filled -= rest;
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => bail!("the body ended early"),
                len => left -= len.min(left),
            }
        }
        answer(&mut stream, asked, body).await?;
    }
}

async fn answer(stream: &mut TlsStream<TcpStream>, asked: Asked, body: usize) -> Result<()> {
    match asked {
        Asked::Events => events(stream).await?,
        Asked::Bytes(length) => {
            stream.write_all(head("200 OK", length).as_bytes()).await?;
            let mut left = length;
            while left > 0 {
                let part = left.min(PART.len());
                stream.write_all(&PART[..part]).await?;
                left -= part;
            }
        }
        Asked::Small => text(stream, "200 OK", SMALL).await?,
        Asked::Sink => text(stream, "200 OK", body.to_string().as_bytes()).await?,
        Asked::Unauthorised => text(stream, "401 Unauthorized", b"").await?,
    }
    Ok(stream.flush().await?)
}

fn head(status: &str, length: usize) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

async fn text(stream: &mut TlsStream<TcpStream>, status: &str, text: &[u8]) -> Result<()> {
    let answer = [head(status, text.len()).as_bytes(), text].concat();
    Ok(stream.write_all(&answer).await?)
}

async fn events(stream: &mut TlsStream<TcpStream>) -> Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut pause = tokio::time::interval(EVENT_PAUSE);
    for _ in 0..EVENTS {
        pause.tick().await;
        let event = event();
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        stream.write_all(chunk.as_bytes()).await?;
        stream.flush().await?;
    }
    Ok(stream.write_all(b"0\r\n\r\n").await?)
}

/// The value of a field; `name` is in lower case.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
