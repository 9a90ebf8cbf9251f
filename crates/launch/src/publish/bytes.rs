//! TCP: accepts clients and carries their bytes, half-closes and resets.

use std::io;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Duration;

use agent_vm_protocol::PortProtocol;
use rustix::net::sockopt;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::mux::{Flow, Mux, Reset};

/// How long nothing is accepted after that did not work (too many open files).
const PAUSE: Duration = Duration::from_millis(100);

/// How long a client may take what its server said before it reset the connection.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Accepts clients of one port for ever. Their connections go on when this is dropped.
pub(super) async fn accept(listener: TcpListener, mux: Rc<Mux>, guest_port: u16) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let connection = serve(client, Rc::clone(&mux), guest_port);
                mux.connections.spawn(connection);
            }
            Err(error) => {
                tracing::debug!(%error, guest_port, "a client was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(mut client: TcpStream, mux: Rc<Mux>, guest_port: u16) {
    mux.room().await;
    let Some(flow) = mux.open(PortProtocol::Tcp, guest_port) else {
        return reset(client);
    };
    // Only a matter of speed.
    let _ = client.set_nodelay(true);
    let (read, write) = client.split();
    let both = async { tokio::try_join!(upward(&flow, read), downward(&flow, write)) };
    let given_up = async {
        flow.reset().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    let ended = tokio::select! {
        ended = both => ended.is_ok(),
        () = given_up => false,
    };
    if !ended {
        reset(client);
    }
}

/// The connection broke on either side.
struct Broken;

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl From<Reset> for Broken {
    fn from(_: Reset) -> Self {
        Self
    }
}

async fn upward(flow: &Flow, client: ReadHalf<'_>) -> Result<(), Broken> {
    loop {
        client.readable().await?;
        let room = flow.room().await;
        let mut scratch = flow.scratch();
        match client.try_read(&mut scratch[..room]) {
            Ok(0) => {
                flow.finish();
                return Ok(());
            }
            Ok(count) => flow.send(&scratch[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn downward(flow: &Flow, mut client: WriteHalf<'_>) -> Result<(), Broken> {
    while let Some(data) = flow.receive().await? {
        client.write_all(&data).await?;
        flow.grant(data.len());
    }
    Ok(client.shutdown().await?)
}

/// Closes it so that the client sees a reset.
fn reset(client: TcpStream) {
    // A plain close is the worst that follows.
    let _ = sockopt::set_socket_linger(client.as_fd(), Some(Duration::ZERO));
}
