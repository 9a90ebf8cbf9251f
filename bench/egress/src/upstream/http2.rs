//! HTTP/2 by hyper.

use std::convert::Infallible;

use anyhow::Result;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{Asked, SMALL};
use crate::payload::Payload;

/// Window of a stream and of a connection.
const WINDOWS: [u32; 2] = [4 * 1024 * 1024, 16 * 1024 * 1024];

pub(super) async fn serve(stream: TlsStream<TcpStream>) -> Result<()> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(WINDOWS[0])
        .initial_connection_window_size(WINDOWS[1]);
    let served = builder.serve_connection(TokioIo::new(stream), service_fn(answer));
    Ok(served.await?)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Payload>, Infallible> {
    let shown = request.headers().get(AUTHORIZATION);
    let shown = shown.and_then(|shown| shown.to_str().ok());
    let asked = Asked::new(request.uri().path(), shown.unwrap_or_default());
    let mut status = StatusCode::OK;
    let kind = match asked {
        Asked::Events => "text/event-stream",
        _ => "application/json",
    };
    let payload = match asked {
        Asked::Small => Payload::text(SMALL),
        Asked::Bytes(length) => Payload::Bytes(length),
        Asked::Events => Payload::events(),
        Asked::Sink => Payload::text(drain(request.into_body()).await.to_string()),
        Asked::Unauthorised => {
            status = StatusCode::UNAUTHORIZED;
            Payload::empty()
        }
    };
    let mut response = Response::new(payload);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// How much there was.
async fn drain(mut body: Incoming) -> usize {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |data| data.len());
    }
    bytes
}
