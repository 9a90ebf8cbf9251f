//! A blind relay: TLS ended and begun again, bytes copied, nothing looked at. The least that interception can cost. It
//! speaks upstream what its client offers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use crate::{HOST, REAL_TOKEN, tls};

/// Bytes carried at once, each way.
const BUFFER: usize = 64 * 1024;

/// One protocol's configurations, of both sides.
struct Sides {
    near: Arc<ServerConfig>,
    far: TlsConnector,
}

pub(crate) async fn run(directory: &Path, to: SocketAddr) -> Result<()> {
    let near = tls::server(&directory.join("relay.pem"))?;
    let far = tls::client(&directory.join("upstream.pem"))?;
    let of = |protocol: &[u8]| {
        let mut near: ServerConfig = near.clone();
        let mut far: ClientConfig = far.clone();
        near.alpn_protocols = vec![protocol.to_vec()];
        far.alpn_protocols = vec![protocol.to_vec()];
        Sides {
            near: Arc::new(near),
            far: TlsConnector::from(Arc::new(far)),
        }
    };
    let http = Arc::new([of(b"http/1.1"), of(b"h2")]);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{} {REAL_TOKEN}", listener.local_addr()?);
    loop {
        let (near, _) = listener.accept().await?;
        near.set_nodelay(true)?;
        let http = Arc::clone(&http);
        spawn_local(async move {
            let _either_left = carry(near, to, &http).await;
        });
    }
}

async fn carry(near: TcpStream, to: SocketAddr, http: &[Sides; 2]) -> std::io::Result<()> {
    let dialled = async {
        let far = TcpStream::connect(to).await?;
        far.set_nodelay(true)?;
        Ok(far)
    };
    let hello = LazyConfigAcceptor::new(Acceptor::default(), near);
    let (hello, far) = tokio::try_join!(hello, dialled)?;
    let offered = hello.client_hello().alpn();
    let offers_h2 = offered.is_some_and(|mut names| names.any(|name| name == b"h2"));
    let sides = &http[usize::from(offers_h2)];
    let host = ServerName::try_from(HOST).map_err(std::io::Error::other)?;
    let (mut near, mut far) = tokio::try_join!(
        hello.into_stream(Arc::clone(&sides.near)),
        sides.far.connect(host, far)
    )?;
    tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await?;
    Ok(())
}
