//! HTTP/1.1 by hand, so that the load costs little beside what is measured.

use std::time::Instant;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::Seen;
use crate::payload::{EVENTS, PART, find};

/// Bytes read at once.
const READ: usize = 128 * 1024;

pub(super) struct Client {
    stream: TlsStream<TcpStream>,
    /// What each request ends with.
    fields: String,
    small: String,
    buffer: Vec<u8>,
    filled: usize,
}

impl Client {
    pub(super) fn new(stream: TlsStream<TcpStream>, host: &str, token: &str) -> Self {
        let fields = format!("Host: {host}\r\nAuthorization: Bearer {token}\r\n");
        Self {
            stream,
            small: format!("GET /small HTTP/1.1\r\n{fields}\r\n"),
            fields,
            buffer: vec![0; READ],
            filled: 0,
        }
    }

    pub(super) async fn small(&mut self) -> Result<()> {
        self.stream.write_all(self.small.as_bytes()).await?;
        self.stream.flush().await?;
        ensure!(self.answer().await? == 200, "not what was asked for");
        Ok(())
    }

    pub(super) async fn events(&mut self, seen: &mut Seen) -> Result<()> {
        let begun = Instant::now();
        let accept = "Accept: text/event-stream\r\n";
        self.send("GET /events", accept).await?;
        self.head().await?;
        let mut received = self.buffer[..self.filled].to_vec();
        self.filled = 0;
        let mut count = 0;
        while count < EVENTS || find(&received, b"0\r\n\r\n").is_none() {
            count += seen.take_events(&mut received, begun, count == 0);
            if count < EVENTS || find(&received, b"0\r\n\r\n").is_none() {
                let len = self.stream.read(&mut self.buffer).await?;
                ensure!(len > 0, "the events ended early");
                received.extend_from_slice(&self.buffer[..len]);
            }
        }
        Ok(())
    }

    pub(super) async fn down(&mut self, bytes: usize) -> Result<()> {
        self.send(&format!("GET /bytes/{bytes}"), "").await?;
        ensure!(self.answer().await? == bytes, "bytes are missing");
        Ok(())
    }

    pub(super) async fn up(&mut self, bytes: usize) -> Result<()> {
        let length = format!("Content-Length: {bytes}\r\n");
        self.send("POST /sink", &length).await?;
        for _ in 0..bytes / PART.len() {
            self.stream.write_all(PART).await?;
        }
        self.stream.flush().await?;
        let told = self.answer().await?;
        ensure!(told == bytes.to_string().len(), "bytes are missing");
        Ok(())
    }

    async fn send(&mut self, line: &str, more: &str) -> Result<()> {
        let head = format!("{line} HTTP/1.1\r\n{}{more}\r\n", self.fields);
        self.stream.write_all(head.as_bytes()).await?;
        Ok(self.stream.flush().await?)
    }

    /// Reads the head of an answer and takes it away; gives it in lower case.
    async fn head(&mut self) -> Result<String> {
        let end = loop {
            if let Some(end) = find(&self.buffer[..self.filled], b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let text = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        ensure!(text.starts_with("http/1.1 200"), "answered {text:?}");
        self.buffer.copy_within(end..self.filled, 0);
        self.filled -= end;
        Ok(text)
    }

    /// Reads an answer to its end; gives its length.
    async fn answer(&mut self) -> Result<usize> {
        let head = self.head().await?;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let Some(length) = length else {
            ensure!(head.contains("chunked"), "an answer without length");
            return self.chunks().await;
        };
        let length: usize = length.trim().parse()?;
        let mut left = length.saturating_sub(self.filled);
        self.filled = 0;
        while left > 0 {
            let got = self.stream.read(&mut self.buffer).await?;
            ensure!(got > 0, "the answer ended early");
            left = left.saturating_sub(got);
        }
        Ok(length)
    }

    /// Reads a short chunked body to its end.
    async fn chunks(&mut self) -> Result<usize> {
        loop {
            if let Some(length) = whole_chunks(&self.buffer[..self.filled]) {
                self.filled = 0;
                return Ok(length);
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<()> {
        let room = &mut self.buffer[self.filled..];
        ensure!(!room.is_empty(), "too much to be held");
        let len = self.stream.read(room).await?;
        ensure!(len > 0, "the answer ended early");
        self.filled += len;
        Ok(())
    }
}

/// The length of what is in chunks, when the last one is there (RFC 9112 §7.1).
fn whole_chunks(mut bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    loop {
        let line = find(bytes, b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..line]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return bytes.get(line + 2..line + 4).map(|_| length);
        }
        length += size;
        bytes = bytes.get(line + 2 + size + 2..)?;
    }
}
