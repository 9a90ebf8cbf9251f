//! Opens TCP connections upstream.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream};

/// How long a connection may take to be accepted.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How the connections of a flow are made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Route {
    /// To this address.
    Direct(SocketAddr),
    /// To this port of the host's loopback, whichever family the service listens on.
    HostService(u16),
}

impl Route {
    /// The address it leads to, as it is judged and recorded.
    pub(crate) fn address(&self) -> IpAddr {
        match self {
            Self::Direct(target) => target.ip(),
            Self::HostService(_) => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

/// Connects as the route says.
pub(crate) async fn dial(route: &Route) -> Result<TcpStream, DialError> {
    match *route {
        Route::Direct(target) => connect(target).await,
        Route::HostService(port) => match connect((Ipv4Addr::LOCALHOST, port).into()).await {
            Err(refused @ DialError::Refused { .. }) => {
                let second = connect((Ipv6Addr::LOCALHOST, port).into()).await;
                second.map_err(|_also| refused)
            }
            connected => connected,
        },
    }
}

/// Connects with Nagle's algorithm off and keep-alive probes on, so that a vanished peer ends the flow.
async fn connect(target: SocketAddr) -> Result<TcpStream, DialError> {
    let connect = async {
        let socket = if target.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_nodelay(true)?;
        socket.set_keepalive(true)?;
        socket.connect(target).await
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(DialError::from_io(target, source)),
        Err(_elapsed) => Err(DialError::TimedOut { target }),
    }
}

/// Why a connection was not made. The gateway answers the guest accordingly.
#[derive(Debug, Error)]
pub enum DialError {
    /// Nobody listens there.
    #[error("{target} refused the connection")]
    Refused {
        /// Where to.
        target: SocketAddr,
    },
    /// There is no way there.
    #[error("{target} is unreachable")]
    Unreachable {
        /// Where to.
        target: SocketAddr,
    },
    /// No answer.
    #[error("{target} did not answer in time")]
    TimedOut {
        /// Where to.
        target: SocketAddr,
    },
    /// Anything else, such as too many open files.
    #[error("cannot connect to {target}")]
    Failed {
        /// Where to.
        target: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl DialError {
    fn from_io(target: SocketAddr, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match source.kind() {
            Kind::ConnectionRefused | Kind::ConnectionReset => Self::Refused { target },
            Kind::HostUnreachable | Kind::NetworkUnreachable => Self::Unreachable { target },
            Kind::TimedOut => Self::TimedOut { target },
            _ => Self::Failed { target, source },
        }
    }
}

/// Tells the addresses of this machine from others, whatever interface they are on, by asking the kernel to bind
/// them; nothing is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostAddresses {
    /// With `ip_nonlocal_bind` every address can be bound and the question has no answer.
    can_tell: bool,
}

impl HostAddresses {
    pub(crate) fn new() -> Self {
        let nobody = IpAddr::from([192, 0, 2, 1]);
        Self {
            can_tell: !can_bind(nobody),
        }
    }

    pub(crate) fn contain(self, address: IpAddr) -> bool {
        self.can_tell && can_bind(address)
    }
}

fn can_bind(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_addresses_of_this_machine() {
        let host = HostAddresses::new();
        assert!(host.contain(IpAddr::from([127, 0, 0, 1])));
        assert!(!host.contain(IpAddr::from([8, 8, 8, 8])));
    }

    #[tokio::test]
    async fn a_closed_port_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(
            connect(target).await,
            Err(DialError::Refused { .. })
        ));
    }

    #[tokio::test]
    async fn connections_have_nagle_off() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_service_of_the_host_is_found_in_either_family() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::TcpListener::bind(loopback).unwrap();
            let address = listener.local_addr().unwrap();
            let stream = dial(&Route::HostService(address.port())).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), address);
        }
    }
}
