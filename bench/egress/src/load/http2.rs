//! HTTP/2 by hyper, with windows that do not hold transfers up.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::header::AUTHORIZATION;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio_rustls::client::TlsStream;

use super::Seen;
use crate::payload::{EVENTS, Payload};

/// Window of a stream and of a connection.
const WINDOWS: [u32; 2] = [4 * 1024 * 1024, 16 * 1024 * 1024];

#[derive(Clone)]
pub(super) struct Client {
    sender: http2::SendRequest<Payload>,
    host: String,
    authorization: String,
}

impl Client {
    pub(super) async fn new(stream: TlsStream<TcpStream>, host: &str, token: &str) -> Result<Self> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(WINDOWS[0])
            .initial_connection_window_size(WINDOWS[1]);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        spawn_local(async move {
            let _broken_is_seen_by_requests = connection.await;
        });
        Ok(Self {
            sender,
            host: host.to_owned(),
            authorization: format!("Bearer {token}"),
        })
    }

    pub(super) async fn small(&mut self) -> Result<()> {
        let answer = self.send(Method::GET, "/small", Payload::empty()).await?;
        ensure!(drain(answer).await? == 200, "not what was asked for");
        Ok(())
    }

    pub(super) async fn events(&mut self, seen: &mut Seen) -> Result<()> {
        let begun = Instant::now();
        let mut answer = self.send(Method::GET, "/events", Payload::empty()).await?;
        let (mut received, mut count) = (Vec::new(), 0);
        while let Some(frame) = answer.body_mut().frame().await {
            if let Ok(data) = frame?.into_data() {
                received.extend_from_slice(&data);
            }
            count += seen.take_events(&mut received, begun, count == 0);
        }
        ensure!(count == EVENTS, "the events ended early");
        Ok(())
    }

    pub(super) async fn down(&mut self, bytes: usize) -> Result<()> {
        let path = format!("/bytes/{bytes}");
        let answer = self.send(Method::GET, &path, Payload::empty()).await?;
        ensure!(drain(answer).await? == bytes, "bytes are missing");
        Ok(())
    }

    pub(super) async fn up(&mut self, bytes: usize) -> Result<()> {
        let body = Payload::Bytes(bytes);
        let answer = self.send(Method::POST, "/sink", body).await?;
        let told = answer.into_body().collect().await?.to_bytes();
        ensure!(*told == *bytes.to_string().as_bytes(), "bytes are missing");
        Ok(())
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Payload,
    ) -> Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.host))
            .header(AUTHORIZATION, &self.authorization)
            .body(body)?;
        self.sender.ready().await.context("the connection ended")?;
        let answer = self.sender.send_request(request).await?;
        ensure!(
            answer.status() == StatusCode::OK,
            "answered {}",
            answer.status()
        );
        Ok(answer)
    }
}

async fn drain(answer: Response<Incoming>) -> Result<usize> {
    let mut body = answer.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len());
    }
    Ok(bytes)
}
