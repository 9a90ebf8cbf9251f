//! The upstream: `/small` answers 200 bytes, `/bytes/N` so many, `/sink` counts what it is sent, `/events` tells the time
//! ten times. Who does not show the real token is answered 401.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use crate::{REAL_TOKEN, tls};

mod http1;
mod http2;

/// What is asked for.
enum Asked {
    Small,
    Bytes(usize),
    Sink,
    Events,
    Unauthorised,
}

impl Asked {
    fn new(path: &str, authorization: &str) -> Self {
        let token = authorization.strip_prefix("Bearer ");
        match (path, path.strip_prefix("/bytes/")) {
            _ if token != Some(REAL_TOKEN) => Self::Unauthorised,
            ("/events", _) => Self::Events,
            ("/sink", _) => Self::Sink,
            (_, Some(length)) => Self::Bytes(length.parse().unwrap_or(0)),
            _ => Self::Small,
        }
    }
}

/// The answer to a small request.
const SMALL: &[u8] = &[b'x'; 200];

pub(crate) async fn run(directory: &Path) -> Result<()> {
    let mut config = tls::server(&directory.join("upstream.pem"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{} {REAL_TOKEN}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        spawn_local(async move {
            let _client_left = serve(stream, acceptor).await;
        });
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor) -> Result<()> {
    let stream = acceptor.accept(stream).await?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2::serve(stream).await
    } else {
        http1::serve(stream).await
    }
}
