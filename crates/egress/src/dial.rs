//! Opens TCP connections upstream.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::Duration;

use agent_vm_policy::{DenyReason, HostName};

use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream};

use crate::proxy::{self, Destination, ProxyServer};

/// How long a connection may take to be accepted.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How the connections of a flow are made.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// To this address.
    Direct(SocketAddr),
    /// To this port of the host's loopback, whichever family the service listens on.
    HostService(u16),
    /// Through a proxy, as if it were not there.
    Tunnel(Rc<ProxyServer>, Destination),
    /// To a proxy, which is sent whole requests of plain HTTP.
    Forward(Rc<ProxyServer>, Destination),
}

impl Route {
    /// The address it leads to, as it is judged and recorded.
    pub(crate) fn address(&self) -> IpAddr {
        match self {
            Self::Direct(target) => target.ip(),
            Self::HostService(_) => Ipv4Addr::LOCALHOST.into(),
            Self::Tunnel(_, to) | Self::Forward(_, to) => to.address.ip(),
        }
    }

    /// The proxy it leads through.
    pub(crate) fn proxy(&self) -> Option<&ProxyServer> {
        match self {
            Self::Direct(_) | Self::HostService(_) => None,
            Self::Tunnel(proxy, _) | Self::Forward(proxy, _) => Some(proxy),
        }
    }

    /// The proxy that whole requests are sent to.
    pub(crate) fn forwarder(&self) -> Option<&ProxyServer> {
        match self {
            Self::Forward(proxy, _) => Some(proxy),
            Self::Direct(_) | Self::HostService(_) | Self::Tunnel(..) => None,
        }
    }

    /// The same for something that is no plain HTTP.
    pub(crate) fn opaque(self) -> Self {
        match self {
            Self::Forward(proxy, to) => Self::Tunnel(proxy, to),
            route => route,
        }
    }

    /// The same for a host that is known to be meant.
    pub(crate) fn meant_for(mut self, host: &HostName) -> Self {
        if let Self::Tunnel(_, to) | Self::Forward(_, to) = &mut self {
            to.name = Some(host.clone());
        }
        self
    }
}

/// Connects as the route says.
pub(crate) async fn dial(route: &Route) -> Result<TcpStream, DialError> {
    match route {
        Route::Direct(target) => connect_to(*target).await,
        Route::Tunnel(proxy, to) => proxy::connect(proxy, to).await,
        Route::Forward(proxy, _) => proxy::forward_socket(proxy).await,
        Route::HostService(port) => match connect_to((Ipv4Addr::LOCALHOST, *port).into()).await {
            Err(refused @ DialError::Refused { .. }) => {
                let second = connect_to((Ipv6Addr::LOCALHOST, *port).into()).await;
                second.map_err(|_also| refused)
            }
            connected => connected,
        },
    }
}

/// Connects with Nagle's algorithm off and keep-alive probes on, so that a vanished peer ends the flow.
pub(crate) async fn connect_to(target: SocketAddr) -> Result<TcpStream, DialError> {
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
    /// The host's proxy made no connection.
    #[error("the proxy {proxy} made no connection: {answer}")]
    ProxyRefused {
        /// The proxy, without its login.
        proxy: String,
        /// What it answered.
        answer: String,
    },
    /// The host's proxy cannot be spoken to.
    #[error("the proxy {proxy} cannot be used")]
    ProxyUnusable {
        /// The proxy, without its login.
        proxy: String,
        /// Why.
        #[source]
        source: io::Error,
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
    /// What the audit log and the guest are told.
    pub(crate) fn reason(&self) -> DenyReason {
        match self {
            Self::ProxyRefused { .. } | Self::ProxyUnusable { .. } => DenyReason::ProxyRefused,
            Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Failed { .. } => DenyReason::UpstreamFailed,
        }
    }

    pub(crate) fn from_io(target: SocketAddr, source: io::Error) -> Self {
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
            connect_to(target).await,
            Err(DialError::Refused { .. })
        ));
    }

    #[tokio::test]
    async fn connections_have_nagle_off() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = connect_to(listener.local_addr().unwrap()).await.unwrap();
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
